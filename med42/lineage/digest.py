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


def merkle_root(row_digests: Sequence[str]) -> str:
    """Merkle tree hash (RFC 6962, section 2.1) over the sorted, distinct row digests.

    Sorting makes the root independent of row order and lets absence be proven by neighbours.
    """
    leaves = [hashlib.sha256(b"\x00" + bytes.fromhex(digest)).digest() for digest in sorted(set(row_digests))]
    if not leaves:
        return hashlib.sha256(b"").hexdigest()
    # Pairing level by level, an odd last node moving up unchanged, gives the same tree as the
    # RFC's split at the largest power of two below n.
    while len(leaves) > 1:
        paired = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in zip(leaves[::2], leaves[1::2], strict=False)]
        leaves = paired + ([leaves[-1]] if len(leaves) % 2 else [])
    return leaves[0].hex()
