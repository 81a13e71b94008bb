"""CogStack's OpenGPT: turns in one text, as `<|user|> ... <|eos|> <|ai|> ... <|eos|> <|eod|>`."""

import re
from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, tagged
from med42.data.row import Row, text
from med42.recipe.schema import Source

TAGS = {"<|user|>": "user", "<|ai|>": "assistant"}


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The turns between the tags."""
    yield tagged(re.sub(r"<\|eo[sd]\|>", "", text(row, "text")), TAGS, source.system)
