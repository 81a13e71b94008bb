"""Multiple-choice questions as text: one form in benchmarks, several wordings in training data with that form among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from med42.data.conversation import Conversation, Dropped, conversation, number
from med42.recipe.schema import Source

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Wording:
    """How a question is put. Every wording begins with the question and its options, by which decontamination knows it.

    Attributes:
        mark: how an option's letter is set.
        ask: what is asked below the options.
        ask_why: what is asked there where the answer holds a reason.
    """

    mark: str = "{}."
    ask: str = ""
    ask_why: str = ""


PLAIN = Wording()
WORDINGS = (
    PLAIN,
    Wording("{}.", "Which option is right?", "Which option is right, and why?"),
    Wording("{})", "Choose the best answer.", "Choose the best answer and explain it."),
    Wording("({})", "Give the letter and the text of the right option.", "Give letter and text of the right option, then the reason."),
    Wording("{}.", "Answer this exam question with one of the options.", "Answer this exam question and justify your answer."),
    Wording("{})", "Select the one option that fits.", "Select the one option that fits. Say what speaks for it."),
)


def question_with_options(question: str, options: Sequence[str], wording: Wording = PLAIN) -> str:
    """The question, then one lettered option a line."""
    listed = "\n".join(f"{wording.mark.format(letter)} {option.strip()}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{question.strip()}\n{listed}"


def answer_text(options: Sequence[str], right: int) -> str:
    """Letter and text of one option."""
    return f"{LETTERS[right]}. {options[right].strip()}"


def exam_question(question: str, options: Sequence[str], right: int, source: Source, reason: str = "") -> Conversation | Dropped:
    """A question with its options listed, answered by letter and text, and by a reason where there is one.

    Args:
        question: the question alone.
        options: two to ten.
        right: 0-based.
        source: the recipe's source, for its system turn and its wordings; which of them is taken follows from question and options.
        reason: why that option is right.
    """
    if not question.strip():
        return Dropped("empty question")
    if not 2 <= len(options) <= len(LETTERS):
        return Dropped(f"not 2 to {len(LETTERS)} options")
    if not all(option.strip() for option in options):
        return Dropped("empty option")
    if not 0 <= right < len(options):
        return Dropped("option index is out of range")
    wording = PLAIN if source.wordings == "plain" else WORDINGS[number(len(WORDINGS), question, *options)]
    ask = wording.ask_why if reason.strip() else wording.ask
    return conversation(f"{question_with_options(question, options, wording)}\n\n{ask}",
                        f"{answer_text(options, right)}\n\n{reason.strip()}", source.system)
