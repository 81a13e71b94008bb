"""The PHI gate on a page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from med42.data.phi.categories import CATEGORIES, SAFE_HARBOR
from med42.data.phi.gate import recall
from med42.report.page import heading, paragraph, table

NOTE = (
    "Evidence, not a proof of de-identification. A finding is text in the form of an identifier, whether it belongs to a person or not: "
    "published web pages hold web addresses and telephone numbers of organisations, abstracts hold the dates of a study. 'Planted, found' "
    "counts made-up identifiers that were put into copies of these rows and wholly found; 'as what they are' those found under their own "
    "category. 'Rows in 1,000' is the rate of false alarms where the rows are known to hold no identifiers, and no more than a count "
    "where they are not."
)


def phi_blocks(reports: dict[str, dict[str, Any]]) -> list[Markup]:
    """What the gate found, a category, and what it finds of planted identifiers.

    Args:
        reports: what `phi.json` holds, by source.
    """
    examined = sum(report["examined"] for report in reports.values())
    rows = sum(report["rows"] for report in reports.values())
    flagged = sum(report["with_findings"] for report in reports.values())
    planted = recall(reports.values())
    detectors = ", ".join(sorted({report["detector"] for report in reports.values()}))
    blocks = [
        heading("Protected health information"),
        paragraph(f"{flagged:,} of {examined:,} rows examined hold text in the form of an identifier "
                  f"({rows:,} rows in all; detector: {detectors})."),
        table(("", "category (45 CFR 164.514(b)(2))", "found", "rows", "rows in 1,000", "planted, found", "as what they are"), [
            (f"({SAFE_HARBOR[category].letter})", SAFE_HARBOR[category].title,
             sum(report["categories"][category]["found"] for report in reports.values()),
             held := sum(report["categories"][category]["rows"] for report in reports.values()),
             1000 * held / max(1, examined), f"{planted[category]['found']:,} of {planted[category]['planted']:,}",
             planted[category]["named"])
            for category in CATEGORIES
        ]),
        paragraph(NOTE, "note"),
    ]
    if len(reports) > 1:
        blocks.append(table(("source", "policy", "examined", "with findings", "categories"), [
            (source, report["policy"], report["examined"], report["with_findings"],
             ", ".join(f"{category} {account['rows']:,}" for category, account in report["categories"].items() if account["rows"]))
            for source, report in reports.items()
        ]))
    shown = [(source, category, one["shape"], one["around"], one["row"][:12]) for source, report in reports.items()
             for category, account in report["categories"].items() for one in account["evidence"]]
    if shown and len(reports) == 1:
        blocks += [heading("Masked evidence"), table(("source", "category", "shape", "where it stood", "row"), shown)]
    return blocks
