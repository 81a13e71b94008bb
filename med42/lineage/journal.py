"""The job that a stage is given, and what it tells while it works: a plain line in the log, a JSON line in the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """What every stage is told besides its inputs.

    None of it changes a result: the recipe does, and the digests of what is found.

    Attributes:
        run: name of the run, for records.
        store: folder of finished artifacts that may be used again; None to make all of them.
        data_root: folder in which files of the recipe are looked up.
        push_to: `directory:PATH` or `hub:OWNER/NAME`, instead of the recipe's place; empty for that.
    """

    run: str
    store: Path | None = None
    data_root: Path | None = None
    push_to: str = ""

    @property
    def journal(self) -> Path | None:
        """The run's journal: one JSON object a line."""
        return self.store / "journal" / f"{self.run}.jsonl" if self.store else None

    def tell(self, name: str, event: str, **facts: Any) -> None:
        """Print one line that reads well in a pod's log, and add it to the journal."""
        words = " ".join(f"{key}={_short(value)}" for key, value in facts.items())
        print(f"[{name}] {event} {words}".rstrip(), flush=True)
        if self.journal:
            line = json.dumps({"time": time.time(), "name": name, "event": event, **facts})
            try:
                self.journal.parent.mkdir(parents=True, exist_ok=True)
                with self.journal.open("a", encoding="utf-8") as handle:
                    handle.write(line + "\n")
            except OSError as error:
                raise Med42Error(self.journal, error.strerror or str(error), "a journal that can be written to",
                                 "Free space or choose another folder for the store.") from error

    @contextmanager
    def telling(self, name: str) -> Iterator[dict[str, Any]]:
        """Tell start, failure and end of some work; what is put into the yielded facts is told at the end."""
        clock, facts = time.monotonic(), dict[str, Any]()
        self.tell(name, "started")
        try:
            yield facts
        except BaseException as error:
            self.tell(name, "failed", error=type(error).__name__, message=str(error))
            raise
        self.tell(name, "finished", seconds=round(time.monotonic() - clock, 2), **facts)


def write_job(path: Path, recipe: Recipe, job: Job) -> None:
    """Write the file that hands recipe and job from stage to stage."""
    told = {"run": job.run, "store": str(job.store or ""), "data_root": str(job.data_root or ""), "push_to": job.push_to}
    path.write_text(json.dumps({"recipe": recipe.model_dump(mode="json"), **told}, indent=1) + "\n")


def read_job(path: str) -> tuple[Recipe, Job]:
    """Read recipe and job from the file that `preflight` wrote."""
    told = json.loads(Path(path).read_text())
    folders = {key: Path(told[key]) if told[key] else None for key in ("store", "data_root")}
    return Recipe.model_validate(told["recipe"]), Job(told["run"], folders["store"], folders["data_root"], told["push_to"])


class Progress:
    """Steps done, told at most every `interval` seconds: out of a total and with the time left, where the total is known."""

    def __init__(self, job: Job, name: str, total: int | None, unit: str, interval: float = 2.0) -> None:
        self.job, self.name, self.total, self.unit, self.interval, self.before = job, name, total, unit, interval, 0
        self.started = self.told = time.monotonic()

    def begin(self, total: int, before: int) -> None:
        """Start the clock: how many there are in all, and how many an earlier attempt did."""
        self.total, self.before, self.started = total, before, time.monotonic()

    def pace(self, done: int) -> float:
        """How many are finished a second, of those of this attempt."""
        return (done - self.before) / max(time.monotonic() - self.started, 1e-3)

    def step(self, done: int, **facts: Any) -> None:
        """Tell that this many are finished."""
        now = time.monotonic()
        if now - self.told < self.interval and (self.total is None or done < self.total):
            return
        self.told = now
        if self.total is not None:
            left = (self.total - done) / self.pace(done) if done > self.before else 0.0
            facts = {"total": self.total, "unit": self.unit, "seconds_left": round(left, 1), **facts}
        else:
            facts = {"unit": self.unit, "a_second": round(done / max(now - self.started, 1e-3)), **facts}
        self.job.tell(self.name, "progress", done=done, **facts)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All events of a journal; a last line that is still being written is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
