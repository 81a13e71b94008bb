"""MedQA, 4-option USMLE test split: 1,273 questions."""

from med42.data.row import Row, integer, text
from med42.evaluation.item import Item, multiple_choice


def item(row: Row) -> Item | str:
    """One question."""
    return multiple_choice(text(row, "sent1"), [text(row, f"ending{number}") for number in range(4)], integer(row, "label"))
