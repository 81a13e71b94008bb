"""The stage `mix_data`: shares of each source, without benchmark text and without duplicates.

Every row is looked at once, side by side on the machine's cores; what is decided of it is a few numbers. Then the rows
that are taken are put in the order of their digests by an external sort. Memory holds some 40 bytes a row and a few shards.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.compute

from med42.data.decontaminate import Hit, Overlap, overlap_with
from med42.data.mix_page import SHOWN, Findings, Leak, NearPair, write_mix_pages
from med42.data.near_duplicates import duplicates_of, signatures
from med42.data.parallel import ordered_map
from med42.data.phi import merged_reports
from med42.data.prepare_source import PHI
from med42.data.quotas import quotas
from med42.data.row_sets import write_row_sets
from med42.data.shards import ConversationWriter, read_shard, read_shards, row_groups, shard_paths
from med42.data.shuffle import Taken, in_key_order
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job, Progress
from med42.lineage.record import Record, read_record
from med42.recipe import Recipe
from med42.recipe.parts import source_of, source_parts
from med42.recipe.schema import Dedup

CLEAN = 0
NOT_TAKEN = "not taken: the recipe's share is full"
FURTHER_PART = "duplicate inside the source"  # told by prepare_source, where one task prepares all of it
OTHER_SOURCE = "duplicate of a row of another source"
NEAR = "near duplicate"
SIGNATURES = "signatures"  # of all rows, on the disk while they are compared
MOST_TEXT = 2_000  # characters of a row that a report shows


@stage
def mix_data(recipe: Recipe, sources: list[Path], benchmarks: Path, out: Path, job: Job) -> Record:
    """Mix prepared sources into one training set.

    Which rows of a source are taken, and in which order the mix stands, is decided by their digests under the seed: adding
    or changing one source never changes which rows another gives, and parts of a source come to the same as the whole.

    Raises:
        Med42Error: a source's share cannot be met, nothing is left of a source, or more leaks remain than the recipe allows.
    """
    prepared = {read_record(path).name.removeprefix("prepare_source-"): path for path in sources}
    if missing := sorted(set(source_parts(recipe)) - prepared.keys()):
        raise Med42Error("sources", f"none prepared for {', '.join(missing)}", "one artifact for each source", "Run prepare_source for it.")
    parts: dict[str, list[Path]] = defaultdict(list)
    for part in source_parts(recipe):  # by name: what wins among duplicates may not depend on the order of the recipe's keys
        parts[source_of(part)].append(prepared[part])
    shares = {name: {"rows": source.rows, "weight": source.weight, "domain": source.domain} for name, source in recipe.sources.items()}
    plan = Plan(
        stage="mix_data", kind="conversations",
        parameters={"seed": recipe.seed, "mix": recipe.mix.model_dump(mode="json"), "shares": shares},
        inputs={f"source-{part}": prepared[part] for part in source_parts(recipe)} | {"benchmarks": benchmarks},
        layer="data", packages=("pyarrow", "numpy"),
    )
    return produce(plan, out, job, lambda draft: _mix(recipe, parts, benchmarks, draft, job))


@dataclass(frozen=True)
class Group:
    """A row group of a prepared source."""

    path: Path
    number: int
    start: int  # of its rows among all rows of all sources


@dataclass
class Rows:
    """What is known of every row of every source: a few numbers each, in the order of sources, parts and shards.

    Attributes:
        groups: where the rows lie.
        source: number of the row's source, uint16.
        key: the row's place in the order of its source under the seed, uint64. Made from its digest, as `mixed` is: rows that
            agree in both are the same (128 bits; two of 10**9 different rows do with a probability of 1.5e-21).
        mixed: its place in the order of the mix, uint64.
        size: characters of its turns, int32.
        verdict: CLEAN, or the number of a reason.
        reasons: the reasons by number.
    """

    names: list[str]
    groups: list[Group]
    source: numpy.ndarray
    key: numpy.ndarray
    mixed: numpy.ndarray
    size: numpy.ndarray
    verdict: numpy.ndarray
    reasons: list[str] = field(default_factory=lambda: ["clean"])

    def leave_out(self, rows: numpy.ndarray, reason: str) -> None:
        """Leave out rows that are clean so far."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        rows = rows[self.verdict[rows] == CLEAN]
        self.verdict[rows] = self.reasons.index(reason)

    def clean(self, source: int) -> numpy.ndarray:
        """Rows of a source that are clean, in the order of their keys."""
        rows = numpy.flatnonzero((self.source == source) & (self.verdict == CLEAN))
        return rows[numpy.argsort(self.key[rows], kind="stable")]

    def read(self, wanted: numpy.ndarray, column: str) -> Iterator[tuple[numpy.ndarray, list[Any]]]:
        """A column of some rows (ascending), read again from the disk: those of one row group after the other."""
        bounds = numpy.searchsorted(wanted, [group.start for group in self.groups]).tolist()
        for group, (start, stop) in zip(self.groups, itertools.pairwise([*bounds, len(wanted)]), strict=True):
            if mine := wanted[start:stop].tolist():
                table = read_shard(group.path, [column], group.number)
                yield wanted[start:stop], table.take([row - group.start for row in mine])[column].to_pylist()


