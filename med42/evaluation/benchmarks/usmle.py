"""USMLE sample exam, steps 1 to 3; questions with an image are left out and counted."""

from med42.data.options import LETTERS
from med42.data.row import ColumnError, Row, text
from med42.evaluation.item import Item, multiple_choice

MEAN_OF_SUBJECTS = True


def item(row: Row) -> Item | str:
    """One question; options are a mapping of letters, of which absent ones may be null."""
    if row.get("has_image"):
        return "needs an image"
    options = row.get("options")
    if not isinstance(options, dict):
        raise ColumnError("options", f"a value of type {type(options).__name__}", "a mapping of letters to options")
    given = {letter: text(options, letter) for letter in LETTERS if options.get(letter)}
    answer = text(row, "answer").strip()
    right = list(given).index(answer) if answer in given else -1
    return multiple_choice(text(row, "question"), list(given.values()), right, f"step {row.get('step', '')}".strip())
