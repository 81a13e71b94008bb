"""Chats as a list of turns in a `messages` column (UltraChat 200k and sets in its form)."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, Message, from_turns
from med42.data.row import Row, records, text
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The turns as published; a last user turn without an answer is left off."""
    turns = records(row, "messages", "role", "content")
    yield from_turns([Message(role=text(turn, "role"), content=text(turn, "content")) for turn in turns], source.system)
