"""UltraMedical: exam questions with reasoning, and chats, as turns `from` human or gpt."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, from_speakers
from med42.data.row import Row, records, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The turns as published."""
    turns = records(row, "conversations", "from", "value")
    yield from_speakers([(text(turn, "from"), text(turn, "value")) for turn in turns], source.system)
