"""MedMCQA: Indian medical entrance questions with four options; `cop` is the 0-based right one."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped
from med42.data.options import exam_question
from med42.data.row import Row, integer, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The question with its options listed, answered by letter and text."""
    options = [text(row, column) for column in ("opa", "opb", "opc", "opd")]
    yield exam_question(text(row, "question"), options, integer(row, "cop"), source.system)
