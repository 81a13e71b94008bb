"""The stage `pack_data`: conversations become chunks of token ids that no document crosses.

Workers make tokens of the mix's row groups; this process appends them to one file (`packed.py`) and keeps two numbers of each
document, 16 bytes: its length and a digest to shuffle by. The chunks are planned on the lengths (`packing.py`). A chunk is
not padded.
"""

from __future__ import annotations

import functools
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from med42.data.chat import Chat, EncodedBatch, tokenizer_file
from med42.data.conversation import order
from med42.data.encoding import why_not_tiktoken
from med42.data.packed import PackedWriter
from med42.data.packing import ChunkPlan, OnlineBestFit, fewest_chunks, plan_chunks
from med42.data.parallel import ordered_map
from med42.data.shards import read_shard, row_groups, shard_paths
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job, Progress
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe
from med42.recipe.schema import Pack
from med42.report import page

SAMPLED_GROUPS, SAMPLED_ROWS = 16, 64  # row groups, and rows of each, on which tiktoken is compared
UNREADABLE = "dropped: the tokenizer gives up on it"
FATES = {"truncate": "truncated", "split": "split", "drop": "dropped: too long"}


@dataclass(frozen=True)
class RowGroup:
    """One row group of the mix.

    Attributes:
        path: its shard.
        number: its place in the shard.
        before: rows before it in the whole mix.
    """

    path: Path
    number: int
    before: int


