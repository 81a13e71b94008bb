"""Finding benchmark text in training text: exhaustively, by runs of words.

A training text leaks when it holds a benchmark question whole, or shares `run` words in a row with a
benchmark's text. Words are lower-cased letters and digits, so case, punctuation and line breaks hide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

WORD = re.compile(r"[^\W_]+")

# A shorter question ("Is it safe?") stands in many innocent texts; it leaks only as a whole turn.
FEWEST_WORDS = 5


def words(text: str) -> tuple[str, ...]:
    """Lower-cased words of a text."""
    return tuple(WORD.findall(text.lower()))


@dataclass
class Overlap:
    """An index of benchmark text that training text is looked up in."""

    run: int
    _runs: dict[int, dict[tuple[str, ...], str]] = field(default_factory=dict)
    _whole: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, benchmark: str, texts: Iterable[str]) -> None:
        """Index a benchmark item's texts (question, context)."""
        for text in texts:
            found = words(text)
            if len(found) < FEWEST_WORDS:
                self._whole.setdefault(found, benchmark)
                continue
            size = min(self.run, len(found))
            index = self._runs.setdefault(size, {})
            for start in range(len(found) - size + 1):
                index.setdefault(found[start : start + size], benchmark)

    def leak(self, texts: Iterable[str]) -> str | None:
        """The benchmark whose text stands in one of these texts, if any."""
        for text in texts:
            found = words(text)
            if found in self._whole:
                return self._whole[found]
            for size, index in self._runs.items():
                for start in range(len(found) - size + 1):
                    if (benchmark := index.get(found[start : start + size])) is not None:
                        return benchmark
        return None


def overlap_with(items: Iterable[dict[str, str]], run: int) -> Overlap:
    """Index benchmark items (columns `benchmark`, `question`, `context`)."""
    overlap = Overlap(run)
    for item in items:
        overlap.add(item["benchmark"], [text for text in (item["question"], item["context"]) if text])
    return overlap
