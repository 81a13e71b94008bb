"""Scores: from answers to marks, from marks to scores with their intervals, and reading a scores artifact again.

On disk a scores artifact holds `items.parquet` (every question of this model and of the models before it: the log-likelihood of
every answer in every form, which one is preferred, whether that is right), `scores.json` and `protocol.json`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.evaluation.intervals import (
    Interval,
    Marks,
    average_interval,
    calibration,
    difference_interval,
    mcnemar,
    mean_of,
    score_interval,
    wilson,
)

ITEMS, SCORES, LOCK = "items.parquet", "scores.json", "protocol.json"
SEVEN = ("med42_mmlu_pro", "med42_mmlu", "med42_medmcqa", "med42_medqa", "med42_usmle", "med42_pubmedqa", "med42_toxigen")
PATIENT = re.compile(r"\b\d{1,3}[- ]?(year|month|week|day)s?[- ]old\b", re.IGNORECASE)
NEGATED = re.compile(r"\b(except|not|least|false|incorrect)\b", re.IGNORECASE)

Item = dict[str, Any]


def question_type(item: Item) -> str:
    """What kind of question an item is, by its words."""
    if not item["lettered"]:
        return "answered in words"
    if PATIENT.search(item["question"]):
        return "about a patient"
    return "asks for the exception" if NEGATED.search(item["question"]) else "other"


def marks_of(items: Iterable[Item], by: str = "") -> Marks:
    """Right or not, in the order of ids, by the values of a column; one group without it."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for item in sorted(items, key=lambda item: str(item["id"])):
        groups[str(item[by]) if by else ""].append(bool(item["correct"]))
    return dict(sorted(groups.items()))


def benchmark_score(items: list[Item], mean_of_subjects: bool) -> dict[str, Any]:
    """One benchmark's score with its interval, by subject and type, in every form and normalisation, and how sure the model was."""
    marks = marks_of(items, "subject" if mean_of_subjects else "")
    interval = score_interval(marks)
    ways = {way for item in items for way in item["ways"]}
    confidences, right = [item["confidence"] for item in items], [item["correct"] for item in items]
    told = {
        "score": interval.value, "low": interval.low, "high": interval.high, "items": len(items),
        "by_subject": _by(items, "subject"), "by_type": _by(items, "type"),
        "ways": {way: mean_of(marks_of(
            [{**item, "correct": item["ways"].get(way, item["correct"])} for item in items], "subject" if mean_of_subjects else ""))
            for way in sorted(ways)},
        "calibration": calibration(confidences, right),
    }
    hateful = [item for item in items if item["hateful"]]
    return told | ({"missed_hate": 1 - sum(item["correct"] for item in hateful) / len(hateful)} if hateful else {})


def without_knowledge(items: list[Item]) -> dict[str, float]:
    """What answering at random scores, and what always giving the same (most frequent) answer scores."""
    same = Counter(item["right"] if item["lettered"] else item["options"][item["right"]] for item in items)
    return {"guessing": sum(1 / len(item["options"]) for item in items) / len(items), "same_answer": max(same.values()) / len(items)}


def averaged(lock: dict[str, Any]) -> list[str]:
    """Benchmarks that count in the average."""
    return [name for name, benchmark in lock["benchmarks"].items() if benchmark["in_average"]]


def average_name(lock: dict[str, Any]) -> str:
    """'average' where it is the plain mean of the paper's seven columns; else what it is the mean of."""
    tasks = [lock["benchmarks"][name]["task"] for name in averaged(lock)]
    return "average" if sorted(tasks) == sorted(SEVEN) else f"mean of {len(tasks)}"