@dataclass(frozen=True)
class Pieces:
    """Documents cut out of conversations.

    Attributes:
        tokens: int32; the signed tokens of all documents, one after another.
        lengths: int64 [documents].
        rows: int64 [documents]; the conversation that each comes from.
        numbers: int64 [documents]; 0 for a conversation's first piece, 1 for its second...
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    numbers: NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """What a worker makes of a row group.

    Attributes:
        pieces: the documents.
        keys: uint64 [documents]; digests to shuffle by.
        fates: conversations by what became of them.
        sizes: int64 [conversations]; tokens of each before anything was cut; 0 where the tokenizer gave up.
        sources: documents, tokens and tokens to learn of each source.
    """

    pieces: Pieces
    keys: NDArray[np.uint64]
    fates: Counter[str]
    sizes: NDArray[np.int64]
    sources: dict[str, NDArray[np.int64]]


@dataclass
class Account:
    """Sums over the blocks."""

    fates: Counter[str] = field(default_factory=Counter)
    sources: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    sizes: Counter[int] = field(default_factory=Counter)  # conversations by the power of two above their tokens
    tokens_read: int = 0

    def add(self, block: Block) -> None:
        """Count a block."""
        self.fates.update(block.fates)
        for source, numbers in block.sources.items():
            self.sources[source] = self.sources.get(source, np.zeros(3, np.int64)) + numbers
        powers = np.ceil(np.log2(np.maximum(block.sizes, 1))).astype(np.int64)
        self.sizes.update(dict(enumerate(np.bincount(powers).tolist())))
        self.tokens_read += int(block.sizes.sum())


@stage
def pack_data(recipe: Recipe, mix: Path, base: Path, out: Path, job: Job) -> Record:
    """Tokenise a mix with the base model's tokenizer and pack it into chunks.

    Raises:
        Med42Error: nothing is left to train on.
    """
    plan = Plan(
        stage="pack_data", kind="packed",
        parameters={"seed": recipe.seed, "pack": recipe.pack.model_dump(mode="json", exclude={"expected_tokens_per_row"})},
        inputs={"mix": mix, "base": base}, layer="data", packages=("numpy", "pyarrow", "tiktoken", "tokenizers"),
    )
    return produce(plan, out, job, lambda draft: _pack(recipe, mix, base, draft, job))


def fit_to_chunk(batch: EncodedBatch, chunk: int, rule: str) -> Pieces:
    """Conversations as documents of at most `chunk` tokens, by the recipe's rule for long ones.

    `truncate` keeps the first chunk, `split` cuts it into several documents, `drop` leaves it out. A piece without a token
    to learn is of no use and is left out too; its first token has nothing before it to be learned from.
    """
    ends = np.cumsum(batch.lengths)
    starts = ends - batch.lengths
    whole = np.ones_like(starts)
    counts = {"truncate": whole, "split": -(-batch.lengths // chunk), "drop": whole * (batch.lengths <= chunk)}[rule]
    rows = np.repeat(np.arange(len(starts)), counts)
    numbers = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = starts[rows] + numbers * chunk
    lengths = np.minimum(ends[rows] - first, chunk)
    learned = np.concatenate([np.zeros(1, np.int64), np.cumsum(batch.tokens >= 0)])
    useful = (lengths > 0) & (learned[first + lengths] > learned[np.minimum(first + 1, len(batch.tokens))])
    first, lengths, rows, numbers = first[useful], lengths[useful], rows[useful], numbers[useful]
    if lengths.sum() == len(batch.tokens):
        return Pieces(batch.tokens, lengths, rows, numbers)
    kept = np.zeros(len(batch.tokens) + 1, np.int8)
    kept[first] += 1
    kept[first + lengths] -= 1
    return Pieces(batch.tokens[np.cumsum(kept[:-1], dtype=np.int8).astype(np.bool_)], lengths, rows, numbers)


def tokenise(chat: Chat, settings: Pack, seed: int, group: RowGroup) -> Block:
    """The documents of one row group."""
    table, rule = read_shard(group.path, ["id", "source", "messages"], group.number), settings.too_long
    messages = table["messages"].combine_chunks()
    roles, contents = (messages.flatten().field(key).to_pylist() for key in ("role", "content"))
    turns = messages.value_lengths().to_numpy()
    batch, unreadable = _encode(chat, roles, contents, turns)
    pieces = fit_to_chunk(batch, settings.chunk, rule)
    used = np.bincount(pieces.rows, minlength=len(turns)) > 0
    long = batch.lengths > settings.chunk
    ids = table["id"].to_pylist()
    places = zip(pieces.rows.tolist(), pieces.numbers.tolist(), strict=True)
    names = [f"{ids[row]} {group.before + row + 1} {piece}" for row, piece in places]
    keys = np.frombuffer(b"".join(_key(seed, name) for name in names), ">u8").astype(np.uint64)
    fates = Counter({
        "whole": int((used & ~long).sum()), FATES[rule]: int((long & (used | (rule == "drop"))).sum()), UNREADABLE: unreadable,
        "dropped: no token to learn in the chunk": int((~used & ~(long & (rule == "drop"))).sum()) - unreadable,
    })
    return Block(pieces, keys, +fates, batch.lengths, _by_source(table["source"].combine_chunks().dictionary_encode(), pieces))


def _encode(chat: Chat, roles: list[str], contents: list[str], turns: NDArray[np.int32]) -> tuple[EncodedBatch, int]:
    """Conversations as tokens; none of those that the tokenizer gives up on, and how many they are."""
    try:
        return chat.encode_turns(roles, contents, turns.tolist()), 0
    except Med42Error:
        batches, unreadable, done = [], 0, 0
        for count in turns.tolist():
            try:
                batches.append(chat.encode_turns(roles[done : done + count], contents[done : done + count], [count]))
            except Med42Error:
                batches.append(EncodedBatch(np.empty(0, np.int32), np.zeros(1, np.int64)))
                unreadable += 1
            done += count
        return EncodedBatch(*(np.concatenate([getattr(batch, key) for batch in batches]) for key in ("tokens", "lengths"))), unreadable


def _key(seed: int, name: str) -> bytes:
    """The first 8 bytes of the digest that shuffles; two documents that share them keep their order."""
    return bytes.fromhex(order(seed, name)[:16])


def _by_source(sources: Any, pieces: Pieces) -> dict[str, NDArray[np.int64]]:
    ends = np.cumsum(pieces.lengths)
    learned = np.concatenate([np.zeros(1, np.int64), np.cumsum(pieces.tokens >= 0)])
    place = sources.indices.to_numpy()[pieces.rows]
    names = sources.dictionary.to_pylist()
    weights = (np.ones_like(place), pieces.lengths, learned[ends] - learned[ends - pieces.lengths])
    columns = [np.bincount(place, weight, len(names)) for weight in weights]
    return dict(zip(names, np.stack(columns, 1).astype(np.int64), strict=True))


def _worker(base: Path, fast: bool, settings: Pack, seed: int) -> Callable[[RowGroup], Block]:
    return functools.partial(tokenise, Chat(base, fast), settings, seed)


def row_groups_of(mix: Path) -> list[RowGroup]:
    """The row groups of a mix, in order."""
    groups, before = [], 0
    for path in shard_paths(mix):
        for number, rows in enumerate(row_groups(path)):
            groups.append(RowGroup(path, number, before))
            before += rows
    return groups


def _sample(groups: list[RowGroup]) -> list[str]:
    """Contents of the rows with the smallest digests in row groups all over the mix."""
    contents: list[str] = []
    for group in groups[:: max(1, len(groups) // SAMPLED_GROUPS)]:
        table = read_shard(group.path, ["id", "messages"], group.number)
        ids = table["id"].to_pylist()
        places = heapq.nsmallest(SAMPLED_ROWS, range(len(ids)), key=ids.__getitem__)
        contents += [message["content"].strip() for row in table["messages"].take(places).to_pylist() for message in row]
    return contents


def _pack(recipe: Recipe, mix: Path, base: Path, draft: Path, job: Job) -> Outcome:
    groups, clock = row_groups_of(mix), time.monotonic()
    reason = why_not_tiktoken(tokenizer_file(base), _sample(groups))
    progress = Progress(job, "pack_data", read_record(mix).measured["rows"], "conversations")
    work = functools.partial(_worker, base, not reason, recipe.pack, recipe.seed)
    measured = write_chunks(recipe.pack, ordered_map(work, groups), draft, progress.step)
    (draft / "page.html").write_text(_page(measured))
    observed = {
        "tokeniser": f"tokenizers, because {reason}" if reason else "tiktoken, whose ids of a sample of the mix are the same",
        "tokens_a_second": round((measured["tokens"] + measured["tokens_cut"]) / (time.monotonic() - clock)),
    }
    return Outcome({**measured, "summary": f"{measured['chunks']:,} chunks, fill {measured['fill']:.1%}"}, observed)


def write_chunks(settings: Pack, blocks: Iterator[Block], folder: Path, tell: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Write tokens as they come, then the chunks; return the account.

    Args:
        settings: the recipe's.
        blocks: what `tokenise` made of each row group, in order.
        folder: where to.
        tell: called with the number of conversations done.

    Raises:
        Med42Error: there is no document.
    """
    account, writer = Account(), PackedWriter(folder)

    def written() -> Iterator[Block]:
        for block in blocks:
            account.add(block)
            writer.add_documents(block.pieces.tokens, block.pieces.lengths)
            tell(account.fates.total())
            yield block

    numbers = (_stream if settings.plan == "streaming" else _plan)(written(), settings.chunk, writer, account)
    documents, tokens, learned = (int(column) for column in sum(account.sources.values(), np.zeros(3, np.int64)))
    told: dict[str, Any] = {
        "rows": account.fates.total(), "by_fate": dict(sorted(account.fates.items())), "documents": documents, "chunk": settings.chunk,
        **numbers, "tokens": tokens, "tokens_cut": account.tokens_read - tokens, "fill": tokens / (numbers["chunks"] * settings.chunk),
        "fill_bound": tokens / (numbers["fewest_chunks"] * settings.chunk), "supervised_tokens": learned,
        "by_source": {source: dict(zip(("documents", "tokens", "supervised_tokens"), columns.tolist(), strict=True))
                      for source, columns in sorted(account.sources.items())},
        "conversations_by_tokens": {str(2**power): count for power, count in sorted(account.sizes.items()) if count},
    }
    writer.close(told)
    return told


