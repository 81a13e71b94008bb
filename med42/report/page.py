"""One self-contained HTML page from a few kinds of block; everything that comes from data is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape

STYLE = """
:root { color-scheme: light dark; --ink: #17252f; --soft: #5d6f7b; --line: #d9e1e6; --bar: #2b7a78; --bar2: #b9d7d5;
  --paper: #fff; --good: #1d7f4e; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4ecf0; --soft: #9fb0bb; --line: #33424c; --bar: #58b5b1;
  --bar2: #2b5654; --paper: #12191e; --good: #5fcf95; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2.2rem auto;
  max-width: 62rem; padding: 0 1.2rem; }
h1 { font-size: 1.55rem; margin: 0; } h2 { font-size: 1.08rem; margin: 2rem 0 .5rem; } p { margin: .4rem 0; max-width: 48rem; }
.lead, caption, figcaption, .note { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
td.number { text-align: right; white-space: nowrap; } td.bar { min-width: 12rem; width: 40%; }
.track { background: var(--bar2); height: .8rem; margin-top: .35rem; border-radius: 2px; }
.fill { background: var(--bar); height: 100%; border-radius: 2px; }
figure { margin: .6rem 0; background: #fff; border-radius: 4px; display: inline-block; max-width: 100%; }
figure svg { max-width: 100%; height: auto; display: block; }
pre { white-space: pre-wrap; background: color-mix(in srgb, var(--line) 40%, transparent); padding: .7rem;
  border-radius: 4px; font-size: .85rem; }
code { font-size: .88em; overflow-wrap: anywhere; }
"""


def page(title: str, lead: str, blocks: Iterable[Markup]) -> str:
    """A whole HTML document, in ASCII (anything else as character references)."""
    body = Markup("\n").join(blocks)
    document = Markup(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><style>{style}</style></head>\n'
        '<body><h1>{title}</h1><p class="lead">{lead}</p>\n{body}\n</body></html>\n'
    ).format(title=title, style=Markup(STYLE), lead=lead, body=body)
    return str(document).encode("ascii", "xmlcharrefreplace").decode()


def heading(text: str) -> Markup:
    """A section's heading."""
    return Markup("<h2>{}</h2>").format(text)


def paragraph(text: str, tone: str = "") -> Markup:
    """A paragraph; tone is '', 'note', 'good' or 'bad'."""
    return Markup('<p class="{}">{}</p>').format(tone, text)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table; numbers are set right, booleans as a verdict in colour."""
    head = Markup("").join(Markup("<th>{}</th>").format(cell) for cell in header)
    body = Markup("").join(Markup("<tr>{}</tr>").format(Markup("").join(map(_cell, row))) for row in rows)
    return Markup('<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(head, body)


def bars(header: Sequence[str], rows: Iterable[tuple[str, float, str]], full: float | None = None) -> Markup:
    """A table of labelled horizontal bars: (label, length, text beside it), the longest bar full width."""
    rows = list(rows)
    longest = full or max((value for _, value, _ in rows), default=0.0) or 1.0
    cells = [
        (label, Markup('<div class="track"><div class="fill" style="width:{:.2f}%"></div></div>').format(100 * value / longest), text)
        for label, value, text in rows
    ]
    return table(header, cells)


def figure(svg: str, caption: str) -> Markup:
    """An inline SVG drawing that we made ourselves."""
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(Markup(svg), caption)


def listing(text: str) -> Markup:
    """Text with its line breaks."""
    return Markup("<pre>{}</pre>").format(text)


def _cell(value: Any) -> Markup:
    if isinstance(value, bool):
        return Markup('<td class="{}">{}</td>').format("good" if value else "bad", "yes" if value else "no")
    if isinstance(value, int):
        return Markup('<td class="number">{:,}</td>').format(value)
    if isinstance(value, float):
        return Markup('<td class="number">{:.4g}</td>').format(value)
    kind = "bar" if isinstance(value, Markup) and "track" in value else ""
    return Markup('<td class="{}">{}</td>').format(kind, escape(value))
