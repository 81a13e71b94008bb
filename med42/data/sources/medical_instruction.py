"""Medical-Instruction-120k: turns in one text, as `[|Human|] ... [|AI|] ...`."""

from collections.abc import Iterator

from med42.data.conversation import Conversation, Dropped, tagged
from med42.data.row import Row, text
from med42.recipe.schema import Source

TAGS = {"[|Human|]": "user", "[|AI|]": "assistant"}


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """The turns between the tags; what stands before the first tag describes the format and is left off."""
    yield tagged(text(row, "Conversation"), TAGS, source.system)
