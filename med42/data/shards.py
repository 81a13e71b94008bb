"""Conversations on disk: Parquet shards, the rows left out with their reasons, and a manifest that accounts for all.

Rows come and go as Arrow tables, never one by one, and memory holds one shard at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from med42.data.memory import give_back
from med42.errors import Med42Error
from med42.lineage.digest import merkle_root

MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
KEPT = pyarrow.schema([("id", pyarrow.string()), ("source", pyarrow.string()), ("messages", MESSAGES)])
DROPPED = pyarrow.schema([(name, pyarrow.string()) for name in ("source", "place", "id", "reason")])

ROWS_PER_SHARD = 20_000
ROWS_PER_GROUP = 2_000  # what one worker reads at a time


@dataclass
class Shards:
    """Writes rows of one schema into numbered Parquet files of `rows_per_shard` rows, the last of what is left."""

    folder: Path
    schema: pyarrow.Schema
    rows_per_shard: int = ROWS_PER_SHARD
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _tables: list[pyarrow.Table] = field(default_factory=list)
    _waiting: int = 0
    _count: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add one row."""
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._gather()

    def add_table(self, table: pyarrow.Table) -> None:
        """Add the rows of a table."""
        while table.num_rows:
            taken = table.slice(0, self.rows_per_shard - self._waiting)
            self._tables.append(taken)
            self._waiting += taken.num_rows
            table = table.slice(taken.num_rows)
            if self._waiting == self.rows_per_shard:
                self._write()

    def flush(self) -> None:
        """Write what is held."""
        self._gather()
        if self._waiting:
            self._write()

    def _gather(self) -> None:
        if self._rows:
            self.add_table(pyarrow.Table.from_pylist(self._rows, schema=self.schema))
            self._rows = []

    def _write(self) -> None:
        write_shard(pyarrow.concat_tables(self._tables), self.folder, self._count)
        self._tables, self._waiting, self._count = [], 0, self._count + 1
        give_back()


def write_shard(table: pyarrow.Table, folder: Path, number: int) -> None:
    """Write one shard; the same bytes for the same rows, however they were pieced together."""
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table.combine_chunks(), folder / f"part-{number:05d}.parquet", compression="zstd",
                                row_group_size=ROWS_PER_GROUP)


class ConversationWriter:
    """Writes a conversations artifact and keeps its account: read = kept + dropped by reason."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept, self._dropped = Shards(folder, KEPT), Shards(folder / "dropped", DROPPED)
        self._accounts: dict[str, dict[str, Any]] = {}

    def keep(self, source: str, table: pyarrow.Table) -> None:
        """Keep conversations of one source (schema KEPT)."""
        self._kept.add_table(table)
        self.count(source, table.num_rows)

    def count(self, source: str, rows: int, repeated: int = 0) -> None:
        """Count conversations that are kept, of which some are repeats of others."""
        self._account(source)["kept"] += rows - repeated
        self._account(source)["repeated"] += repeated

    def drop(self, source: str, places: list[str], ids: list[str], reasons: list[str]) -> None:
        """Leave conversations out; a place says where one stood, an id is empty where there is no conversation."""
        if reasons:
            self._dropped.add_table(pyarrow.table([[source] * len(reasons), places, ids, reasons], schema=DROPPED))
            self._account(source)["dropped"].update(reasons)

    def close(self) -> dict[str, Any]:
        """Write what is left and the manifest; return the manifest."""
        self._kept.flush()
        self._dropped.flush()
        sources = {
            source: {"read": account["kept"] + account["dropped"].total(), "kept": account["kept"], "repeated": account["repeated"],
                     "dropped": dict(sorted(account["dropped"].items()))}
            for source, account in sorted(self._accounts.items())
        }
        # Read again from the disk: 32 bytes a row are much while workers hold memory too.
        digests = bytearray()
        for path in shard_paths(self.folder):
            digests += bytes.fromhex("".join(read_shard(path, ["id"])["id"].to_pylist()))
        manifest = {"rows": len(digests) // 32, "merkle_root": merkle_root(digests), "sources": sources}
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        return manifest

    def _account(self, source: str) -> dict[str, Any]:
        return self._accounts.setdefault(source, {"kept": 0, "repeated": 0, "dropped": Counter()})


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("part-*.parquet"))


def read_shard(path: Path, columns: list[str] | None = None, group: int | None = None) -> pyarrow.Table:
    """One shard, or one of its row groups, as a table.

    Raises:
        Med42Error: the file is not there, or is no Parquet file.
    """
    with _told_plainly(path), pyarrow.parquet.ParquetFile(path) as file:
        return file.read(columns=columns) if group is None else file.read_row_group(group, columns=columns)


def row_groups(path: Path) -> list[int]:
    """Rows in each row group of a shard."""
    with _told_plainly(path), pyarrow.parquet.ParquetFile(path) as file:
        return [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]


def read_shards(folder: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of every shard of a folder, in order."""
    for path in shard_paths(folder):
        for group in range(len(row_groups(path))):
            yield from read_shard(path, columns, group).to_pylist()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a conversations artifact."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


@contextmanager
def _told_plainly(path: Path) -> Iterator[None]:
    """Name the shard that cannot be read."""
    try:
        yield
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise Med42Error(path, f"a shard that cannot be read ({error})", "the Parquet file its record names",
                         "Make the artifact again.") from error
