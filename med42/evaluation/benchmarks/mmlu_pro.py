"""MMLU-Pro, clinical subset: up to ten options; the subject is the MMLU subject that a question was taken from."""

from med42.data.row import Row, integer, text, texts
from med42.evaluation.item import Item, multiple_choice


def item(row: Row) -> Item | str:
    """One question."""
    return multiple_choice(text(row, "question"), texts(row, "options"), integer(row, "answer_index"),
                           text(row, "src").removeprefix("ori_mmlu-"))