def sort_key(seed: int, *words: object) -> int:
    """64 bits that shuffle by seed; adding a row never changes how the others compare."""
    text = "\x1f".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _mix(recipe: Recipe, parts: dict[str, list[Path]], benchmarks: Path, draft: Path, job: Job) -> Outcome:
    items = {item["id"]: item for item in read_shards(benchmarks)}
    overlap = overlap_with(items.values(), recipe.mix)
    rows = _survey(parts)
    scratch = draft / "scratch"
    scratch.mkdir()
    leaks = _judge(recipe, rows, overlap, scratch, job)
    pairs = _near_duplicates(recipe, rows, scratch)
    available = {name: len(rows.clean(number)) for number, name in enumerate(rows.names)}
    if bare := [name for name, count in available.items() if not count]:
        raise Med42Error(f"sources.{bare[0]}", "every row left out (duplicates or benchmark text)", "at least one row to train on",
                         f"See {parts[bare[0]][0]}/page.html, and the benchmarks of the recipe.")
    writer = ConversationWriter(draft)
    for shard in in_key_order(_take(recipe, rows, quotas(recipe, available)), scratch, draft):
        _count(writer, shard)
    shutil.rmtree(scratch)
    _account_for_the_rest(writer, rows)
    manifest = writer.close()
    write_row_sets(draft)
    left = _residue(draft, overlap)
    if len(left) > recipe.mix.residue:
        raise Med42Error("mix", f"{len(left):,} rows with benchmark text in the finished mix (as row {left[0]})",
                         f"at most {recipe.mix.residue:,}, the recipe's mix.residue", "Set mix.leaks to drop, or raise mix.residue.")
    phi = {name: merged_reports(json.loads((path / PHI).read_text()) for path in paths) for name, paths in parts.items()}
    found = Findings(items, leaks, _named(rows, pairs), _examples(rows, pairs), len(left), _lengths(rows), phi)
    gates = write_mix_pages(recipe, draft, manifest, found)
    total = manifest["rows"]
    medical = sum(manifest["sources"][name]["kept"] for name in parts if recipe.sources[name].domain == "medical") / total
    return Outcome({"rows": total, "medical_share": medical, "merkle_root": manifest["merkle_root"], "accounts": manifest["sources"],
                    **gates, "summary": f"{total:,} conversations, {medical:.1%} medical"})


def _survey(parts: dict[str, list[Path]]) -> Rows:
    """Where all rows lie, before any is looked at."""
    groups: list[Group] = []
    numbers: list[numpy.ndarray] = []
    start = 0
    for number, paths in enumerate(parts.values()):
        for shard in (shard for path in paths for shard in shard_paths(path)):
            for group, count in enumerate(row_groups(shard)):
                groups.append(Group(shard, group, start))
                numbers.append(numpy.full(count, number, dtype=numpy.uint16))
                start += count
    empty = numpy.zeros
    return Rows(list(parts), groups, numpy.concatenate([empty(0, numpy.uint16), *numbers]), empty(start, numpy.uint64),
                empty(start, numpy.uint64), empty(start, numpy.int32), empty(start, numpy.uint8))


