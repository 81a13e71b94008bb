"""The stage `pair_answers`: the best and the worst of a model's answers to each prompt become the round's pairs.

On disk it is what `build_preferences` makes, and the same checks hold; pairs held out for measuring stay the published ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from med42.data.answers import SCORED, read_answers
from med42.data.chat import Chat
from med42.data.conversation import Dropped
from med42.data.decontaminate import overlap_with
from med42.data.shards import read_shards
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record
from med42.preferences.build_preferences import HELD_OUT, PairWriter, searched
from med42.preferences.pair import Pair, pair_of
from med42.recipe import Recipe

SOURCE = "on-policy"


@stage
def pair_answers(recipe: Recipe, round_number: int, scored: Path, published: Path, base: Path, benchmarks: Path, out: Path,
                 job: Job) -> Record:
    """Make the pairs of one round (1-based).

    Args:
        recipe: the resolved recipe.
        round_number: which round of `dpo.rounds`.
        scored: answers of the model that the round starts from, with their scores.
        published: the round's published pairs, whose prompts were answered.
        base: the base model, for its tokenizer.
        benchmarks: the benchmark rows, which no pair may hold.
        out: folder to make.
        job: the run and its store.

    Raises:
        Med42Error: no pair is left.
    """
    if recipe.dpo.on_policy is None:
        raise Med42Error("dpo.on_policy", "none", "how answers are paired", "Set it, or train on the published pairs.")
    least = recipe.dpo.on_policy.least_margin
    plan = Plan(
        stage="pair_answers", name=f"pair_answers-{round_number}", kind="preferences",
        parameters={"least_margin": least, "max_length": recipe.dpo.max_length,
                    **recipe.mix.model_dump(include={"overlap_tokens", "overlap_question", "overlap_common"})},
        inputs={"scored": scored, "published": published, "base": base, "benchmarks": benchmarks}, layer="preferences",
        packages=("pyarrow", "tokenizers"))
    return produce(plan, out, job, lambda draft: _build(recipe, least, round_number, scored, published, base, benchmarks, draft))


def best_and_worst(row: dict[str, Any], least_margin: float) -> Pair | Dropped:
    """The answers with the highest and the lowest score, the first ones where several have it; or why they are no pair."""
    scores = row["scores"]
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    if len({answer.strip() for answer in row["answers"]}) == 1:
        return Dropped("all answers are equal")
    margin = scores[best] - scores[worst]
    if margin <= least_margin:
        return Dropped("best and worst are a tie")
    return pair_of(row["prompt"], row["answers"][best], row["answers"][worst], margin)


def _build(recipe: Recipe, least_margin: float, round_number: int, scored: Path, published: Path, base: Path, benchmarks: Path,
           draft: Path) -> Outcome:
    writer = PairWriter(recipe, Chat(base), draft)
    for row in read_shards(published / HELD_OUT):
        writer.take(row["source"], Pair(row["prompt"], row["chosen"], row["rejected"]), None, held_out=True)
    rows = read_answers(scored / SCORED)
    pairs: Iterator[Pair | Dropped] = (best_and_worst(row, least_margin) for row in rows)
    dropped = Counter[str]()
    for pair, hit in searched(overlap_with(read_shards(benchmarks), recipe.mix), pairs):
        reason = pair.reason if isinstance(pair, Dropped) else writer.take(SOURCE, pair, hit, held_out=False)
        if reason:
            dropped[reason] += 1
    account = {"read": len(rows), "kept": len(rows) - dropped.total(), "dropped": dict(sorted(dropped.items()))}
    return writer.finish({SOURCE: account}, round_number, draft, f"On-policy preferences of round {round_number}")
