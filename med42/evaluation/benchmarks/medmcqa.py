"""MedMCQA, validation split: 4,183 questions; `cop` is the 0-based right option."""

from med42.data.row import Row, integer, text
from med42.evaluation.item import Item, multiple_choice


def item(row: Row) -> Item | str:
    """One question."""
    options = [text(row, column) for column in ("opa", "opb", "opc", "opd")]
    return multiple_choice(text(row, "question"), options, integer(row, "cop"), text(row, "subject_name"))
