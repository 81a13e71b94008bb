"""Anthropic's hh-rlhf: two whole dialogues as text, turns led by `Human:` and `Assistant:`."""

import re

from med42.data.conversation import Dropped, Message
from med42.data.row import Row, text
from med42.preferences.pair import Pair, pair_of

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def pair(row: Row) -> Pair | Dropped:
    """The shared turns as the prompt, the last turns as the answers."""
    chosen, rejected = _turns(text(row, "chosen")), _turns(text(row, "rejected"))
    if not chosen or not rejected or chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        return Dropped("a dialogue that does not end with an answer")
    if chosen[:-1] != rejected[:-1]:
        return Dropped("dialogues differ before the last answer")
    return pair_of(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])


def _turns(dialogue: str) -> list[Message]:
    parts = TURN.split(dialogue)[1:]
    return [Message(role=ROLES[speaker], content=content.strip()) for speaker, content in zip(parts[::2], parts[1::2], strict=True)]
