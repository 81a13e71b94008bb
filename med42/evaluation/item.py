"""One benchmark question, in the form that every benchmark is asked in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from med42.data.options import LETTERS, question_with_options
from med42.lineage.digest import merkle_root, value_digest


@dataclass(frozen=True)
class Item:
    """A question with its possible answers.

    Attributes:
        question: the question alone (what training text is searched for).
        options: the possible answers.
        right: index of the right one.
        prompt: what the model is asked, options listed.
        lettered: the options carry letters; False where they are words such as yes and no.
        context: text that the question is about, if any.
        subject: subject, step or category, for the scores by subject.
    """

    question: str
    options: tuple[str, ...]
    right: int
    prompt: str
    lettered: bool = True
    context: str = ""
    subject: str = ""

    @property
    def id(self) -> str:
        """Digest of what decides the score."""
        return value_digest({"prompt": self.prompt, "options": list(self.options), "right": self.right})


def multiple_choice(question: str, options: Sequence[str], right: int, subject: str = "") -> Item | str:
    """A lettered item, or the reason why there is none."""
    stripped = tuple(option.strip() for option in options)
    if not question.strip():
        return "empty question"
    if not all(stripped):
        return "empty option"
    if len(stripped) > len(LETTERS):
        return f"more than {len(LETTERS)} options"
    if not 0 <= right < len(stripped):
        return "option index is out of range"
    return Item(question.strip(), stripped, right, question_with_options(question, stripped), subject=subject)


def row_lock(ids: Sequence[str]) -> dict[str, Any]:
    """Count and Merkle root of some questions' ids: by these the mix is searched and the scores are made."""
    return {"rows": len(ids), "root": merkle_root(ids)}
