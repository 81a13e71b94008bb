"""The stage `seal_audit`: the whole chain of records behind a release, or a refusal, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from med42.lineage import bundle
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.journal import Job
from med42.lineage.record import Record, read_ancestry, read_record
from med42.recipe import Recipe, canonical_recipe, recipe_digest
from med42.report import page


@stage
def seal_audit(recipe: Recipe, subject: Path, out: Path, job: Job) -> Record:
    """Seal the records of a release, or of a decision against one, into `<recipe>-<digest8>.med42`.

    Raises:
        Med42Error: the chain has a gap, or its parts belong to different recipes.
    """
    plan = Plan("seal_audit", "bundle", {"recipe": recipe_digest(recipe)}, {"subject": subject}, "release")
    return produce(plan, out, job, lambda draft: _seal(recipe, subject, draft))


def _seal(recipe: Recipe, subject: Path, draft: Path) -> Outcome:
    record = read_record(subject)
    records = {**read_ancestry(subject), record.digest: record}
    report = audit_page(recipe, record, records)
    content = bundle.pack(recipe.name, canonical_recipe(recipe), record.digest, records, report)
    name = f"{recipe.name}-{recipe_digest(recipe)[:8]}.med42"
    bundle.check_chain(bundle.unpack(content, name), name)
    (draft / name).write_bytes(content)
    (draft / "page.html").write_text(report)
    return Outcome({"bundle": name, "records": len(records), "subject": record.digest, "summary": f"{name}, {len(records)} records"})


def audit_page(recipe: Recipe, subject: Record, records: dict[str, Record]) -> str:
    """The bundle for people: verdict, scores, data, and every record with what it was made of."""
    ordered = _from_the_sources(subject, records)
    names = {record.digest: record.name for record in ordered}
    decision = next(record for record in ordered if record.stage == "decide_release")
    # Those that were judged; the chain may hold those of an earlier release too.
    history: list[dict[str, Any]] = records[decision.inputs["scores"]].measured["history"]
    accounts = [
        (record.name, source, account["read"], account["kept"],
         ", ".join(f"{count:,} {reason}" for reason, count in account["dropped"].items()))
        for record in ordered if "accounts" in record.measured for source, account in record.measured["accounts"].items()
    ]
    blocks: list[Markup] = [
        page.heading("Decision"),
        _verdict(decision),
        page.table(("gate", "looks at", "found", "rule", "met", "why"),
                   [(verdict["gate"], verdict["score"], verdict["shown"], verdict["rule"], verdict["met"], verdict["reason"])
                    for verdict in decision.measured["verdicts"]]),
        page.heading("Scores from model to model"),
        page.table(("model", *recipe.evaluation.benchmarks, history[-1]["average_name"]), [
            (entry["label"], *(f"{entry['scores'][name]:.1%}" for name in recipe.evaluation.benchmarks), f"{entry['average']:.1%}")
            for entry in history]),
        page.heading("Every row accounted for"),
        page.table(("record", "source", "read", "kept", "left out"), accounts),
        page.heading("Records"),
        page.table(("record", "made of", "summary", "by run", "digest"), [
            (record.name, ", ".join(names[digest] for digest in record.inputs.values()) or "nothing before it", _summary(record),
             record.made.run, record.digest[:16])
            for record in ordered]),
        page.heading("Recipe"),
        page.listing(recipe.model_dump_json(indent=1, exclude_none=True)),
    ]
    lead = (f"Recipe {recipe.name} ({recipe_digest(recipe)[:16]}): {len(records)} records, from the sources to {subject.name}. "
            "Evidence for review; it certifies nothing by itself.")
    return page.page(f"Audit of {recipe.name}", lead, blocks)


def _verdict(decision: Record) -> Markup:
    if override := decision.measured.get("override"):
        return page.paragraph(f"{'Approved' if decision.measured['approved'] else 'Refused'}; {override['by']} overrides "
                              f"{', '.join(override['gates'])}: {override['reason']}", "bad")
    return page.paragraph("Approved by every gate.", "good") if decision.measured["approved"] else page.paragraph("Refused.", "bad")


def _summary(record: Record) -> Any:
    return record.measured.get("summary", "")


def _from_the_sources(subject: Record, records: dict[str, Record]) -> list[Record]:
    """Records in an order in which each comes after its inputs."""
    ordered: dict[str, Record] = {}

    def visit(record: Record) -> None:
        for digest in record.inputs.values():
            if digest in records and digest not in ordered:
                visit(records[digest])
        ordered[record.digest] = record

    visit(subject)
    return list(ordered.values())
