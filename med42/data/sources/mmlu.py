"""MMLU: questions with four options; `answer` is the 0-based right one, `sites` names the subjects."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped
from med42.data.options import exam_question
from med42.data.row import Row, integer, text, texts
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The question with its options, answered by letter and text."""
    if source.sites and text(row, "subject") not in source.sites:
        yield Dropped("subject is not among the recipe's")
    else:
        yield exam_question(text(row, "question"), texts(row, "choices"), integer(row, "answer"), source)
