"""Conversations on disk: Parquet shards, the rows left out with their reasons, and a manifest that accounts for all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from med42.data.conversation import Conversation
from med42.errors import Med42Error
from med42.lineage.digest import merkle_root

MESSAGES = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
KEPT = pyarrow.schema([("id", pyarrow.string()), ("source", pyarrow.string()), ("messages", MESSAGES)])
DROPPED = pyarrow.schema([(name, pyarrow.string()) for name in ("source", "place", "id", "reason")])


@dataclass
class Shards:
    """Writes rows of one schema into numbered Parquet files of at most `rows_per_shard` rows."""

    folder: Path
    schema: pyarrow.Schema
    rows_per_shard: int = 50_000
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _count: int = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add one row."""
        self._rows.append(row)
        if len(self._rows) == self.rows_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._rows:
            self.folder.mkdir(parents=True, exist_ok=True)
            table = pyarrow.Table.from_pylist(self._rows, schema=self.schema)
            pyarrow.parquet.write_table(table, self.folder / f"part-{self._count:05d}.parquet", compression="zstd")
            self._count, self._rows = self._count + 1, []


class ConversationWriter:
    """Writes a conversations artifact and keeps its account: read = kept + dropped by reason."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept, self._dropped = Shards(folder, KEPT), Shards(folder / "dropped", DROPPED)
        self._ids: list[str] = []
        self._accounts: dict[str, dict[str, Any]] = {}

    def keep(self, source: str, row_id: str, messages: Conversation, repeat: bool = False) -> None:
        """Keep one conversation; a repeat of one that is kept already is counted apart."""
        self._kept.add({"id": row_id, "source": source, "messages": messages})
        self._ids.append(row_id)
        self._account(source)["repeated" if repeat else "kept"] += 1

    def drop(self, source: str, place: str, row_id: str, reason: str) -> None:
        """Leave one out; `place` says where it stood, `row_id` may be empty where there is no conversation."""
        self._dropped.add({"source": source, "place": place, "id": row_id, "reason": reason})
        self._account(source)["dropped"][reason] += 1

    def close(self) -> dict[str, Any]:
        """Write what is left and the manifest; return the manifest."""
        self._kept.flush()
        self._dropped.flush()
        sources = {
            source: {"read": account["kept"] + account["dropped"].total(), "kept": account["kept"], "repeated": account["repeated"],
                     "dropped": dict(sorted(account["dropped"].items()))}
            for source, account in sorted(self._accounts.items())
        }
        manifest = {"rows": len(self._ids), "merkle_root": merkle_root(self._ids), "sources": sources}
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        return manifest

    def _account(self, source: str) -> dict[str, Any]:
        return self._accounts.setdefault(source, {"kept": 0, "repeated": 0, "dropped": Counter()})


def read_shards(folder: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of every shard of a folder, in order."""
    paths = sorted(folder.glob("part-*.parquet"))
    for path in paths:
        try:
            with pyarrow.parquet.ParquetFile(path) as table:
                for batch in table.iter_batches(batch_size=4096, columns=columns):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise Med42Error(path, f"a shard that cannot be read ({error})", "the Parquet file its record names",
                             "Make the artifact again.") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a conversations artifact."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest
