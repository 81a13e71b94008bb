r"""Conversations as tokens in the Llama-3 Instruct format, with the loss on the assistant's tokens only.

    <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n...<|eot_id|><|start_header_id|>assistant...

`llama3.jinja` beside this file is the same format as a chat template with generation marks; a test holds
the two equal. This module needs the `tokenizers` library alone, so that data stages run without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from med42.data.conversation import Message
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


class Chat:
    """The chat format of one tokenizer.

    Text that looks like a control token stays text: nothing a user writes can open or end a turn.
    """

    def __init__(self, tokenizer: Path) -> None:
        """Load `tokenizer.json` from a model folder.

        Raises:
            Med42Error: the folder has no tokenizer, or one without Llama-3's control tokens.
        """
        path = tokenizer / "tokenizer.json"
        if not path.is_file():
            raise Med42Error(path, "no such file", "the base model's tokenizer", "Prepare the base model first.")
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()  # a published tokenizer may hold its last user's settings
        self._tokenizer.no_padding()
        ids = {token: self._tokenizer.token_to_id(token) for token in (BEGIN, HEADER, HEADER_END, TURN_END)}
        if missing := [token for token, number in ids.items() if number is None]:
            raise Med42Error(path, f"no token {', '.join(missing)}", "a tokenizer of the Llama-3 family", "Choose a Llama-3 Instruct base.")
        self._begin, self._header, self._header_end, self._turn_end = (number for number in ids.values() if number is not None)
        self._gap = self._text("\n\n")

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Tokens and labels of a whole conversation; every assistant turn is learned, with its end mark."""
        ids, labels = [self._begin], [IGNORED]
        for message in messages:
            opening = self._opening(message["role"])
            content = [*self._text(message["content"].strip()), self._turn_end]
            ids += opening + content
            labels += [IGNORED] * len(opening) + (content if message["role"] == "assistant" else [IGNORED] * len(content))
        return Encoded(ids, labels)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the turns before an answer, ending with the assistant's header."""
        return [*self.encode(messages).ids, *self._opening("assistant")]

    def answer(self, content: str) -> list[int]:
        """Tokens of an assistant's answer with its end mark."""
        return [*self._text(content.strip()), self._turn_end]

    def _opening(self, role: str) -> list[int]:
        return [self._header, *self._text(role), self._header_end, *self._gap]

    def _text(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
