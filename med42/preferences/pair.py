"""A prompt with a better and a worse answer."""

from __future__ import annotations

from dataclasses import dataclass

from med42.data.conversation import Conversation, Dropped, Message
from med42.lineage.digest import value_digest


@dataclass(frozen=True)
class Pair:
    """One preference.

    Attributes:
        prompt: the turns before the answer; the last one is the user's.
        chosen: the better answer.
        rejected: the worse answer.
        margin: how much better the publisher scored it, where they did.
    """

    prompt: Conversation
    chosen: str
    rejected: str
    margin: float | None = None

    @property
    def id(self) -> str:
        """Digest of prompt and answers."""
        return value_digest({"prompt": [dict(turn) for turn in self.prompt], "chosen": self.chosen, "rejected": self.rejected})


def pair_of(prompt: list[Message], chosen: str, rejected: str, margin: float | None = None) -> Pair | Dropped:
    """A pair, or why there is none."""
    turns = [Message(role=turn["role"], content=turn["content"].strip()) for turn in prompt]
    if not turns or turns[-1]["role"] != "user" or not all(turn["content"] for turn in turns):
        return Dropped("prompt is empty or does not end with the user")
    roles = [turn["role"] for turn in turns if turn["role"] != "system"]
    if roles != [*["user", "assistant"] * (len(roles) // 2), "user"]:
        return Dropped("turns do not alternate from user to assistant")
    chosen, rejected = chosen.strip(), rejected.strip()
    if not chosen or not rejected:
        return Dropped("empty answer")
    if chosen == rejected:
        return Dropped("equal answers")
    if margin is not None and margin <= 0:
        return Dropped("tie, or the chosen answer is scored lower")
    return Pair(turns, chosen, rejected, margin)
