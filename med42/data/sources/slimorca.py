"""SlimOrca: chats as turns `from` system, human or gpt, in three parts that it does not tell apart.

OpenOrca, which it was drawn from, does: the ids of its rows begin with t0, flan, cot or niv. So its rows are the source's `labels`,
joined by system prompt and question; `sites` names the part that is wanted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from med42.data.conversation import Conversation, Dropped, from_speakers
from med42.data.row import Row, records, text
from med42.recipe.schema import Source

SEVERAL = "several"


def conversations(row: Row, source: Source) -> Iterator[Conversation | Dropped]:
    """All turns as published, where the recipe asks for no part."""
    if source.sites:
        yield Dropped("part is not known without labels")
    else:
        turns = records(row, "conversations", "from", "value")
        yield from_speakers([(text(turn, "from"), text(turn, "value")) for turn in turns], source.system)


class Labelled:
    """The converter that knows which part a row belongs to.

    It keeps 16 bytes a labelled row: about 200 MB for OpenOrca's million.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.parts: dict[bytes, str] = {}
        for row in rows:
            part = text(row, "id").partition(".")[0]
            key = _key(text(row, "system_prompt"), text(row, "question"))
            self.parts[key] = part if self.parts.get(key, part) == part else SEVERAL

    def conversations(self, row: Row, source: Source) -> Iterator[Conversation | Dropped]:
        """The turns of a row whose part the recipe names."""
        said = {text(turn, "from"): text(turn, "value") for turn in reversed(records(row, "conversations", "from", "value"))}
        part = self.parts.get(_key(said.get("system", ""), said.get("human", "")))
        if part is None:
            yield Dropped("question is not among the labels")
        elif part == SEVERAL:
            yield Dropped("labels disagree on its part")
        elif part not in source.sites:
            yield Dropped("part is not the recipe's")
        else:
            yield from conversations(row, source.model_copy(update={"sites": []}))


def labelled(rows: Iterable[Row]) -> Labelled:
    """A converter that takes each row's part from other rows."""
    return Labelled(rows)


def _key(system: str, question: str) -> bytes:
    return hashlib.sha256(f"{system.strip()}\x1f{question.strip()}".encode()).digest()[:16]
