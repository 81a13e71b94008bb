"""MMLU, six clinical subjects; the column of Table 4 is the unweighted mean of the subjects."""

from med42.data.row import Row, integer, text, texts
from med42.evaluation.item import Item, multiple_choice

MEAN_OF_SUBJECTS = True


def item(row: Row) -> Item | str:
    """One question."""
    return multiple_choice(text(row, "question"), texts(row, "choices"), integer(row, "answer"), text(row, "subject"))
