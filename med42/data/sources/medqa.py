"""MedQA: questions in the style of the USMLE, with four options; `label` is the 0-based right one."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped
from med42.data.options import exam_question
from med42.data.row import Row, integer, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The question with its options, answered by letter and text."""
    options = [text(row, f"ending{number}") for number in range(4)]
    yield exam_question(text(row, "sent1"), options, integer(row, "label"), source)
