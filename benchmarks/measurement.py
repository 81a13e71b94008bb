"""What a benchmark prints: our number beside the peer's, of one run on this machine."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    Attributes:
        name: what was measured.
        ours: our number.
        peer: the other's, where there is one.
        ratio: ours over the peer's.
        goal: what the ratio, or our number where there is no peer to beat, should reach at least.
        unit: of the numbers.
        met: whether it does.
    """

    name: str
    ours: float
    peer: float | None
    ratio: float | None
    goal: float | None
    unit: str
    met: bool | None


def show(found: list[Measurement], peer: str, as_json: bool) -> None:
    """Print the machine and a table, or one object a line.

    Args:
        found: the measurements.
        peer: whose numbers stand beside ours.
        as_json: whether to print objects; the machine is then told on standard error.
    """
    print(machine(), file=sys.stderr if as_json else sys.stdout)
    print("\n".join(json.dumps(asdict(one)) for one in found) if as_json else table(found, peer))


def machine() -> str:
    """The processor, its cores and its memory."""
    try:
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    except OSError:
        model = memory = None
    size = f", {int(memory[1]) / 2**20:.0f} GiB" if memory else ""
    return f"{model[1] if model else platform.processor()}, {len(os.sched_getaffinity(0))} cores{size}, Python {platform.python_version()}"


def table(found: list[Measurement], peer: str) -> str:
    """The measurements, one a line."""
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"

    lines = [("what", "ours", peer, "ratio", "goal", "unit", "")]
    lines += [(one.name, number(one.ours), number(one.peer), number(one.ratio), number(one.goal), one.unit,
               {True: "met", False: "NOT met", None: ""}[one.met]) for one in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) if place in (0, 5, 6) else cell.rjust(width)
                               for place, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() for line in lines)
