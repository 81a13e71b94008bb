"""SciQ: science exam questions with one right and three wrong answers, most with a supporting paragraph."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, number
from med42.data.options import exam_question
from med42.data.row import Row, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The question with four options, the right one at a place that the row's digest decides; the paragraph as its reason."""
    question, right = text(row, "question"), text(row, "correct_answer")
    options = [text(row, f"distractor{each}") for each in (1, 2, 3)]
    place = number(4, question, right)
    options.insert(place, right)
    yield exam_question(question, options, place, source, reason=text(row, "support"))