@dataclass(frozen=True)
class Looked:
    """What a look at a row group found."""

    group: Group
    keys: numpy.ndarray
    mixed: numpy.ndarray
    sizes: numpy.ndarray
    hits: list[tuple[int, str, Hit, str]]
    signatures: numpy.ndarray | None


def _looking(seed: int, overlap: Overlap, dedup: Dedup) -> Callable[[Group], Looked]:
    def look(group: Group) -> Looked:
        table = read_shard(group.path, ["id", "messages"], group.number)
        ids = table["id"].to_pylist()
        turns = [[turn["content"] for turn in messages] for messages in table["messages"].to_pylist()]
        hits = [(place, ids[place], hit, "\n\n".join(turns[place])) for place, hit in enumerate(overlap.search(turns)) if hit]
        return Looked(
            group, numpy.array([sort_key(seed, row_id) for row_id in ids], dtype=numpy.uint64),
            numpy.array([sort_key(seed, f"mix {row_id}") for row_id in ids], dtype=numpy.uint64),
            numpy.array([sum(map(len, row)) for row in turns], dtype=numpy.int32), hits,
            signatures(turns) if dedup.near else None,
        )

    return look


def _judge(recipe: Recipe, rows: Rows, overlap: Overlap, scratch: Path, job: Job) -> list[Leak]:
    """Look at every row: fill in its numbers, leave out exact duplicates and leaks, keep the signatures on the disk."""
    found: list[tuple[int, Leak]] = []
    progress = Progress(job, "mix_data", len(rows.verdict), "rows")
    with (scratch / SIGNATURES).open("wb") as file:
        for looked in ordered_map(functools.partial(_looking, recipe.seed, overlap, recipe.mix.dedup), rows.groups):
            start, stop = looked.group.start, looked.group.start + len(looked.keys)
            rows.key[start:stop], rows.mixed[start:stop], rows.size[start:stop] = looked.keys, looked.mixed, looked.sizes
            source = rows.names[rows.source[start]]
            found += [(start + place, Leak(source, row_id, hit, text[:MOST_TEXT])) for place, row_id, hit, text in looked.hits]
            if looked.signatures is not None:
                looked.signatures.tofile(file)
            progress.step(stop)
    _leave_out_duplicates(rows)
    if recipe.mix.leaks == "drop":
        for row, leak in found:
            rows.leave_out(numpy.array([row]), f"overlaps benchmark {leak.hit.benchmark}")
    return [leak for _, leak in found]


def _leave_out_duplicates(rows: Rows) -> None:
    """Of equal rows keep the first: of the first source by name, and there in the order of its parts."""
    order = numpy.lexsort((rows.mixed, rows.key))  # stable: equal rows stay in their order
    key, mixed = rows.key[order], rows.mixed[order]
    again = numpy.zeros(len(order), dtype=bool)
    again[1:] = (key[1:] == key[:-1]) & (mixed[1:] == mixed[:-1])
    first = order[numpy.maximum.accumulate(numpy.where(again, 0, numpy.arange(len(order))))] if len(order) else order
    inside = again & (rows.source[order] == rows.source[first])
    rows.leave_out(order[inside], FURTHER_PART)
    rows.leave_out(order[again], OTHER_SOURCE)


def _near_duplicates(recipe: Recipe, rows: Rows, scratch: Path) -> list[tuple[int, int]]:
    """Leave out near duplicates; returns (row, the row it is near to) of each."""
    if not recipe.mix.dedup.near:
        return []
    clean = numpy.flatnonzero(rows.verdict == CLEAN)
    kept = duplicates_of(scratch / SIGNATURES, clean, rows.key, rows.size, recipe.mix.dedup)
    gone = numpy.flatnonzero(kept >= 0)
    rows.leave_out(clean[gone], NEAR)
    return [(int(clean[row]), int(clean[kept[row]])) for row in gone]