@dataclass(frozen=True)
class Scores:
    """Models that answered the same questions under one lock.

    Attributes:
        where: the artifact, for errors.
        lock: the protocol.
        items: by label, then by benchmark.
    """

    where: Path
    lock: dict[str, Any]
    items: dict[str, dict[str, list[Item]]]

    @property
    def labels(self) -> list[str]:
        """The models, in the order in which they were made."""
        return list(self.items)

    def marks(self, label: str, name: str) -> Marks:
        """Marks of a benchmark as they make up its score."""
        return marks_of(self.items[label][name], "subject" if self.lock["benchmarks"][name]["mean_of_subjects"] else "")

    def names(self, score: str) -> list[str]:
        """The benchmarks behind 'average' or one benchmark's name.

        Raises:
            Med42Error: there is no such benchmark.
        """
        if score == "average":
            return averaged(self.lock)
        if score not in self.lock["benchmarks"]:
            raise Med42Error(self.where, f"scores of {', '.join(self.lock['benchmarks'])}", f"'{score}' among them",
                             "Name one of them, or evaluate that benchmark.")
        return [score]

    def score(self, label: str, score: str) -> Interval:
        """A score, or the average, with its interval."""
        benchmarks = [self.marks(label, name) for name in self.names(score)]
        return score_interval(benchmarks[0]) if len(benchmarks) == 1 else average_interval(benchmarks)

    def difference(self, label: str, other: str, score: str) -> Interval:
        """How much better one model is than another, with its interval."""
        names = self.names(score)
        return difference_interval([self.marks(label, name) for name in names], [self.marks(other, name) for name in names])

    def p_value(self, label: str, other: str, name: str) -> float:
        """McNemar's, of one benchmark."""
        return mcnemar(marks_of(self.items[label][name])[""], marks_of(self.items[other][name])[""])

    def subjects(self, label: str, score: str, smallest: int = 1) -> dict[str, Marks]:
        """Marks by `benchmark: subject`, of subjects with so many questions."""
        return {f"{name}: {subject}": {"": right} for name in self.names(score)
                for subject, right in marks_of(self.items[label][name], "subject").items() if subject and len(right) >= smallest}

    def require(self, label: str) -> None:
        """Refuse a model that was not scored.

        Raises:
            Med42Error: naming those that were.
        """
        if label not in self.items:
            raise Med42Error(self.where, f"scores of {', '.join(self.items)}", f"scores of '{label}'",
                             "Evaluate that model, or name another.")


def read_scores(folder: Path) -> Scores:
    """Read a scores artifact.

    Raises:
        Med42Error: a file is missing or torn, a benchmark holds fewer questions than its lock, or one of them twice.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        lock = json.loads((folder / LOCK).read_text())
        rows = pyarrow.parquet.read_table(folder / ITEMS, columns=["label", "benchmark", "id", "subject", "correct"]).to_pylist()
        counts = {name: benchmark["rows"] for name, benchmark in lock["benchmarks"].items()}
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise Med42Error(folder, f"no scores that can be read ({error})", f"{ITEMS}, {SCORES} and {LOCK} of evaluate_model",
                         "Give the folder of a scores artifact.") from error
    items: dict[str, dict[str, list[Item]]] = {}
    for row in rows:
        items.setdefault(row["label"], {}).setdefault(row["benchmark"], []).append(row)
    for label, benchmarks in items.items():
        for name, count in counts.items():
            found = benchmarks.get(name, [])
            different = len({row["id"] for row in found})
            if len(found) != count or different != count:
                raise Med42Error(folder / ITEMS, f"{len(found):,} questions of {name} for {label}, {different:,} of them different",
                                 f"the {count:,} of its lock, each once", "Evaluate that model again.")
    return Scores(folder, lock, items)


def joined(all_scores: Sequence[Scores], names: Sequence[str]) -> Scores:
    """Several scores as one: every model once, those of the same label and different answers told apart by the name of their scores.

    Raises:
        Med42Error: they were measured under different locks.
    """
    from med42.evaluation.protocol import refuse_other_protocol

    first, items = all_scores[0], dict(all_scores[0].items)
    for scores, name in zip(all_scores[1:], names[1:], strict=True):
        refuse_other_protocol(first.lock, scores.lock, scores.where)
        for label, benchmarks in scores.items.items():
            if label not in items:
                items[label] = benchmarks
            elif items[label] != benchmarks:
                items[f"{label} ({name})"] = benchmarks
    return Scores(first.where, first.lock, items)


def _by(items: list[Item], column: str) -> dict[str, Any]:
    """Scores by the values of a column; nothing where there is only one."""
    groups = marks_of(items, column)
    told = {name: (wilson(sum(right), len(right)), len(right)) for name, right in groups.items()}
    return {name: {"score": interval.value, "low": interval.low, "high": interval.high, "items": count}
            for name, (interval, count) in told.items()} if len(groups) > 1 else {}
