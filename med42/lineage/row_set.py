"""A set of rows by their digests alone, and proofs that a row is in it or is not.

On disk: one line of canonical JSON, the labels (say, the names of sources); then 34 bytes a row, sorted: the SHA-256
of the row and the number of its label, big-endian. The Merkle tree (RFC 6962, section 2.1) stands on the sorted
digests, without the labels: what is in the set is proven by the path from its leaf to the root, what is not by the
two neighbours between which it would stand. Neither shows any text, nor any digest but the neighbours'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.lineage.strict_json import read_canonical

ROWS, LEFT_OUT = "rows.bin", "left_out.bin"
WIDTH = 34
BLOCK = 1 << 16  # leaves whose subtree is made at once: a power of two, so that the tree is the same
LONGEST_LABELS = 1 << 20


@dataclass(frozen=True)
class RowSet:
    """The rows, in the order of their digests.

    Attributes:
        labels: what a row may be labelled.
        entries: 34 bytes a row.
    """

    labels: tuple[str, ...]
    entries: memoryview

    def __len__(self) -> int:
        return len(self.entries) // WIDTH

    def digest(self, row: int) -> bytes:
        """The digest of a row by its place."""
        return bytes(self.entries[WIDTH * row : WIDTH * row + 32])

    def label(self, row: int) -> str:
        """The label of a row by its place."""
        return self.labels[int.from_bytes(self.entries[WIDTH * row + 32 : WIDTH * row + 34], "big")]

    def place(self, digest: bytes) -> int:
        """How many rows stand before a digest, in it or not."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.digest(middle) < digest:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, digest: bytes) -> int | None:
        """The place of a row; None where it is not in the set."""
        place = self.place(digest)
        return place if place < len(self) and self.digest(place) == digest else None

    @cached_property
    def blocks(self) -> list[bytes]:
        """The roots of the subtrees of each `BLOCK` rows."""
        return [_up(self._leaves(start))[-1][0] for start in range(0, len(self), BLOCK)]

    @cached_property
    def root(self) -> str:
        """The root of the tree, as `merkle_root` has it of the same digests."""
        return (_up(self.blocks)[-1][0] if self.blocks else hashlib.sha256(b"").digest()).hex()

    def path(self, row: int) -> list[str]:
        """The audit path of a row (RFC 6962, section 2.1.1): the siblings from its leaf to the root."""
        block, inside = divmod(row, BLOCK)
        siblings = [*_siblings(_up(self._leaves(block * BLOCK)), inside), *_siblings(_up(self.blocks), block)]
        return [sibling.hex() for sibling in siblings]

    def counts(self) -> dict[str, int]:
        """How many rows have each label."""
        codes = self.entries
        found = [0] * len(self.labels)
        for at in range(32, len(codes), WIDTH):
            found[codes[at] << 8 | codes[at + 1]] += 1
        return dict(zip(self.labels, found, strict=True))

    def _leaves(self, start: int) -> list[bytes]:
        stop = min(start + BLOCK, len(self))
        some = bytes(self.entries[WIDTH * start : WIDTH * stop])
        return [hashlib.sha256(b"\0" + some[at : at + 32]).digest() for at in range(0, len(some), WIDTH)]


def read_row_set(content: memoryview, where: object) -> RowSet:
    """A set as it lies on disk.

    Raises:
        Med42Error: it is not in its one form: labels, then whole entries in ascending order.
    """
    head = bytes(content[:LONGEST_LABELS])
    end = head.find(b"\n")
    labels = read_canonical(head[:end], where) if end >= 0 else None
    entries = content[end + 1 :]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) or len(entries) % WIDTH:
        raise Med42Error(where, "a file that is no set of rows", "a line of labels and 34 bytes a row", "It was changed, or cut short.")
    last = b""
    for at in range(0, len(entries), WIDTH * 4096):
        some = bytes(entries[at : at + WIDTH * 4096])
        for start in range(0, len(some), WIDTH):
            digest = some[start : start + 32]
            if digest <= last or (some[start + 32] << 8 | some[start + 33]) >= len(labels):
                raise Med42Error(f"{where}, row {(at + start) // WIDTH:,}", "a digest out of order, twice, or without a label",
                                 "digests in ascending order", "It was changed.")
            last = digest
    return RowSet(tuple(labels), entries)


