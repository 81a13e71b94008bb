r"""Conversations as tokens in the Llama-3 Instruct format, with the loss on the assistant's tokens only.

    <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n...<|eot_id|><|start_header_id|>assistant...

`llama3.jinja` beside this file is the same format as a chat template with generation marks; a test holds
the two equal. This module needs no torch, so that data stages run without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from med42.data.conversation import Message
from med42.data.encoding import TextEncoder
from med42.errors import Med42Error

TEMPLATE = Path(__file__).with_name("llama3.jinja")
BEGIN, END, HEADER, HEADER_END, TURN_END, PAD = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>",
)
SPECIAL_TOKENS = (BEGIN, END, HEADER, HEADER_END, TURN_END, PAD)
IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """One conversation as token ids, and labels of equal length (-100 off the assistant's tokens)."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class EncodedBatch:
    """Conversations one after another, as signed tokens: the id where it is learned, its complement ~id where it is not.

    Attributes:
        tokens: int32 [tokens of all].
        lengths: int64 [conversations]; tokens of each.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int64]


def ids_of(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """Ids of signed tokens. Shifted by 31, a token is 0, or -1 if negative; x ^ 0 is x and x ^ -1 is ~x."""
    return tokens ^ (tokens >> 31)


def labels_of(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels of signed tokens: the id where it is learned, else -100."""
    return np.where(tokens < 0, np.int32(IGNORED), tokens)


class Chat:
    """The chat format of one tokenizer.

    Text that looks like a control token stays text: nothing a user writes can open or end a turn.
    """

    def __init__(self, tokenizer: Path, fast: bool = False) -> None:
        """Load `tokenizer.json` from a model folder.

        Args:
            tokenizer: the folder.
            fast: encode batches by tiktoken, where `encoding.why_not_tiktoken` knows nothing against it.

        Raises:
            Med42Error: the folder has no tokenizer, or one without Llama-3's control tokens.
        """
        path = tokenizer_file(tokenizer)
        self._encoder = TextEncoder(path, fast)
        ids = {token: self._encoder.tokenizer.token_to_id(token) for token in (BEGIN, HEADER, HEADER_END, TURN_END)}
        if missing := [token for token, number in ids.items() if number is None]:
            raise Med42Error(path, f"no token {', '.join(missing)}", "a tokenizer of the Llama-3 family", "Choose a Llama-3 Instruct base.")
        self._begin, self._header, self._header_end, self._turn_end = (number for number in ids.values() if number is not None)
        self._gap = self._text("\n\n")

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Tokens and labels of a whole conversation; every assistant turn is learned, with its end mark."""
        ids, labels = [self._begin], [IGNORED]
        for message in messages:
            opening = self._opening(message["role"])
            content = self.answer(message["content"])
            ids += opening + content
            labels += [IGNORED] * len(opening) + (content if message["role"] == "assistant" else [IGNORED] * len(content))
        return Encoded(ids, labels)

    def encode_batch(self, conversations: Iterable[Sequence[Message]]) -> EncodedBatch:
        """What `encode` makes of each conversation, as arrays."""
        conversations = list(conversations)
        turns = [message for messages in conversations for message in messages]
        roles, contents = ([turn[key] for turn in turns] for key in ("role", "content"))
        return self.encode_turns(roles, contents, [len(messages) for messages in conversations])

    def encode_turns(self, roles: Sequence[str], contents: Sequence[str], turns: Sequence[int]) -> EncodedBatch:
        """Conversations given as columns, as Arrow has them.

        Args:
            roles: who speaks, in every turn of all conversations.
            contents: what is said there.
            turns: how many turns each conversation has.

        Raises:
            Med42Error: the tokenizer gives up on a content.
        """
        begin, end = np.asarray([self._begin], np.int32), np.asarray([self._turn_end], np.int32)
        openings = {role: np.asarray(self._opening(role), np.int32) for role in set(roles)}
        # Parts of a conversation: the begin mark, and three for every turn, of which the last two are learned.
        parts: list[NDArray[np.int32]] = []
        learned: list[bool] = []
        said = zip(roles, self._encoder.arrays([content.strip() for content in contents]), strict=True)
        for count in turns:
            parts.append(begin)
            learned.append(False)
            for role, content in (next(said) for _ in range(count)):
                speaks = role == "assistant"
                parts += (openings[role], content, end)
                learned += (False, speaks, speaks)
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        tokens: NDArray[np.int32] = np.concatenate([*parts, np.empty(0, np.int32)])
        tokens ^= np.repeat(np.asarray(learned, np.int32) - 1, sizes)  # x ^ -1 is ~x, x ^ 0 is x
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(1 + 3 * np.asarray(turns, np.int64))])
        return EncodedBatch(tokens, np.diff(before[bounds]))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the turns before an answer, ending with the assistant's header."""
        return [*self.encode(messages).ids, *self._opening("assistant")]

    def answer(self, content: str) -> list[int]:
        """Tokens of an assistant's answer with its end mark."""
        return [*self._text(content.strip()), self._turn_end]

    def _opening(self, role: str) -> list[int]:
        return [self._header, *self._text(role), self._header_end, *self._gap]

    def _text(self, text: str) -> list[int]:
        return self._encoder.ids(text)


def tokenizer_file(model: Path) -> Path:
    """A model folder's `tokenizer.json`.

    Raises:
        Med42Error: it has none.
    """
    path = model / "tokenizer.json"
    if not path.is_file():
        raise Med42Error(path, "no such file", "the base model's tokenizer", "Prepare the base model first.")
    return path
