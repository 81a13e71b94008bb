"""Text to token ids: by the `tokenizers` library, or about five times as fast by tiktoken where both give the same ids.

tiktoken gets its vocabulary from the model's own `tokenizer.json`; it fetches nothing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from med42.errors import Med42Error

if TYPE_CHECKING:
    import tiktoken


class TextEncoder:
    """Ids of texts in which nothing is a control token, whatever it looks like."""

    def __init__(self, path: Path, fast: bool = False) -> None:
        """Load a `tokenizer.json`.

        Args:
            path: the file.
            fast: by tiktoken. Only for a tokenizer of which `why_not_tiktoken` knows nothing against it.
        """
        self.tokenizer = Tokenizer.from_file(str(path))
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()  # a published tokenizer may hold its last user's settings
        self.tokenizer.no_padding()
        self._byte_pairs = byte_pair_encoding(json.loads(path.read_text())) if fast else None

    def ids(self, text: str) -> list[int]:
        """Ids of one text.

        Raises:
            Med42Error: the tokenizer gives up on it.
        """
        return self._slowly([text])[0].tolist()

    def arrays(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Ids of each text.

        Raises:
            Med42Error: the tokenizer gives up on one.
        """
        if self._byte_pairs is None:
            return self._slowly(texts)
        # What `Encoding.encode_to_numpy` does with nothing special, less its checks for that in each call.
        encode, nothing, found = self._byte_pairs._core_bpe.encode_to_tiktoken_buffer, frozenset[str](), []
        for text in texts:
            try:
                found.append(np.frombuffer(encode(text, nothing), np.int32))
            except ValueError:  # its pattern takes no run of about a million white spaces
                found.append(self._slowly([text])[0])
        return found

    def _slowly(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        try:
            encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        except BaseException as error:
            # What Rust code gives up with is no Exception, and its class cannot be imported.
            if type(error).__name__ != "PanicException":
                raise
            raise Med42Error(f"a text of {max(map(len, texts)):,} characters", f"more than the tokenizer can cut ({error})",
                             "runs of fewer than a million white spaces", "Clean or drop the row at its source.") from error
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]


def why_not_tiktoken(path: Path, texts: Sequence[str]) -> str:
    """Why tiktoken cannot stand for a tokenizer; empty where its ids of all these texts are the same.

    tiktoken joins, again and again, the two neighbours whose joint is the earliest token of the vocabulary, in the pieces
    that one pattern cuts. That is what a byte-level BPE of `tokenizers` does if nothing but one such pattern comes before
    it, whole pieces are looked up first, and its merges are in the order of the ids they make. Whether it has all merges
    that its vocabulary allows, and whether the two engines read the pattern alike, the texts tell.
    """
    description = json.loads(path.read_text())
    if reason := _another_kind(description):
        return reason
    try:
        fast, slow = TextEncoder(path, fast=True), TextEncoder(path)
    except Exception as error:  # a pattern that its engine cannot read; there is no narrower class
        return f"tiktoken cannot read it ({error})"
    for number, (one, other) in enumerate(zip(fast.arrays(texts), slow.arrays(texts), strict=True), 1):
        if not np.array_equal(one, other):
            return f"text {number} of a sample of {len(texts):,} has other ids"
    return ""


def byte_pair_encoding(description: dict[str, Any]) -> tiktoken.Encoding:
    """A `tokenizer.json` as tiktoken has it: each token's bytes, and its id as its rank."""
    import tiktoken

    special = {token["content"]: token["id"] for token in description["added_tokens"]}
    values = _byte_values()
    ranks = {bytes(values[mark] for mark in token): rank for token, rank in description["model"]["vocab"].items() if token not in special}
    return tiktoken.Encoding("model", pat_str=_pattern(description), mergeable_ranks=ranks, special_tokens=special)


def _another_kind(description: dict[str, Any]) -> str:
    """What keeps a tokenizer from being the kind that tiktoken knows."""
    model, vocabulary = description["model"], description["model"].get("vocab", {})
    if model.get("type") != "BPE" or not model.get("ignore_merges"):
        return "it is no BPE that looks up whole pieces first"
    more = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if given := [key for key in more if model.get(key)]:
        return f"its model has {', '.join(given)}"
    if description.get("normalizer"):
        return "it changes the text first"
    if not _pattern(description):
        return "its texts are not cut by one pattern alone"
    if plain := [token["content"] for token in description["added_tokens"] if not token["special"]]:
        return f"'{plain[0]}' is an added token that is no control token"
    special = {token["content"] for token in description["added_tokens"]}
    values = _byte_values()
    if not vocabulary.keys() >= values.keys() or any(mark not in values for token in vocabulary if token not in special for mark in token):
        return "its vocabulary is not one of bytes"
    made = [vocabulary["".join(pair if isinstance(pair, list) else pair.split(" "))] for pair in model["merges"]]
    if any(later < earlier for earlier, later in itertools.pairwise(made)):
        return "its merges are not in the order of the ids they make"
    return ""


def _pattern(description: dict[str, Any]) -> str:
    """The pattern that cuts texts into pieces, if that is all that is done before the merges."""
    steps = (description.get("pre_tokenizer") or {}).get("pretokenizers", [])
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return ""
    split, level = steps
    alone = split["behavior"] == "Isolated" and not split["invert"] and not level["add_prefix_space"] and not level["use_regex"]
    return split["pattern"].get("Regex", "") if alone else ""


def _byte_values() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2, `bytes_to_unicode`).

    Printable characters of Latin-1 stand for themselves; the other 68 bytes are U+0100 and on, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
