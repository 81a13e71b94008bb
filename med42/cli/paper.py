"""What `med42 paper` and `med42 compare` print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from med42.errors import Med42Error
from med42.evaluation.paper import TABLES, columns, tables, what_does_not_reproduce


def print_paper(number: str, as_json: bool, console: Console) -> None:
    """One of the paper's tables; Table 4 with its averages worked out again, and what does not reproduce.

    Raises:
        Med42Error: there is no such table.
    """
    if number not in TABLES:
        raise Med42Error("--table", f"'{number}'", f"one of {', '.join(TABLES)}", "Choose one of them.")
    if as_json:
        told: Any = {"columns": columns(), **{f"table_{which}": tables()[f"table_{which}"] for which in TABLES},
                     "does_not_reproduce": list(what_does_not_reproduce())}
        print(json.dumps(told, indent=1, default=str))
        return
    console.print(_results() if number == "4" else _plain(number), highlight=False)
    if number in ("4", "5"):
        console.print("\n[bold]What does not reproduce, or reads otherwise than the text[/]")
        for line in what_does_not_reproduce():
            if line.startswith("Table 5") == (number == "5"):
                console.print(f"- {escape(line)}", highlight=False)


def _results() -> Table:
    from med42.evaluation.compare import paper_rows

    table = Table("model", *(Column(name, justify="right") for name in (*columns(), "average", "worked out")), "note", box=None,
                  header_style="dim", pad_edge=False)
    for model, scores, printed, mean, note in paper_rows():
        same = len([score for score in scores if score is not None]) == len(scores)
        table.add_row(escape(model), *("-" if score is None else f"{score:.1f}" for score in scores), f"{printed:.1f}",
                      f"{mean:.2f}" if same else f"[yellow]{mean:.2f}[/]", escape(note))
    return table


def _plain(number: str) -> Table:
    rows = tables()[f"table_{number}"]
    if number == "5":
        rows = [*rows["rows"], *({"data": domain, "domain": "sum", **rows[domain]} for domain in ("medical", "general")),
                {"data": "all", "domain": "sum", "samples": rows["total"]}]
    header = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*header, box=None, header_style="dim", pad_edge=False)
    for row in rows:
        table.add_row(*(f"{row[key]:,}" if isinstance(row.get(key), int) else escape(str(row.get(key, ""))) for key in header))
    return table


def print_comparison(folders: list[Path], base: str, model: str, markdown: Path | None, html: Path | None, console: Console) -> None:
    """Gains over a base, of every model in some scores, beside the paper's.

    Raises:
        Med42Error: scores that cannot be read, or that were made under different locks.
    """
    from med42.evaluation import compare
    from med42.evaluation.scores import joined, read_scores
    from med42.lineage.digest import value_digest

    scores = joined([read_scores(folder) for folder in folders], [folder.name for folder in folders])
    found = compare.gains(scores, base, model)
    table = Table(*compare.header(base, model), box=None, header_style="dim", pad_edge=False)
    for place, one in enumerate(found):
        last = place + 1 == len(found) or found[place + 1].label != one.label
        table.add_row(*map(escape, compare.cells(one, model)), end_section=last)
    console.print(table, highlight=False)
    for path, content in ((markdown, compare.markdown(found, base, model)), (html, None)):
        if path:
            try:
                path.write_text(content or compare.compare_page(found, base, model, value_digest(scores.lock)))
            except OSError as error:
                raise Med42Error(path, error.strerror or str(error), "a file that can be written", "Choose another place.") from error
            console.print(f"{path}: {path.stat().st_size:,} bytes", highlight=False)
