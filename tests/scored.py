"""Scores artifacts with marks that a test chooses, read and judged by the real code."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from med42.evaluation.scores import ITEMS, LOCK, SCORES, SEVEN, average_name, averaged
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.digest import merkle_root
from med42.lineage.journal import Job
from med42.lineage.record import Record

Marks = Mapping[str, Sequence[bool]]  # by benchmark


def share(right: int, count: int) -> list[bool]:
    """So many of so many questions right."""
    return [place < right for place in range(count)]


def question_id(name: str, place: int) -> str:
    return hashlib.sha256(f"{name} {place:09}".encode()).hexdigest()


def lock_of(counts: Mapping[str, int], outside: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    tasks = {task.removeprefix("med42_").replace("_", "-"): task for task in SEVEN}
    return {"harness": "lm-eval 0.4.13", "answer": "letter_and_text", "normalisation": "none", **changes, "benchmarks": {
        name: {"task": tasks.get(name, "med42_medmcqa"), "task_version": 1.0, "rows": count, "in_average": name not in outside,
               "mean_of_subjects": False, "root": merkle_root([question_id(name, place) for place in range(count)])}
        for name, count in counts.items()}}


def make_scores(folder: Path, job: Job, models: Mapping[str, Marks], subjects: Mapping[str, Sequence[str]] | None = None,
                inputs: Mapping[str, Path] | None = None, outside: Sequence[str] = (), measured: Mapping[str, Any] | None = None,
                parameters: Mapping[str, Any] | None = None, **lock_changes: Any) -> Record:
    """A scores artifact of some models in order; `subjects` gives those of a benchmark's questions, `outside` is in no average."""
    counts = {name: len(marks) for name, marks in next(iter(models.values())).items()}
    lock = lock_of(counts, outside, **lock_changes)
    ids = {name: sorted(question_id(name, place) for place in range(count)) for name, count in counts.items()}

    def build(draft: Path) -> Outcome:
        rows = [{"label": label, "benchmark": name, "id": ids[name][place], "correct": correct,
                 "subject": subjects[name][place] if subjects and name in subjects else ""}
                for label, benchmarks in models.items() for name, marks in benchmarks.items() for place, correct in enumerate(marks)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), draft / ITEMS)
        history = [_entry(label, marks, lock) for label, marks in models.items()]
        (draft / SCORES).write_text(json.dumps({"history": history}))
        (draft / LOCK).write_text(json.dumps(lock))
        (draft / "page.html").write_text("<!doctype html>")
        last = history[-1]
        return Outcome({**last, "history": history, "summary": f"average {last['average']:.1%}", **(measured or {})})

    plan = Plan("evaluate_model", "scores", dict(parameters or {}), dict(inputs or {}), "evaluation",
                name=f"evaluate_model-{list(models)[-1]}")
    return produce(plan, folder, job, build)


def _entry(label: str, benchmarks: Marks, lock: dict[str, Any]) -> dict[str, Any]:
    scores = {name: sum(marks) / len(marks) for name, marks in benchmarks.items()}
    counted = [scores[name] for name in averaged(lock)]
    return {"label": label, "average": sum(counted) / max(1, len(counted)), "average_name": average_name(lock), "scores": scores}
