"""Sampled answers on disk: JSON lines, one a prompt.

`id` of the published pair that the prompt comes from, `prompt` (turns), `chosen` and `rejected` of that pair, `answers`; and, where
they are scored, `scores`, a number an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ANSWERS = "answers.jsonl"
SCORED = "scored.jsonl"


def write_answers(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write them in this order."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Read them in their order."""
    return [json.loads(line) for line in path.read_text().splitlines()]
