"""A conversation, its identity, and the reasons for which one is left out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from med42.errors import Med42Error


class Message(TypedDict):
    """One turn; role is `system`, `user` or `assistant`."""

    role: str
    content: str


Conversation = list[Message]

# Of strings alone this is RFC 8785's form (its keys stand in order where it is used), in a quarter of the time.
_CANONICAL = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode

SPEAKERS = {"system": "system", "human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Dropped:
    """Why a row, or one of the conversations it could give, is left out."""

    reason: str


def conversation(user: str, assistant: str, system: str | None = None) -> Conversation | Dropped:
    """A conversation of one question and one answer, or why there is none."""
    turns = [Message(role="user", content=user), Message(role="assistant", content=assistant)]
    return checked(([Message(role="system", content=system)] if system else []) + turns)


def checked(turns: Sequence[Message]) -> Conversation | Dropped:
    """Strip the turns and refuse what cannot be trained on."""
    stripped = [Message(role=turn["role"], content=turn["content"].strip()) for turn in turns]
    for turn in stripped:
        if not turn["content"]:
            return Dropped(f"empty {turn['role']} turn")
    roles = [turn["role"] for turn in stripped if turn["role"] != "system"]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        return Dropped("turns do not alternate from user to assistant")
    return stripped


def from_turns(turns: list[Message], system: str | None) -> Conversation | Dropped:
    """Turns as published, after a system turn if they have none; a last user turn without an answer is left off."""
    turns = list(turns)
    while turns and turns[-1]["role"] == "user":
        turns.pop()
    if system and turns and turns[0]["role"] != "system":
        turns.insert(0, Message(role="system", content=system))
    return checked(turns)


def from_speakers(turns: list[tuple[str, str]], system: str | None) -> Conversation | Dropped:
    """Turns of the speakers system, human and gpt, as many published chats name them."""
    if unknown := sorted({speaker for speaker, _ in turns} - set(SPEAKERS)):
        return Dropped(f"a turn from {unknown[0]}")
    return from_turns([Message(role=SPEAKERS[speaker], content=content) for speaker, content in turns], system)


def tagged(text: str, roles: dict[str, str], system: str | None) -> Conversation | Dropped:
    """Turns that one text holds, each after the tag of its role; empty last turns are left off."""
    parts = re.split(f"({'|'.join(map(re.escape, roles))})", text)[1:]
    turns = [Message(role=roles[tag], content=content) for tag, content in zip(parts[::2], parts[1::2], strict=True)]
    while turns and not turns[-1]["content"].strip():
        turns.pop()
    return from_turns(turns, system) if turns else Dropped("no turn in the text")


def row_digest(turns: Sequence[Message]) -> str:
    """SHA-256 of a conversation's canonical JSON: the identity of a row, whichever file it came from.

    Raises:
        Med42Error: a turn holds half of a surrogate pair, which no UTF-8 text can.
    """
    try:
        text = _CANONICAL([{"content": turn["content"], "role": turn["role"]} for turn in turns]).encode()
    except UnicodeEncodeError as error:
        raise Med42Error("conversation", f"a character that UTF-8 cannot hold ({error})", "whole characters", "Mend the row.") from error
    return hashlib.sha256(text).hexdigest()


def choose(options: Sequence[str], *keys: object) -> str:
    """One of the options, decided by a digest of the keys and by nothing else."""
    return options[number(len(options), *keys)]


def number(below: int, *keys: object) -> int:
    """An integer in [0, below), decided by a digest of the keys."""
    text = "\x1f".join(map(str, keys)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % below


def order(seed: int, digest: str) -> str:
    """A sort key that shuffles digests by seed; adding a row never changes how the others compare."""
    return hashlib.sha256(f"{seed}\x1f{digest}".encode()).hexdigest()