def _plan(blocks: Iterator[Block], chunk: int, writer: PackedWriter, account: Account) -> dict[str, int]:
    """Plan the chunks of all documents at once, and shuffle them: best fit puts long documents together."""
    lengths_of, keys_of = [], []
    for block in blocks:
        lengths_of.append(block.pieces.lengths)
        keys_of.append(block.keys)
    _assert_some(sum(map(len, lengths_of)), account)
    lengths, keys = np.concatenate(lengths_of), np.concatenate(keys_of)
    plan = plan_chunks(lengths, chunk)
    first = plan.members[plan.offsets[:-1]]
    writer.add_chunks(plan.reordered(np.lexsort((first, keys[first]))))
    return {"chunks": len(plan), "fewest_chunks": fewest_chunks(lengths, chunk)}


def _stream(blocks: Iterator[Block], chunk: int, writer: PackedWriter, account: Account) -> dict[str, int]:
    """Place the documents as they come. The mix is shuffled, so the chunks come in no order of lengths; none is kept in memory."""
    online, document, chunks, tokens = OnlineBestFit(chunk), 0, 0, 0
    for block in blocks:
        closed = []
        for length in block.pieces.lengths.tolist():
            if members := online.add(document, length):
                closed.append(members)
            document += 1
        writer.add_chunks(ChunkPlan.of(closed))
        chunks, tokens = chunks + len(closed), tokens + int(block.pieces.lengths.sum())
    _assert_some(document, account)
    rest = online.rest()
    writer.add_chunks(ChunkPlan.of(rest))
    return {"chunks": chunks + len(rest), "fewest_chunks": -(-tokens // chunk)}


def _assert_some(documents: int, account: Account) -> None:
    if not documents:
        raise Med42Error("pack", f"no document of {account.fates.total()} conversations left ({dict(account.fates)})", "at least one",
                         "Raise pack.chunk or change pack.too_long.")


def _page(told: dict[str, Any]) -> str:
    """What a person wants to see of packed chunks."""
    lead = f"{told['documents']:,} documents in {told['chunks']:,} chunks of {told['chunk']:,} tokens; fill {told['fill']:.2%}."
    by_source = told["by_source"].items()
    shares = [(source, numbers["supervised_tokens"] / max(1, numbers["tokens"])) for source, numbers in [*by_source, ("all", told)]]
    below = 0
    sizes: list[tuple[str, float, str]] = []
    for power, count in told["conversations_by_tokens"].items():
        sizes.append((f"{below + 1:,} to {int(power):,}", count, f"{count:,}"))
        below = int(power)
    blocks: list[Markup] = [
        page.heading("Fill"),
        page.bars(("", "", "share of the chunks"), [("filled", told["fill"], f"{told['fill']:.3%}"),
                                                    ("most possible", told["fill_bound"], f"{told['fill_bound']:.3%}")], full=1.0),
        page.paragraph(f"No plan can do with fewer than {told['fewest_chunks']:,} chunks.", "note"),
        page.heading("What became of the conversations"),
        page.bars(("fate", "", "conversations"), [(fate, count, f"{count:,}") for fate, count in told["by_fate"].items()]),
        page.paragraph(f"{told['tokens_cut']:,} of {told['tokens'] + told['tokens_cut']:,} tokens were left out.", "note"),
        page.heading("Tokens of a conversation"), page.bars(("tokens", "", "conversations"), sizes),
        page.heading("Tokens by source"),
        page.bars(("source", "", "tokens"), [(source, numbers["tokens"], f"{numbers['tokens']:,}") for source, numbers in by_source]),
        page.heading("Tokens that are learned"),
        page.bars(("source", "", "share of its tokens"), [(source, share, f"{share:.1%}") for source, share in shares], full=1.0),
    ]
    return page.page("Packed chunks", lead, blocks)
