"""What a long stage has done so far, item by item, in a file that outlives it: a killed stage goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from med42.lineage.artifact import Plan
from med42.lineage.digest import value_digest
from med42.lineage.journal import Job
from med42.lineage.provenance import code_digest
from med42.lineage.record import read_record


class DoneItems:
    """Results by their `id`, one JSON line each; a line that was being written when the stage was killed does not count.

    Attributes:
        found: the results, in the order in which they were added.
    """

    def __init__(self, plan: Plan, job: Job) -> None:
        """Read what an earlier attempt at the same plan has done; nothing where the job has no store."""
        identity = {"name": plan.name, "parameters": plan.parameters, "code": code_digest(plan.layer),
                    "inputs": {key: read_record(path).digest for key, path in plan.inputs.items()}}
        self._path = job.store / "unfinished" / f"{value_digest(identity)[:24]}.jsonl" if job.store else None
        self.found: dict[str, dict[str, Any]] = {}
        if self._path and self._path.is_file():
            whole, _, torn = self._path.read_bytes().rpartition(b"\n")
            if torn:
                os.truncate(self._path, len(whole) + bool(whole))
            for line in whole.splitlines():
                item = json.loads(line)
                self.found[item["id"]] = item

    def add(self, items: Iterable[dict[str, Any]]) -> None:
        """Keep some results, on the disk when this returns."""
        items = list(items)
        self.found |= {item["id"]: item for item in items}
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as handle:
                handle.write("".join(json.dumps(item) + "\n" for item in items).encode())
                handle.flush()
                os.fsync(handle.fileno())

    def discard(self) -> None:
        """Remove the file, once the stage has finished."""
        if self._path:
            self._path.unlink(missing_ok=True)