def write_row_set(path: Path, labels: Sequence[str], parts: Iterator[tuple[bytes, Sequence[int]]]) -> None:
    """Write a set, of rows that come in any order and perhaps more than once; of those the lowest label stays.

    Args:
        path: the file to write.
        labels: at most 65,536.
        parts: some digests (32 bytes each, joined) and the number of the label of each.
    """
    import numpy  # here, not above: whoever verifies a bundle need not have it

    held = bytearray()
    for digests, numbers in parts:
        table = numpy.empty((len(numbers), WIDTH), dtype=numpy.uint8)
        table[:, :32] = numpy.frombuffer(digests, dtype=numpy.uint8).reshape(-1, 32)
        table[:, 32:] = numpy.asarray(numbers, dtype=">u2").view(numpy.uint8).reshape(-1, 2)
        held += table.tobytes()
    if held:
        numpy.frombuffer(held, dtype=f"S{WIDTH}").sort()
    table = numpy.frombuffer(held, dtype=numpy.uint8).reshape(-1, WIDTH)
    fresh = numpy.ones(len(table), dtype=bool)
    fresh[1:] = (table[1:, :32] != table[:-1, :32]).any(axis=1)
    with path.open("wb") as handle:
        handle.write(json.dumps(list(labels), ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        for start in range(0, len(table), 1 << 20):
            handle.write(table[start : start + (1 << 20)][fresh[start : start + (1 << 20)]].tobytes())


# --- proofs ---------------------------------------------------------------------------------------


def prove(rows: RowSet, digest: str) -> dict[str, Any]:
    """A proof that a row is in a set or is not, which can be checked without the set."""
    wanted = bytes.fromhex(digest)
    place = rows.place(wanted)
    inside = place < len(rows) and rows.digest(place) == wanted
    shown = [place] if inside else [at for at in (place - 1, place) if 0 <= at < len(rows)]
    return {
        "schema": "med42.proof/1", "row": digest, "in": inside, "root": rows.root, "size": len(rows),
        "leaves": [{"place": at, "digest": rows.digest(at).hex(), "path": rows.path(at)} for at in shown],
    }


def check_proof(proof: dict[str, Any], root: str) -> bool:
    """Check a proof against the root that a record tells; returns whether the row is in the set.

    Raises:
        Med42Error: it proves nothing.
    """
    try:
        row, size, leaves = bytes.fromhex(proof["row"]), int(proof["size"]), list(proof["leaves"])
        places, digests = [int(leaf["place"]) for leaf in leaves], [bytes.fromhex(leaf["digest"]) for leaf in leaves]
        sound = proof["root"] == root and all(
            _climb(digest, place, size, [bytes.fromhex(sibling) for sibling in leaf["path"]]) == root
            for leaf, place, digest in zip(leaves, places, digests, strict=True))
        if proof["in"] is True:
            sound = sound and digests == [row]
        elif size == 0:
            sound = sound and not leaves and root == hashlib.sha256(b"").hexdigest()
        else:  # before the first, after the last, or between two that stand side by side
            sound = sound and (
                (places == [0] and row < digests[0]) or (places == [size - 1] and digests[0] < row)
                or (len(places) == 2 and places[1] == places[0] + 1 and digests[0] < row < digests[1]))
    except (KeyError, TypeError, ValueError) as error:
        raise Med42Error("proof", f"something else ({error!r})", "a proof as `audit contains` writes it", "Ask for it again.") from error
    if not sound:
        raise Med42Error("proof", "one that does not lead to the root", root[:16], "It was changed, or is about another set.")
    return bool(proof["in"])


def _up(nodes: list[bytes]) -> list[list[bytes]]:
    """All levels of a tree on these nodes; an odd last one moves up unchanged, as the RFC's split has it."""
    levels = [nodes]
    while len(nodes) > 1:
        pairs = [hashlib.sha256(b"\1" + left + right).digest() for left, right in zip(nodes[::2], nodes[1::2], strict=False)]
        nodes = pairs + nodes[len(pairs) * 2 :]
        levels.append(nodes)
    return levels


def _siblings(levels: list[list[bytes]], place: int) -> list[bytes]:
    found = []
    for level in levels[:-1]:
        if place ^ 1 < len(level):
            found.append(level[place ^ 1])
        place //= 2
    return found


def _climb(digest: bytes, place: int, size: int, path: list[bytes]) -> str:
    """The root that a leaf and its path lead to (RFC 9162, section 2.1.3.2); empty where the path does not fit."""
    if not 0 <= place < size:
        return ""
    node, last, siblings = hashlib.sha256(b"\0" + digest).digest(), size - 1, iter(path)
    while last:
        if place % 2 or place < last:
            sibling = next(siblings, None)
            if sibling is None:
                return ""
            node = hashlib.sha256(b"\1" + (sibling + node if place % 2 else node + sibling)).digest()
        place, last = place // 2, last // 2
    return "" if next(siblings, None) is not None else node.hex()
