"""The stage `prepare_benchmarks`: the very rows that will be scored, as one artifact.

The mix and the preference sets are searched for these rows, and every model is scored on them: one digest
ties decontamination and evaluation to the same questions.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow
from markupsafe import Markup

from med42.data.families import find_family
from med42.data.pages import account_blocks
from med42.data.readers import Located, locate
from med42.data.row import ColumnError, Row
from med42.data.shards import Shards
from med42.errors import Med42Error
from med42.evaluation.item import Item, row_lock
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record
from med42.recipe import Recipe
from med42.report import page

TEXT = pyarrow.string()
ITEMS = pyarrow.schema([
    ("id", TEXT), ("benchmark", TEXT), ("question", TEXT), ("context", TEXT), ("prompt", TEXT), ("options", pyarrow.list_(TEXT)),
    ("right", pyarrow.int32()), ("lettered", pyarrow.bool_()), ("subject", TEXT),
])


class Converter(Protocol):
    """A module of `med42.evaluation.benchmarks`."""

    def item(self, row: Row) -> Item | str:
        """One question, or why there is none."""
        ...


@stage
def prepare_benchmarks(recipe: Recipe, out: Path, job: Job) -> Record:
    """Read every benchmark of the recipe.

    Raises:
        Med42Error: a benchmark cannot be found or read, has other columns, or gives no question.
    """
    located = {
        name: locate(recipe, f"evaluation.benchmarks.{name}.origin", benchmark.origin, job.data_root)
        for name, benchmark in recipe.evaluation.benchmarks.items()
    }
    converters = {name: find_converter(benchmark.family, name) for name, benchmark in recipe.evaluation.benchmarks.items()}
    settings = {name: benchmark.model_dump(mode="json", exclude={"paper_items"})
                for name, benchmark in recipe.evaluation.benchmarks.items()}
    pinned = {name: place.pinned for name, place in located.items()}
    parameters = {"benchmarks": settings, "pinned": pinned, "limit": recipe.evaluation.limit}
    plan = Plan("prepare_benchmarks", "benchmarks", parameters, {}, "evaluation", ("pyarrow",))
    return produce(plan, out, job, lambda draft: _prepare(recipe, located, converters, draft))


def find_converter(family: str, name: str) -> Converter:
    """The converter of a benchmark family.

    Raises:
        Med42Error: there is none of that name.
    """
    return cast(Converter, find_family("med42.evaluation.benchmarks", family, f"evaluation.benchmarks.{name}"))


def _prepare(recipe: Recipe, located: dict[str, Located], converters: dict[str, Converter], draft: Path) -> Outcome:
    shards = Shards(draft, ITEMS)
    accounts: dict[str, Any] = {}
    locks: dict[str, Any] = {}
    # By name: the recipe's digest does not tell in which order its keys stand, so neither may the result.
    for name, place in sorted(located.items()):
        items, dropped = _items(name, place, converters[name], recipe.evaluation.benchmarks[name].sites)
        if not items:
            raise Med42Error(f"evaluation.benchmarks.{name}", f"no question in its rows ({dict(dropped)})", "at least one",
                             "Check its family and files.")
        lock = row_lock([item.id for item in items])
        _refuse_other_rows(recipe, name, lock, dropped)
        kept = items[: recipe.evaluation.limit]
        dropped["beyond the recipe's limit"] = len(items) - len(kept)
        for item in kept:
            shards.add({"id": item.id, "benchmark": name, "question": item.question, "context": item.context, "prompt": item.prompt,
                        "options": list(item.options), "right": item.right, "lettered": item.lettered, "subject": item.subject})
        reasons = {reason: count for reason, count in sorted(dropped.items()) if count}
        accounts[name] = {"read": len(kept) + sum(reasons.values()), "kept": len(kept), "dropped": reasons}
        locks[name] = lock
    shards.flush()
    (draft / "manifest.json").write_text(json.dumps({"sources": accounts}, indent=1, sort_keys=True) + "\n")
    total = sum(account["kept"] for account in accounts.values())
    (draft / "page.html").write_text(page.page("Benchmarks", f"{total:,} questions of {len(accounts)} benchmarks.",
                                               [*account_blocks({"sources": accounts}), *_lock_blocks(locks)]))
    return Outcome({"accounts": accounts, "locks": locks, "summary": f"{total:,} questions"})


def _refuse_other_rows(recipe: Recipe, name: str, lock: dict[str, Any], dropped: Counter[str]) -> None:
    benchmark = recipe.evaluation.benchmarks[name]
    for key, found, wanted in (("rows", lock["rows"], benchmark.rows), ("rows_root", lock["root"], benchmark.rows_root)):
        if wanted is not None and found != wanted:
            left_out = "; ".join(f"{count:,} left out: {reason}" for reason, count in sorted(dropped.items())) or "none left out"
            raise Med42Error(f"evaluation.benchmarks.{name}.{key}", f"{found} ({left_out})", f"{wanted}, as locked",
                             "The file holds other questions; get the one that was locked, or change the lock.")


def _lock_blocks(locks: dict[str, Any]) -> list[Markup]:
    return [page.heading("Row digests"), page.table(("benchmark", "rows", "Merkle root, before any limit"),
                                                    [(name, lock["rows"], lock["root"]) for name, lock in sorted(locks.items())])]


def _items(name: str, place: Located, converter: Converter, sites: list[str]) -> tuple[list[Item], Counter[str]]:
    items: dict[str, Item] = {}
    dropped: Counter[str] = Counter()
    for where, row in place.rows():
        try:
            item = converter.item(row)
        except ColumnError as error:
            raise Med42Error(f"{where}, column '{error.column}'", error.found, error.expected,
                             f"The file is not in the form of benchmark {name}.") from error
        if isinstance(item, str):
            dropped[item] += 1
        elif sites and item.subject not in sites:
            dropped["subject that the recipe does not ask for"] += 1
        elif item.id in items:
            dropped["duplicate question"] += 1
        else:
            items[item.id] = item
    return sorted(items.values(), key=lambda item: item.id), dropped
