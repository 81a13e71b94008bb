"""HeadQA: exams for posts in the Spanish health system, in English; `ra` is the 1-based right answer.

The authors' copy says in `image` which questions need one; EleutherAI's has no such column, so there these cannot be told.
"""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped
from med42.data.options import exam_question
from med42.data.row import Row, integer, records, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The question with its four or five options, answered by letter and text."""
    if row.get("image"):
        yield Dropped("question needs an image")
    else:
        options = [text(answer, "atext") for answer in records(row, "answers", "atext")]
        yield exam_question(text(row, "qtext"), options, integer(row, "ra") - 1, source)
