"""The scores that a decision is about, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from med42.lineage.record import Record

NORMAL_95 = 1.959963984540054  # the 97.5% point of the normal distribution


@dataclass(frozen=True)
class Score:
    """A benchmark's score: a share of right answers, its 95% interval, and of how many items (0 where that is not told)."""

    name: str
    value: float
    low: float
    high: float
    items: int


def scored(decision: Record, records: Mapping[str, Record]) -> list[Score]:
    """The scores of the model that a decision is about, by benchmark."""
    record = records.get(decision.inputs.get("scores", ""))
    return scores_of(record, records) if record else []


def scores_of(record: Record, records: Mapping[str, Record]) -> list[Score]:
    """The scores that one evaluation tells, with the intervals that it worked out from its questions; Wilson's where it told none."""
    told = record.measured.get("scores", {})
    accounts = records[record.inputs["benchmarks"]].measured.get("accounts", {}) if record.inputs.get("benchmarks") in records else {}
    found = []
    for name, value in sorted(told.items()) if isinstance(told, dict) else ():
        if isinstance(value, (int, float)):
            items = int(accounts.get(name, {}).get("kept", 0))
            found.append(Score(name, float(value), *(interval_of(record, name) or wilson(float(value), items)), items))
    return found


def interval_of(record: Record, name: str) -> tuple[float, float] | None:
    """The interval that an evaluation worked out for a benchmark, or for `average`; None where it tells none."""
    intervals = record.measured.get("intervals")
    ends = intervals.get(name) if isinstance(intervals, dict) else None
    if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(end, (int, float)) for end in ends):
        return None
    return float(ends[0]), float(ends[1])


def wilson(share: float, items: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share; from 0 to 1 where nothing was counted."""
    if not items:
        return 0.0, 1.0
    spread = NORMAL_95**2 / items
    middle, half = share + spread / 2, NORMAL_95 * math.sqrt(max(share * (1 - share), 0.0) / items + spread / (4 * items))
    return max((middle - half) / (1 + spread), 0.0), min((middle + half) / (1 + spread), 1.0)
