"""The row sets of a finished mix: what is in it and from which source, what was left out and why, by digests alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from med42.data.shards import read_shard, shard_paths
from med42.lineage.row_set import LEFT_OUT, ROWS, write_row_set


def write_row_sets(mix: Path) -> None:
    """Write both sets beside the shards that they tell of; rows without a conversation have no digest and are in neither."""
    for folder, columns, name in ((mix, ["id", "source"], ROWS), (mix / "dropped", ["id", "source", "reason"], LEFT_OUT)):
        labels = sorted({label for path in shard_paths(folder) for label in _labels(path, columns[1:])})
        write_row_set(mix / name, labels, _digests(folder, columns, labels))


def _labels(path: Path, columns: list[str]) -> list[str]:
    return [": ".join(words) for words in zip(*(read_shard(path, columns)[name].to_pylist() for name in columns), strict=True)]


def _digests(folder: Path, columns: list[str], labels: list[str]) -> Iterator[tuple[bytes, list[int]]]:
    numbers = {label: number for number, label in enumerate(labels)}
    for path in shard_paths(folder):
        ids, told = read_shard(path, ["id"])["id"].to_pylist(), _labels(path, columns[1:])
        rows = [(row_id, numbers[label]) for row_id, label in zip(ids, told, strict=True) if row_id]
        yield bytes.fromhex("".join(row_id for row_id, _ in rows)), [number for _, number in rows]
