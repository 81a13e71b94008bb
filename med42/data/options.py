"""Multiple-choice questions as text: the same form in training data and in benchmarks."""

from collections.abc import Sequence

from med42.data.conversation import Conversation, Dropped, conversation

LETTERS = "ABCDEFGHIJ"


def question_with_options(question: str, options: Sequence[str]) -> str:
    """The question, then one lettered option a line."""
    listed = "\n".join(f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{question.strip()}\n{listed}"


def answer_text(options: Sequence[str], right: int) -> str:
    """Letter and text of one option."""
    return f"{LETTERS[right]}. {options[right].strip()}"


def exam_question(question: str, options: Sequence[str], right: int, system: str | None, reason: str = "") -> Conversation | Dropped:
    """A question with its options listed, answered by letter and text, and by a reason where there is one.

    Args:
        question: the question alone.
        options: two to ten.
        right: 0-based.
        system: a system turn, if any.
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
    return conversation(question_with_options(question, options), f"{answer_text(options, right)}\n\n{reason.strip()}", system)
