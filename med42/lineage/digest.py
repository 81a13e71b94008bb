"""Digests: of values, of files, of folders, and the Merkle root of a set of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rfc8785

from med42.errors import Med42Error


def canonical(value: Any) -> bytes:
    """Canonical JSON (RFC 8785): one byte string for one value.

    Raises:
        Med42Error: a value that JSON cannot write exactly (NaN, integers beyond 2**53, objects).
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, ValueError, TypeError) as error:
        raise Med42Error("record", f"a value that JSON cannot hold exactly ({error})",
                         "strings, booleans, finite numbers, lists and mappings", "Convert it where it is measured.") from error


def value_digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def folder_files(folder: Path) -> list[str]:
    """Relative POSIX paths of every file below a folder, sorted; links are refused."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Med42Error(path, "a link or special file", "plain files and folders", "Copy the file itself into the artifact.")
        if path.is_file():
            found.append(path.relative_to(folder).as_posix())
    return found


def merkle_root(row_digests: Sequence[str] | bytes | bytearray) -> str:
    """Merkle tree hash (RFC 6962, section 2.1) over the sorted, distinct row digests.

    Sorting makes the root independent of row order and lets absence be proven by neighbours. A million digests take
    about two seconds, and 33 bytes each beside the buffer.

    Args:
        row_digests: SHA-256 digests as hex digits, or as one buffer of 32 bytes each.
    """
    given = row_digests if isinstance(row_digests, bytes | bytearray) else bytes.fromhex("".join(row_digests))
    nodes = bytearray(given)
    count = _sort_distinct(nodes)
    if not count:
        return hashlib.sha256(b"").hexdigest()
    _hash_in_place(nodes, b"\x00", 32, count)
    # Pairing level by level, an odd last node moving up unchanged, gives the same tree as the
    # RFC's split at the largest power of two below n.
    while count > 1:
        pairs = count // 2
        _hash_in_place(nodes, b"\x01", 64, pairs)
        if count % 2:
            nodes[32 * pairs : 32 * pairs + 32] = nodes[32 * count - 32 : 32 * count]
        count = pairs + count % 2
    return nodes[:32].hex()


def _sort_distinct(digests: bytearray) -> int:
    """Put the distinct ones of some 32-byte digests in order at the beginning of their buffer; returns how many."""
    if not digests:
        return 0
    import numpy  # here, not above: whoever verifies a bundle need not have it

    # numpy compares all 32 bytes of a string, zero bytes included; only single elements lose those at their end.
    table = numpy.frombuffer(digests, dtype="S32")
    table.sort()
    fresh = numpy.ones(len(table), dtype=bool)
    fresh[1:] = table[1:] != table[:-1]
    count = int(fresh.sum())
    if count < len(table):
        table[:count] = table[fresh]
    return count


def _hash_in_place(nodes: bytearray, prefix: bytes, size: int, count: int) -> None:
    """Replace `count` pieces of `size` bytes by their prefixed digests, at the beginning of the same buffer."""
    for start in range(0, count, 4096):
        stop = min(start + 4096, count)
        digests = [hashlib.sha256(prefix + nodes[at : at + size]).digest() for at in range(size * start, size * stop, size)]
        nodes[32 * start : 32 * stop] = b"".join(digests)
