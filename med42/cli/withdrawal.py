"""What `med42 audit impact` and `diff` tell: what a withdrawal touches, and how two releases differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from med42.errors import Med42Error
from med42.lineage.bundle import Bundle
from med42.lineage.graph import in_order
from med42.lineage.record import Record
from med42.lineage.row_set import ROWS
from med42.lineage.scores import scored

READERS = ("prepare_source", "build_preferences", "pair_answers", "prepare_benchmarks")  # stages that read what others publish


@dataclass(frozen=True)
class Impact:
    """What a withdrawal touches.

    Attributes:
        what: what is withdrawn, in words.
        where: records in which it first appears.
        touched: these and all that is made of them, each after its inputs.
        kept: the others, which a retrain would use again.
    """

    what: str
    where: list[Record]
    touched: list[Record]
    kept: list[Record]

    @property
    def seconds(self) -> float:
        """What the touched artifacts took to make."""
        return sum(record.made.seconds for record in self.touched)


def impact(bundle: Bundle, asked: str) -> Impact:
    """What it touches when a source, a row or a revision is withdrawn.

    Args:
        bundle: the bundle.
        asked: name of a source or preference set, a row's digest, or a revision (a commit, or its first 7 digits or more).

    Raises:
        Med42Error: nothing of that name, digest or revision.
    """
    if re.fullmatch(r"[0-9a-f]{64}", asked):
        what, where = _of_row(bundle, asked)
    else:
        what, where = _of_source(bundle, asked)
    touched = {record.digest for record in where}
    ordered = in_order(bundle.subject, bundle.records)
    for record in ordered:
        if touched & set(record.inputs.values()):
            touched.add(record.digest)
    return Impact(what, where, [record for record in ordered if record.digest in touched],
                  [record for record in ordered if record.digest not in touched])


def _of_row(bundle: Bundle, digest: str) -> tuple[str, list[Record]]:
    wanted = bytes.fromhex(digest)
    found = []
    for name, rows in sorted(bundle.rows.items()):
        owner, _, kind = name.partition(".")
        place = rows.find(wanted)
        if kind == ROWS and place is not None:
            found.append((bundle.records[owner], rows.label(place)))
    if not found:
        # A file's or a record's digest is as long as a row's.
        owners = [record for record in bundle.records.values()
                  if record.digest == digest or digest in _strings(record.parameters.get("pinned"))]
        if owners:
            return f"artifact or file {digest[:16]}", owners
        return f"row {digest[:16]}, which was not trained on", []
    sources = [record for record in bundle.records.values() for holder, label in found
               if record.stage == "prepare_source" and holder.stage == "mix_data" and label in record.measured.get("accounts", {})]
    return f"row {digest[:16]} of {', '.join(sorted({label for _, label in found}))}", [*sources, *(holder for holder, _ in found)]


def _of_source(bundle: Bundle, asked: str) -> tuple[str, list[Record]]:
    name = asked.removeprefix("sources.").removeprefix("preferences.")
    where = [record for record in bundle.records.values() if record.stage in READERS and name in record.measured.get("accounts", {})]
    if where:
        return f"source {name}", where
    recipe = json.loads(bundle.recipe)
    revisions = {key: [pin.get("revision") or "", *pin.get("generations", {}).values()] for key, pin in recipe.get("pins", {}).items()}
    keys = [key for key, values in revisions.items() if len(asked) >= 7 and any(value.startswith(asked) for value in values)]
    for key in keys:
        part = key.removesuffix(".labels").rpartition(".")[2]
        where += [record for record in bundle.records.values() if (key == "base" and record.stage == "prepare_base") or (
            record.stage in READERS and part in record.measured.get("accounts", {}))]
    if where:
        return f"revision {asked} ({', '.join(keys)})", where
    known = sorted({source for record in bundle.records.values() for source in record.measured.get("accounts", {})})
    raise Med42Error(f"'{asked[:100]}'", "nothing of that name or revision", f"one of {', '.join(known)}, a revision, or a row's digest",
                     "See `med42 audit show` for the sources.")


def _strings(value: Any) -> set[str]:
    found, waiting = set(), [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            found.add(one)
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return found


def differences(first: Bundle, second: Bundle) -> dict[str, list[str]]:
    """How two releases differ: data, recipe, code, scores, verdict; a part without differences has no lines."""
    return {"data": list(_data(first, second)), "recipe": list(_recipe(json.loads(first.recipe), json.loads(second.recipe))),
            "code": list(_code(first, second)), "scores": list(_scores(first, second)), "verdict": list(_verdict(first, second))}


def _data(first: Bundle, second: Bundle) -> Iterator[str]:
    def sets(bundle: Bundle) -> dict[str, str]:
        return {bundle.records[name.partition(".")[0]].name: name for name in bundle.rows if name.endswith(f".{ROWS}")}

    before, after = sets(first), sets(second)
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            yield f"{name}: only in the {'second' if name not in before else 'first'}"
            continue
        old, new = first.rows[before[name]], second.rows[after[name]]
        if old.root != new.root:
            mine, theirs = ({rows.digest(row) for row in range(len(rows))} for rows in (old, new))
            yield f"{name}: {len(old):,} -> {len(new):,} rows; {len(theirs - mine):,} new, {len(mine - theirs):,} gone"
    for stage in ("prepare_source", "prepare_benchmarks", "prepare_base"):
        old_records, new_records = ({record.name: record for record in bundle.of_stage(stage)} for bundle in (first, second))
        for name in sorted(old_records.keys() & new_records.keys()):
            if old_records[name].digest != new_records[name].digest:
                yield f"{name}: {old_records[name].digest[:16]} -> {new_records[name].digest[:16]}"


def _recipe(first: Any, second: Any, key: str = "") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in sorted(first.keys() | second.keys()):
            yield from _recipe(first.get(name), second.get(name), f"{key}.{name}" if key else name)
    elif first != second:
        yield f"{key}: {json.dumps(first)[:200]} -> {json.dumps(second)[:200]}"


def _code(first: Bundle, second: Bundle) -> Iterator[str]:
    def facts(bundle: Bundle) -> dict[str, str]:
        told = {f"source of {record.stage}": record.code[:16] for record in bundle.records.values()}
        told |= {name: version for record in bundle.records.values() for name, version in record.packages.items()}
        told["commit"] = ", ".join(sorted({record.made.commit for record in bundle.records.values()}))
        told["images"] = ", ".join(sorted({record.made.image for record in bundle.records.values()}))
        return told

    old, new = facts(first), facts(second)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name}: {old.get(name, 'none')} -> {new.get(name, 'none')}"


def _scores(first: Bundle, second: Bundle) -> Iterator[str]:
    old, new = ({one.name: one for decision in bundle.of_stage("decide_release") for one in scored(decision, bundle.records)}
                for bundle in (first, second))
    for name in sorted(old.keys() & new.keys()):
        if old[name].value != new[name].value:
            apart = old[name].high < new[name].low or new[name].high < old[name].low
            yield (f"{name}: {old[name].value:.1%} -> {new[name].value:.1%} ({new[name].value - old[name].value:+.1%}; "
                   f"95% intervals {'apart' if apart else 'overlap'})")
    yield from (f"{name}: only in the {'second' if name in new else 'first'}" for name in sorted(old.keys() ^ new.keys()))
    protocols = [{record.measured.get("protocol") for record in bundle.of_stage("evaluate_model")} for bundle in (first, second)]
    if protocols[0] != protocols[1]:
        yield "the protocols differ: these scores are not comparable"


def _verdict(first: Bundle, second: Bundle) -> Iterator[str]:
    old, new = ([str(record.measured.get("summary", "")) for record in bundle.of_stage("decide_release")] for bundle in (first, second))
    if old != new:
        yield f"{', '.join(old)} -> {', '.join(new)}"
