"""Showing a finished artifact in a pipeline's user interface.

The outputs are whatever the pipeline engine hands a component: objects with a `path`, and `metadata` or
`log_metric`. This module needs no such engine.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Protocol

from med42.lineage.record import Record


class Output(Protocol):
    """An output artifact of a component."""

    path: str
    metadata: dict[str, Any]


class MetricsOutput(Output, Protocol):
    """An output that takes named numbers."""

    def log_metric(self, metric: str, value: float) -> None:
        """Log one number."""
        ...


def show(record: Record, artifact: Output, page: Output, metrics: MetricsOutput | None = None) -> None:
    """Attach what a person looks for: the kind and digest, the page, a few numbers."""
    artifact.metadata.update({"kind": record.kind, "digest": record.digest, "made_by_run": record.made.run,
                              "summary": str(record.measured.get("summary", ""))})
    Path(page.path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(artifact.path) / "page.html", page.path)
    if metrics is not None:
        log(metrics, numbers(record.measured))


def log(metrics: MetricsOutput, values: dict[str, float]) -> None:
    """Log several numbers."""
    for name, value in values.items():
        metrics.log_metric(name, value)


def numbers(measured: dict[str, Any]) -> dict[str, float]:
    """The plain numbers among measurements, scores included, under short names of letters, digits and underscores."""
    flat = {**measured, **measured.get("scores", {}), **measured.get("held_out", {})}
    return {name.replace("-", "_"): float(value)
            for name, value in flat.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
