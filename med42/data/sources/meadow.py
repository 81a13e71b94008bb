"""medAlpaca's medical meadow sets: instruction, input, output."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, conversation
from med42.data.row import Row, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The instruction and its input as the question, the output as the answer."""
    question = "\n\n".join(part for part in (text(row, "instruction").strip(), text(row, "input").strip()) if part)
    yield conversation(question, text(row, "output"), source.system)
