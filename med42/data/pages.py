"""Blocks that the pages of the data stages share."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from med42.report.page import bars, heading, paragraph, table


def account_blocks(manifest: dict[str, Any]) -> list[Markup]:
    """Every row accounted for: read = kept + dropped, by source and by reason."""
    sources = manifest["sources"]
    reasons = [(source, reason, count) for source, account in sources.items() for reason, count in account["dropped"].items()]
    blocks = [
        heading("Every row accounted for"),
        table(("source", "read", "kept", "dropped", "read = kept + dropped"), [
            (source, account["read"], account["kept"], sum(account["dropped"].values()),
             account["read"] == account["kept"] + sum(account["dropped"].values()))
            for source, account in sources.items()
        ]),
        heading("Why rows were left out"),
        bars(("source: reason", "", "rows"), [(f"{source}: {reason}", count, f"{count:,}") for source, reason, count in reasons])
        if reasons else paragraph("None was."),
    ]
    if "merkle_root" in manifest:
        blocks.append(paragraph(f"Merkle root of the kept rows: {manifest['merkle_root']}", "note"))
    return blocks
