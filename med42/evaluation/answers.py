"""What counts as an answer: three forms, three ways to allow for its length, and which answer a model prefers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from med42.data.options import LETTERS
from med42.recipe.schema import AnswerForm

FORMS: tuple[AnswerForm, ...] = ("letter_and_text", "text", "letter")
NORMALISATIONS = ("none", "tokens", "bytes")


def answers(options: Sequence[str], lettered: bool, form: AnswerForm) -> list[str]:
    """The continuations that are scored: what the assistant would say.

    Words such as yes and no are said as they are; lettered options in one of the forms: `A. Aspirin`, `Aspirin`, `A`.
    """
    if not lettered or form == "text":
        return list(options)
    if form == "letter":
        return list(LETTERS[: len(options)])
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]


def forms_of(lettered: bool, forms: Sequence[AnswerForm]) -> Sequence[AnswerForm]:
    """The forms that differ: words without letters have one."""
    return forms if lettered else forms[:1]


def all_answers(options: Sequence[str], lettered: bool, forms: Sequence[AnswerForm]) -> list[str]:
    """The answers of every form, form after form."""
    return [answer for form in forms_of(lettered, forms) for answer in answers(options, lettered, form)]


def lengths(said: Sequence[str], tokens: Sequence[int], normalisation: str) -> list[int]:
    """What the log-likelihood of each answer is divided by: 1, its tokens, or its bytes in UTF-8."""
    if normalisation == "tokens":
        return list(tokens)
    return [len(answer.encode()) if normalisation == "bytes" else 1 for answer in said]


def preferred(log_likelihoods: Sequence[float], divisors: Sequence[int]) -> int:
    """Index of the best answer; of equal ones the first."""
    return max(range(len(log_likelihoods)), key=lambda place: log_likelihoods[place] / divisors[place])


def metrics(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """For lm-eval's own command: whether a question is right in every form, plain and by bytes; tokens it does not tell."""
    told: dict[str, float] = {}
    count = len(doc["options"])
    for number, form in enumerate(FORMS):
        part = slice(number * count, (number + 1) * count) if doc["lettered"] else slice(0, count)
        likelihoods = [value for value, _ in results[part]]
        for normalisation in ("none", "bytes"):
            divisors = lengths(doc["answers"][part], [], normalisation)
            told[f"{form}_{normalisation}"] = float(preferred(likelihoods, divisors) == doc["right"])
    return told
