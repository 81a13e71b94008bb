"""Putting conversations of many shards in the order of their keys with the memory of a few shards: an external sort.

First each shard's rows that are taken are sorted into a run on the disk; then each output shard is put together from its
stretch of every run. Both passes work on shards apart from one another, so they spread over the cores.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import pyarrow
import pyarrow.ipc

from med42.data.memory import give_back
from med42.data.parallel import ordered_map
from med42.data.shards import KEPT, ROWS_PER_GROUP, ROWS_PER_SHARD, read_shard, write_shard

FEW = 4  # shards that are not worth other processes

SORTED = pyarrow.schema([*KEPT, ("repeat", pyarrow.bool_()), ("key", pyarrow.uint64())])


@dataclass(frozen=True)
class Taken:
    """The rows of one shard that are taken, each as often as it stands here.

    Attributes:
        path: the shard.
        places: rows of the shard, int64.
        keys: what the rows are ordered by, uint64.
        repeats: whether a row is a further copy of one that is taken already.
    """

    path: Path
    places: numpy.ndarray
    keys: numpy.ndarray
    repeats: numpy.ndarray


def in_key_order(parts: list[Taken], scratch: Path, out: Path, workers: int | None = None) -> Iterator[pyarrow.Table]:
    """Write the taken rows into shards in the order of their keys, equal keys by id.

    Yields:
        `id`, `source` and `repeat` of each written shard's rows, in order.
    """
    total = sum(len(part.places) for part in parts)
    count = max(1, math.ceil(total / ROWS_PER_SHARD))
    # Keys are digests, evenly spread, so equal stretches of their range hold about equally many rows.
    bounds = numpy.array([(number << 64) // count for number in range(1, count)], dtype=numpy.uint64)
    few = len(parts) < FEW
    give_back()
    scratch.mkdir(parents=True, exist_ok=True)
    runs = [(part, scratch / f"run-{number:05d}.arrow") for number, part in enumerate(parts)]
    stretches = list(ordered_map(functools.partial(functools.partial, _sort_into_run, bounds), runs, workers, few))
    shards = [
        (number, [(path, int(cuts[number]), int(cuts[number + 1])) for (_, path), cuts in zip(runs, stretches, strict=True)])
        for number in range(count)
    ]
    return ordered_map(functools.partial(functools.partial, _put_together, out), shards, workers, few)


def _sort_into_run(bounds: numpy.ndarray, run: tuple[Taken, Path]) -> numpy.ndarray:
    """Write one sorted run; returns where in it each output shard begins, and its end."""
    # Of texts that are taken and sorted jemalloc keeps twice as much as it needs.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    part, path = run
    order = numpy.argsort(part.keys, kind="stable")
    keys = part.keys[order]
    rows = read_shard(part.path).cast(KEPT).combine_chunks()
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, SORTED) as writer:
        for start in range(0, len(order), ROWS_PER_GROUP):
            some = order[start : start + ROWS_PER_GROUP]
            taken = rows.take(part.places[some]).append_column("repeat", pyarrow.array(part.repeats[some]))
            writer.write_table(taken.append_column("key", pyarrow.array(part.keys[some])))
    del rows
    give_back()
    return numpy.concatenate([[0], numpy.searchsorted(keys, bounds), [len(keys)]])


def _put_together(out: Path, shard: tuple[int, list[tuple[Path, int, int]]]) -> pyarrow.Table:
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    number, stretches = shard
    tables = []
    for path, start, stop in stretches:
        if stop > start:
            with pyarrow.memory_map(str(path)) as file:  # only the pages of this stretch are read
                tables.append(pyarrow.ipc.open_file(file).read_all().slice(start, stop - start))
    rows = pyarrow.concat_tables(tables) if tables else SORTED.empty_table()
    rows = rows.sort_by([("key", "ascending"), ("id", "ascending"), ("repeat", "ascending")]).combine_chunks()
    if rows.num_rows:
        write_shard(rows.select(KEPT.names), out, number)
    told = rows.select(["id", "source", "repeat"])
    del rows, tables
    give_back()
    return told
