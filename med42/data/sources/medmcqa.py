"""MedMCQA: Indian medical entrance questions with four options; `cop` is the 0-based right one."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, conversation
from med42.data.options import answer_text, question_with_options
from med42.data.row import Row, integer, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The question with its options listed, answered by letter and text."""
    options = [text(row, column).strip() for column in ("opa", "opb", "opc", "opd")]
    right = integer(row, "cop")
    if not text(row, "question").strip():
        yield Dropped("empty question")
    elif not all(options):
        yield Dropped("empty option")
    elif not 0 <= right < 4:
        yield Dropped("option index is out of range")
    else:
        yield conversation(question_with_options(text(row, "question"), options), answer_text(options, right), source.system)
