"""Multiple-choice questions as text: the same form in training data and in benchmarks."""

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"


def question_with_options(question: str, options: Sequence[str]) -> str:
    """The question, then one lettered option a line."""
    listed = "\n".join(f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{question.strip()}\n{listed}"


def answer_text(options: Sequence[str], right: int) -> str:
    """Letter and text of one option."""
    return f"{LETTERS[right]}. {options[right].strip()}"
