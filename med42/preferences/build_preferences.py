"""The stage `build_preferences`: the pairs of one DPO round, and the pairs that every round is measured on.

On disk: `part-*.parquet` (and `held_out/part-*.parquet`) with `id`, `source`, `prompt` (turns), `chosen`,
`rejected`, and the token ids of the three, which are what `train_dpo` reads.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow

from med42.data.chat import Chat
from med42.data.conversation import Dropped, order
from med42.data.decontaminate import Hit, Overlap, overlap_with
from med42.data.families import find_family
from med42.data.pages import account_blocks
from med42.data.readers import Located, locate
from med42.data.row import ColumnError, Row
from med42.data.shards import MESSAGES, Shards, read_shards
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.digest import merkle_root
from med42.lineage.journal import Job
from med42.lineage.record import Record
from med42.lineage.row_set import ROWS, write_row_set
from med42.preferences.pair import Pair
from med42.recipe import Recipe
from med42.recipe.schema import PreferenceSource
from med42.report import page

INT32 = pyarrow.list_(pyarrow.int32())
PAIRS = pyarrow.schema([
    ("id", pyarrow.string()), ("source", pyarrow.string()), ("prompt", MESSAGES), ("chosen", pyarrow.string()),
    ("rejected", pyarrow.string()),
    ("prompt_ids", INT32), ("chosen_ids", INT32), ("rejected_ids", INT32),
])
HELD_OUT = "held_out"


class Converter(Protocol):
    """A module of `med42.preferences.sources`."""

    def pair(self, row: Row) -> Pair | Dropped:
        """A pair, or why there is none."""
        ...


@stage
def build_preferences(recipe: Recipe, round_number: int, base: Path, benchmarks: Path, out: Path, job: Job) -> Record:
    """Build the pairs of one round (1-based).

    Args:
        recipe: the resolved recipe.
        round_number: which round of `dpo.rounds`.
        base: the base model, for its tokenizer.
        benchmarks: the benchmark rows, which no pair may hold.
        out: folder to make.
        job: the run, its store, and where files are looked up.

    Raises:
        Med42Error: a set cannot be found or read, or no pair is left.
    """
    names = [*recipe.dpo.rounds[round_number - 1], *recipe.dpo.held_out]
    sources = {name: recipe.preferences[name] for name in names}
    located = {name: locate(recipe, f"preferences.{name}.origin", source.origin, job.data_root) for name, source in sources.items()}
    plan = Plan(
        stage="build_preferences", name=f"build_preferences-{round_number}", kind="preferences",
        parameters={
            "seed": recipe.seed, "sources": {name: source.model_dump(mode="json", exclude={"rows"}) for name, source in sources.items()},
            "held_out": recipe.dpo.held_out, "pinned": {name: place.pinned for name, place in located.items()},
            "max_length": recipe.dpo.max_length,
            **recipe.mix.model_dump(include={"overlap_tokens", "overlap_question", "overlap_common"}),
        },
        inputs={"base": base, "benchmarks": benchmarks}, layer="preferences", packages=("pyarrow", "tokenizers"),
    )
    return produce(plan, out, job, lambda draft: _build(recipe, round_number, located, base, benchmarks, draft))


def find_converter(family: str, name: str) -> Converter:
    """The converter of a preference family.

    Raises:
        Med42Error: there is none of that name.
    """
    return cast(Converter, find_family("med42.preferences.sources", family, f"preferences.{name}"))


class PairWriter:
    """Pairs that pass every check, and the account of those that do not."""

    def __init__(self, recipe: Recipe, chat: Chat, draft: Path) -> None:
        self.recipe, self.chat = recipe, chat
        self.shards = {False: Shards(draft, PAIRS), True: Shards(draft / HELD_OUT, PAIRS)}
        self.seen: set[str] = set()
        self.held_out_prompts: set[str] = set()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.lengths: list[tuple[int, int]] = []

    def take(self, name: str, pair: Pair, hit: Hit | None, held_out: bool) -> str | None:
        """Write a pair; or say why not. A hit is the benchmark text that it holds, if any."""
        prompt = json.dumps(pair.prompt)
        if pair.id in self.seen:
            return "duplicate pair"
        if not held_out and prompt in self.held_out_prompts:
            return "prompt is held out for measuring"
        if hit:
            return f"overlaps benchmark {hit.benchmark}"
        prompt_ids, chosen_ids, rejected_ids = self.chat.prompt(pair.prompt), self.chat.answer(pair.chosen), self.chat.answer(pair.rejected)
        if len(prompt_ids) >= self.recipe.dpo.max_length:
            return "prompt alone reaches dpo.max_length"
        if len(prompt_ids) + max(len(chosen_ids), len(rejected_ids)) > self.recipe.dpo.max_length:
            return "longer than dpo.max_length"
        self.seen.add(pair.id)
        self.shards[held_out].add({
            "id": pair.id, "source": name, "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected,
            "prompt_ids": prompt_ids, "chosen_ids": chosen_ids, "rejected_ids": rejected_ids,
        })
        if held_out:
            self.held_out_prompts.add(prompt)
        else:
            self.ids.append(pair.id)
            self.sources.append(name)
            self.lengths.append((len(chosen_ids), len(rejected_ids)))
        return None

    def finish(self, accounts: dict[str, Any], round_number: int, draft: Path, title: str) -> Outcome:
        """Write what is left, the manifest and the page.

        Raises:
            Med42Error: no pair is left.
        """
        for shards in self.shards.values():
            shards.flush()
        if not self.ids:
            raise Med42Error(f"dpo.rounds, round {round_number}", f"no pair left ({accounts})", "at least one pair",
                             "Check its preference sources.")
        chosen, rejected = (sum(lengths) / len(self.lengths) for lengths in zip(*self.lengths, strict=True))
        longer = sum(one > other for one, other in self.lengths) / len(self.lengths)
        measured: dict[str, Any] = {
            "pairs": len(self.ids), "merkle_root": merkle_root(self.ids), "accounts": accounts,
            "mean_chosen_tokens": chosen, "mean_rejected_tokens": rejected, "share_chosen_longer": longer,
            "held_out_pairs": len(self.seen) - len(self.ids),
        }
        names = sorted(set(self.sources))
        write_row_set(draft / ROWS, names, iter([(bytes.fromhex("".join(self.ids)), [names.index(source) for source in self.sources])]))
        (draft / "manifest.json").write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")
        (draft / "page.html").write_text(page.page(
            title,
            f"{len(self.ids):,} pairs; answers of {chosen:.0f} tokens are preferred to answers of {rejected:.0f} (means), "
            f"and {longer:.0%} of the chosen ones are the longer ones.",
            account_blocks({"sources": accounts, "merkle_root": measured["merkle_root"]}),
        ))
        return Outcome({**measured, "summary": f"{len(self.ids):,} pairs"})


def _build(recipe: Recipe, round_number: int, located: dict[str, Located], base: Path, benchmarks: Path, draft: Path) -> Outcome:
    overlap = overlap_with(read_shards(benchmarks), recipe.mix)
    writer = PairWriter(recipe, Chat(base), draft)
    accounts: dict[str, Any] = {}
    # Held-out sets first: their prompts are then known when the round's pairs are read.
    for name in sorted(located, key=lambda name: (name not in recipe.dpo.held_out, name)):
        kept, dropped = 0, Counter[str]()
        for pair, hit in searched(overlap, _shuffled(recipe, name, located[name])):
            reason = pair.reason if isinstance(pair, Dropped) else writer.take(name, pair, hit, name in recipe.dpo.held_out)
            dropped[reason or ""] += bool(reason)
            kept += not reason
        reasons = {reason: count for reason, count in sorted(dropped.items()) if count}
        accounts[name] = {"read": kept + sum(reasons.values()), "kept": kept, "dropped": reasons}
    return writer.finish(accounts, round_number, draft, f"Preferences of round {round_number}")


def _shuffled(recipe: Recipe, name: str, place: Located) -> Iterator[Pair | Dropped]:
    """Pairs in digest order under the seed; the other parts of a divided set come as dropped."""
    source = recipe.preferences[name]
    converter = find_converter(source.family, name)
    pairs: list[Pair] = []
    for where, row in place.rows():
        try:
            result = converter.pair(row)
        except ColumnError as error:
            raise Med42Error(f"{where}, column '{error.column}'", error.found, error.expected,
                             f"The file is not in the form of preferences.{name}.") from error
        if isinstance(result, Dropped):
            yield result
        elif _in_part(result, source):
            pairs.append(result)
        else:
            yield Dropped("belongs to another round")
    yield from sorted(pairs, key=lambda pair: order(recipe.seed, pair.id))


def searched(overlap: Overlap, pairs: Iterator[Pair | Dropped]) -> Iterator[tuple[Pair | Dropped, Hit | None]]:
    """Each pair with the benchmark text that it holds, if any; they are searched many at a time."""
    while some := list(itertools.islice(pairs, 2_000)):
        yield from zip(some, overlap.search([[] if isinstance(pair, Dropped) else _texts(pair) for pair in some]), strict=True)


def _texts(pair: Pair) -> list[str]:
    return [*(turn["content"] for turn in pair.prompt), pair.chosen, pair.rejected]


def _in_part(pair: Pair, source: PreferenceSource) -> bool:
    return source.part is None or int(pair.id[:16], 16) % source.part.of == source.part.index - 1