def _take(recipe: Recipe, rows: Rows, wanted: dict[str, int]) -> list[Taken]:
    """The rows that fill each source's share, with their places in the mix, shard by shard."""
    chosen: list[numpy.ndarray] = []
    passes: list[numpy.ndarray] = []
    for number, name in enumerate(rows.names):
        clean = rows.clean(number)
        places = numpy.arange(wanted[name])
        chosen.append(clean[places % len(clean)])
        passes.append(places // len(clean))
        rows.leave_out(clean[wanted[name] :], NOT_TAKEN)
    row, passed = numpy.concatenate(chosen), numpy.concatenate(passes)
    order = numpy.argsort(row, kind="stable")
    row, passed = row[order], passed[order]
    keys = rows.mixed[row]
    for again in numpy.flatnonzero(passed):
        keys[again] = sort_key(recipe.seed, f"mix {passed[again]} {keys[again]}")
    taken = []
    for path, groups in itertools.groupby(rows.groups, key=lambda group: group.path):
        start = next(groups).start
        stop = start + sum(row_groups(path))
        here = slice(numpy.searchsorted(row, start), numpy.searchsorted(row, stop))
        taken.append(Taken(path, row[here] - start, keys[here], passed[here] > 0))
    return taken


def _count(writer: ConversationWriter, shard: pyarrow.Table) -> None:
    for source in pyarrow.compute.unique(shard["source"]).to_pylist():
        mine = shard.filter(pyarrow.compute.equal(shard["source"], source))
        writer.count(source, mine.num_rows, pyarrow.compute.sum(mine["repeat"]).as_py())


def _account_for_the_rest(writer: ConversationWriter, rows: Rows) -> None:
    for number, name in enumerate(rows.names):
        gone = numpy.flatnonzero((rows.source == number) & (rows.verdict != CLEAN))
        for some, ids in rows.read(gone, "id"):
            writer.drop(name, [""] * len(some), ids, [rows.reasons[verdict] for verdict in rows.verdict[some]])


def _residue(mix: Path, overlap: Overlap) -> list[str]:
    """Ids of the rows of the finished mix that hold benchmark text: read again from what was written."""
    blocks = [(path, group) for path in shard_paths(mix) for group in range(len(row_groups(path)))]
    return [row_id for found in ordered_map(functools.partial(_searching, overlap), blocks) for row_id in found]


def _searching(overlap: Overlap) -> Callable[[tuple[Path, int]], list[str]]:
    def search(block: tuple[Path, int]) -> list[str]:
        table = read_shard(block[0], ["id", "messages"], block[1])
        turns = [[turn["content"] for turn in messages] for messages in table["messages"].to_pylist()]
        return [row_id for row_id, hit in zip(table["id"].to_pylist(), overlap.search(turns), strict=True) if hit]

    return search


def _named(rows: Rows, pairs: list[tuple[int, int]]) -> list[NearPair]:
    """The near duplicates, by their digests."""
    wanted = numpy.unique(numpy.array(pairs, dtype=numpy.int64))
    ids = {int(row): row_id for some, read in rows.read(wanted, "id") for row, row_id in zip(some, read, strict=True)}
    return [NearPair(rows.names[rows.source[row]], ids[row], rows.names[rows.source[kept]], ids[kept]) for row, kept in pairs]


def _examples(rows: Rows, pairs: list[tuple[int, int]]) -> list[tuple[str, str]]:
    """The texts of a few pairs, chosen by the order of the rows' keys."""
    some = sorted(pairs, key=lambda pair: int(rows.key[pair[0]]))[:SHOWN]
    wanted = numpy.unique(numpy.array(some, dtype=numpy.int64))
    texts = {int(row): "\n\n".join(turn["content"] for turn in turns)[:MOST_TEXT]
             for here, read in rows.read(wanted, "messages") for row, turns in zip(here, read, strict=True)}
    return [(texts[row], texts[kept]) for row, kept in some]


def _lengths(rows: Rows) -> dict[str, tuple[int, int, int]]:
    """Characters of the rows that are taken, by source: median, 95% and longest."""
    lengths = {}
    for number, name in enumerate(rows.names):
        sizes = rows.size[rows.clean(number)]
        lengths[name] = (int(numpy.median(sizes)), int(numpy.percentile(sizes, 95)), int(sizes.max())) if len(sizes) else (0, 0, 0)
    return lengths
