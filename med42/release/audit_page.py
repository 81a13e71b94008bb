"""The audit bundle for people: verdict, scores, data, the graph of all records, and when each was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from med42.lineage.graph import draw, in_order
from med42.lineage.record import Record
from med42.lineage.scores import scores_of
from med42.recipe import Recipe, recipe_digest
from med42.report import page


def audit_page(recipe: Recipe, subject: Record, records: Mapping[str, Record], signed_by: str) -> str:
    """One self-contained page."""
    ordered = in_order(subject, records)
    names = {record.digest: record.name for record in ordered}
    decision = next(record for record in ordered if record.stage == "decide_release")
    blocks: list[Markup] = [
        page.heading("Decision"),
        _verdict(decision),
        page.table(*verdict_table(decision)),
        page.heading("Scores from model to model"),
        page.table(("model", "benchmark", "score", "95% interval", "items"), [
            (record.name.removeprefix("evaluate_model-"), one.name, f"{one.value:.1%}",
             f"{one.low:.1%} to {one.high:.1%}" if one.items else "", one.items)
            for record in ordered if record.stage == "evaluate_model" for one in scores_of(record, records)]),
        page.heading("Data and licences"),
        page.table(("source", "where", "revision", "licence"), sources_table(recipe)),
        page.heading("Every row accounted for"),
        page.table(("record", "source", "read", "kept", "left out"), [
            (record.name, source, account.get("read", 0), account.get("kept", 0), dropped_words(account))
            for record in ordered for source, account in record.measured.get("accounts", {}).items()]),
        page.heading("What was made of what"),
        # As large as it is, to be scrolled: fitted to the page, a chain of a dozen stages could not be read.
        Markup('<div class="scroll">{}</div>').format(
            page.figure(draw(subject, records), "Each box is an artifact with its record; lines lead from what it was made of.")),
        page.heading("When"),
        page.bars(("record", "seconds", "started, run"), [
            (record.name, record.made.seconds, f"{record.made.seconds:,.1f} s from {record.made.started}, run {record.made.run}")
            for record in sorted(ordered, key=lambda record: (record.made.started, record.name))]),
        page.heading("Records"),
        page.table(("record", "made of", "summary", "code", "machine", "digest"), [
            (record.name, ", ".join(names[digest] for digest in record.inputs.values()) or "nothing before it",
             record.measured.get("summary", ""), code_words(record), machine_words(record), record.digest[:16])
            for record in ordered]),
        page.heading("Recipe"),
        page.listing(recipe.model_dump_json(indent=1, exclude_none=True)),
    ]
    lead = (f"Recipe {recipe.name} ({recipe_digest(recipe)[:16]}): {len(records)} records, from the sources to {subject.name}; "
            f"{f'signed by {signed_by}' if signed_by else 'not signed'}. Evidence for review; it certifies nothing by itself.")
    return page.page(f"Audit of {recipe.name}", lead, blocks)


def _verdict(decision: Record) -> Markup:
    approved = decision.measured.get("approved") is True
    if override := decision.measured.get("override"):
        return page.paragraph(f"{'Approved' if approved else 'Refused'}; {override['by']} overrides {', '.join(override['gates'])}: "
                              f"{override['reason']}", "bad")
    return page.paragraph("Approved by every gate." if approved else "Refused.", "good" if approved else "bad")


def verdict_table(decision: Record) -> tuple[Sequence[str], list[Sequence[Any]]]:
    """The verdict of every gate, whatever a decision tells of each, as header and rows."""
    verdicts = decision.measured.get("verdicts", [])
    keys = [key for key in ("score", "found", "rule", "met") if any(key in verdict for verdict in verdicts)]
    keys += sorted({key for verdict in verdicts for key in verdict} - set(keys))
    return keys, [[_shown(verdict.get(key, "")) for key in keys] for verdict in verdicts]


def sources_table(recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """Name, place, revision and licence of the base, of every source and of every preference set."""
    base = recipe.base
    places: list[tuple[str, Any, str]]
    places = [(f"sources.{name}", source.origin, source.license) for name, source in sorted(recipe.sources.items())]
    places += [(f"preferences.{name}", source.origin, source.license) for name, source in sorted(recipe.preferences.items())]
    rows = [("base", base.repo if base.kind == "hub" else "random weights", _revision(recipe, "base"), base.license)]
    for key, origin, license_name in places:
        told = origin.model_dump(mode="json")
        place = told.get("repo") or told.get("url") or told.get("part") or ", ".join(told.get("files", []))
        rows.append((key, f"{origin.kind}: {place}", _revision(recipe, f"{key}.origin"), license_name))
    return rows


def dropped_words(account: Mapping[str, Any]) -> str:
    """The reasons for which rows were left out, with their counts."""
    return ", ".join(f"{count:,} {reason}" for reason, count in account.get("dropped", {}).items())


def code_words(record: Record) -> str:
    """The commit that made an artifact, and whether the work tree differed from it."""
    return f"{record.made.commit[:12]}{' with changes' * record.made.dirty}" if record.made.commit else f"source {record.code[:12]}"


def machine_words(record: Record) -> str:
    """The machine that made an artifact."""
    return ", ".join([f"{record.made.processors} x {record.made.machine}", *record.made.accelerators])


def _revision(recipe: Recipe, key: str) -> str:
    pin = recipe.pins.get(key) or recipe.pins.get(key.removesuffix(".origin"))
    return (pin.revision or "by file digests") if pin else "not pinned"


def _shown(value: Any) -> Any:
    return f"{value:.1%}" if isinstance(value, float) else value if isinstance(value, (bool, int, str)) else str(value)
