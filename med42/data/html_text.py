"""The text of a piece of HTML, with its paragraphs, lists and code kept apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from med42.data.row import without_controls

BLOCKS = {"p", "div", "pre", "blockquote", "ul", "ol", "table", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "hr"}


def plain(html: str) -> str:
    """Text without tags: blank lines between blocks, a dash before a list's items, code as it stands."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    # A tag may name a control character, as &#12; does.
    text = re.sub(r"(?<![ \t])[ \t]+\n", "\n", without_controls("".join(reader.parts)))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.code += tag == "pre"
        if tag in BLOCKS:
            self.parts.append("\n\n")
        elif tag == "li":
            self.parts.append("\n- ")
        elif tag == "br":
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.code -= tag == "pre" and self.code > 0
        if tag in BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        # Outside code a line break in the source is a space, and a break between two blocks is nothing.
        text = data if self.code else re.sub(r"\s+", " ", data)
        if text.strip() or (self.parts and not self.parts[-1].endswith("\n")):
            self.parts.append(text.lstrip() if not self.code and self.parts and self.parts[-1].endswith("\n") else text)
