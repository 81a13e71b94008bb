"""Chats as a list of turns in a `messages` column (UltraChat 200k and sets in its form)."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, Message, checked
from med42.data.row import Row, text, turns
from med42.recipe.schema import Source


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The turns as published; a last user turn without an answer is left off."""
    messages = [Message(role=text(turn, "role"), content=text(turn, "content")) for turn in turns(row, "messages")]
    while messages and messages[-1]["role"] == "user":
        messages.pop()
    if source.system and messages and messages[0]["role"] != "system":
        messages.insert(0, Message(role="system", content=source.system))
    yield checked(messages)
