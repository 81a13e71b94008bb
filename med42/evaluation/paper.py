"""The paper's tables as data, what follows from them, and what in them does not reproduce."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from med42.errors import Med42Error

FILE = Path(__file__).with_name("paper.yaml")
ROUNDED = 0.05 + 0.05  # an average of scores rounded to 0.1, itself rounded to 0.1, is off by at most this
TABLES = ("1", "2", "3", "4", "5")


@dataclass(frozen=True)
class Result:
    """One row of Table 4.

    Attributes:
        model: its name.
        scores: by column, in %; a column that the paper leaves empty is left out.
        printed: the printed average.
        note: what is to be said of the row.
    """

    model: str
    scores: dict[str, float]
    printed: float
    note: str

    @property
    def mean(self) -> float:
        """The plain mean of what is there."""
        return sum(self.scores.values()) / len(self.scores)


@functools.cache
def tables() -> dict[str, Any]:
    """The whole file."""
    told: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return told


def columns() -> list[str]:
    """Table 4's, by our names of the benchmarks."""
    return list(tables()["columns"])


@functools.cache
def results() -> dict[str, Result]:
    """Table 4, by model."""
    found = {}
    for row in tables()["table_4"]:
        scores = {name: score for name, score in zip(columns(), row["scores"], strict=True) if score is not None}
        found[row["model"]] = Result(row["model"], scores, row["average"], row.get("note", ""))
    return found


def base_of(model: str) -> str:
    """The model that one of the paper's own was made of.

    Raises:
        Med42Error: it is none of them.
    """
    bases = {row["model"]: row["base"] for row in tables()["table_1"]}
    if model not in bases:
        raise Med42Error("paper.model", f"'{model}'", f"one of Table 1: {', '.join(bases)}", "Name the model that the recipe follows.")
    return str(bases[model])


def gain(model: str, score: str) -> float | None:
    """How much a model of the paper's gains over its base, in points; of a column, or of the average of all seven.

    Returns:
        None where the paper has no such column.
    """
    ours, theirs = results()[model], results()[base_of(model)]
    if score == "average":
        return ours.mean - theirs.mean
    return ours.scores[score] - theirs.scores[score] if score in ours.scores else None


def what_does_not_reproduce() -> Iterator[str]:
    """What the tables contradict, in themselves or in the text, worked out from their numbers."""
    for row in results().values():
        if len(row.scores) < len(columns()):
            missing = ", ".join(name for name in columns() if name not in row.scores)
            yield (f"{row.model}: the average {row.printed} is the mean of {len(row.scores)} columns ({row.mean:.2f}); {missing} are "
                   "empty, so it does not compare with the others")
        elif abs(row.mean - row.printed) > ROUNDED:
            yield f"{row.model}: the printed average {row.printed} is not the mean of its columns, {row.mean:.2f}"
    for claim in tables()["claims"]:
        for model in claim["models"]:
            for against in filter(None, (_below(model, other) for other in claim["than"])):
                yield f"'{claim['says']}': {against}"
    for row in tables()["table_1"]:
        if against := _below(row["model"], row["base"]):
            yield f"not every column gains: {against}, its own base"
    table = tables()["table_5"]
    for domain in ("medical", "general"):
        listed = sum(row["samples"] for row in table["rows"] if row["domain"] == domain)
        if gap := table[domain]["samples"] - listed:
            yield (f"Table 5: the {domain} rows add up to {listed:,}; {table[domain]['samples']:,} is printed, so {gap:,} "
                   f"({100 * gap / table['total']:.2f}% of the mix) have no row")
    for row in table["rows"]:
        if abs(100 * row["samples"] / table["total"] - row["percent"]) > 0.0051:
            yield f"Table 5: {row['data']} is {100 * row['samples'] / table['total']:.2f}% of all, {row['percent']} is printed"


def _below(model: str, other: str) -> str:
    """Where one model scores less than another; empty where it nowhere does."""
    ours, theirs = results()[model].scores, results()[other].scores
    both = [name for name in columns() if name in ours and name in theirs]
    less = [f"{name} ({ours[name]} to {theirs[name]})" for name in both if ours[name] < theirs[name]]
    return f"on {', '.join(less)} {model} is below {other}" if less else ""
