"""Natural Instructions v2: a task's definition, an input and its output. The recipe's files choose the tasks."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, conversation
from med42.data.row import Row, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The definition and the input as the request, the target as the answer."""
    given = text(row, "inputs").strip()
    if not given:
        yield Dropped("empty input")
    else:
        yield conversation(f"{text(row, 'definition').strip()}\n\n{given}".strip(), text(row, "targets"), source.system)
