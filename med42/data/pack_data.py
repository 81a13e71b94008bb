"""The stage `pack_data`: conversations become chunks of token ids that no document crosses.

On disk: `part-*.parquet` with `input_ids` and `labels` (int32, -100 off the assistant's tokens) and
`seq_lengths`, the lengths of the documents that follow one another in the chunk. A chunk is not padded.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow

from med42.data.chat import Chat, Encoded
from med42.data.conversation import order
from med42.data.packing import best_fit_decreasing
from med42.data.shards import Shards, read_shards
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job, Progress
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe
from med42.report import page

INT32 = pyarrow.list_(pyarrow.int32())
CHUNKS = pyarrow.schema([("input_ids", INT32), ("labels", INT32), ("seq_lengths", INT32)])


@stage
def pack_data(recipe: Recipe, mix: Path, base: Path, out: Path, job: Job) -> Record:
    """Tokenise a mix with the base model's tokenizer and pack it into chunks.

    Raises:
        Med42Error: nothing is left to train on.
    """
    plan = Plan(
        stage="pack_data", kind="packed",
        parameters={"seed": recipe.seed, "pack": recipe.pack.model_dump(mode="json", exclude={"expected_tokens_per_row"})},
        inputs={"mix": mix, "base": base}, layer="data", packages=("pyarrow", "tokenizers"),
    )
    return produce(plan, out, job, lambda draft: _pack(recipe, mix, base, draft, job))


def fit_to_chunk(encoded: Encoded, chunk: int, rule: str) -> list[Encoded]:
    """A conversation as documents of at most `chunk` tokens, by the recipe's rule for long ones.

    `truncate` keeps the first chunk, `split` cuts it into several documents, `drop` leaves it out. A piece
    without a token to learn is of no use and is left out too.
    """
    if len(encoded.ids) <= chunk:
        pieces = [encoded]
    elif rule == "drop":
        pieces = []
    else:
        starts = range(0, len(encoded.ids) if rule == "split" else 1, chunk)
        pieces = [Encoded(encoded.ids[start : start + chunk], encoded.labels[start : start + chunk]) for start in starts]
    return [piece for piece in pieces if any(label >= 0 for label in piece.labels[1:])]


def _pack(recipe: Recipe, mix: Path, base: Path, draft: Path, job: Job) -> Outcome:
    chunk, rule = recipe.pack.chunk, recipe.pack.too_long
    chat, progress = Chat(base), Progress(job, "pack_data", read_record(mix).measured["rows"], "conversations")
    documents: list[Encoded] = []
    names: list[str] = []
    rows: Counter[str] = Counter()
    tokens = 0
    for done, row in enumerate(read_shards(mix), 1):
        encoded = chat.encode(row["messages"])
        tokens += len(encoded.ids)
        pieces = fit_to_chunk(encoded, chunk, rule)
        rows[_fate(len(encoded.ids) <= chunk, rule, bool(pieces))] += 1
        documents += pieces
        names += [f"{row['id']} {done} {piece}" for piece in range(len(pieces))]
        progress.step(done)
    if not documents:
        raise Med42Error("pack", f"no document of {sum(rows.values())} conversations left ({dict(rows)})", "at least one",
                         "Raise pack.chunk or change pack.too_long.")
    bins = best_fit_decreasing([len(document.ids) for document in documents], chunk)
    # Best fit puts long documents together; shuffle the chunks so that a step sees all lengths.
    bins.sort(key=lambda members: order(recipe.seed, names[members[0]]))
    shards = Shards(draft, CHUNKS, rows_per_shard=4096)
    for members in bins:
        shards.add({
            "input_ids": [number for index in members for number in documents[index].ids],
            "labels": [number for index in members for number in documents[index].labels],
            "seq_lengths": [len(documents[index].ids) for index in members],
        })
    shards.flush()
    packed = sum(len(document.ids) for document in documents)
    bound = -(-packed // chunk)
    account: dict[str, Any] = {
        "rows": rows.total(), "by_fate": dict(sorted(rows.items())), "documents": len(documents), "chunks": len(bins), "chunk": chunk,
        "tokens": packed, "tokens_cut": tokens - packed, "fill": packed / (len(bins) * chunk), "fill_bound": packed / (bound * chunk),
        "supervised_tokens": sum(label >= 0 for document in documents for label in document.labels),
    }
    (draft / "manifest.json").write_text(json.dumps(account, indent=1, sort_keys=True) + "\n")
    (draft / "page.html").write_text(page.page(
        "Packed chunks", f"{account['documents']:,} documents in {len(bins):,} chunks of {chunk:,} tokens; fill {account['fill']:.2%}.",
        [page.heading("Account"),
         page.table(("what", "count"), [(key.replace("_", " "), value) for key, value in account.items() if key != "by_fate"]),
         page.heading("What became of the conversations"),
         page.bars(("fate", "", "conversations"), [(fate, count, f"{count:,}") for fate, count in account["by_fate"].items()])],
    ))
    return Outcome({**account, "summary": f"{len(bins):,} chunks, fill {account['fill']:.1%}"})


def _fate(fits: bool, rule: str, used: bool) -> str:
    """What became of a conversation, for the account."""
    if not fits and rule == "drop":
        return "dropped: too long"
    if not used:
        return "dropped: no token to learn in the chunk"
    return "whole" if fits else {"truncate": "truncated", "split": "split"}[rule]
