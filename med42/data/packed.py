"""Packed chunks on disk: every token once, in one file that is mapped into memory, and what belongs together beside it.

    tokens.bin      int32, little-endian: the documents one after another, each token the id where it is learned, else ~id
    documents.npy   int64 [documents + 1]: where each document starts in tokens.bin, and where the last one ends
    chunks.npy      int64 [chunks + 1]: where each chunk's members start, and where the last one's end
    members.npy     int64 [documents]: the documents of the chunks
    manifest.json   the account, with `format`

A chunk is gathered when it is asked for, so memory holds no more than the pages of the file that are in use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from med42.data.chat import ids_of, labels_of
from med42.data.packing import ChunkPlan
from med42.errors import Med42Error

FORMAT = "med42.packed/1"
TOKENS, DOCUMENTS, CHUNKS, MEMBERS = "tokens.bin", "documents.npy", "chunks.npy", "members.npy"

AT_ONCE = 1 << 22  # tokens that are checked at once

Chunk = dict[str, NDArray[np.int32]]


class PackedChunks(Sequence[Chunk]):
    """The chunks of a packed folder, by number, each gathered from the disk when it is asked for.

    Attributes:
        chunk: tokens that a chunk can hold.
        tokens: tokens of all chunks together.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder and check that its parts fit together; the token file is not read.

        Raises:
            Med42Error: a part is missing, torn, or does not fit the others.
        """
        self.folder = folder
        manifest = _read_manifest(folder / "manifest.json")
        self.chunk: int = manifest["chunk"]
        self._documents, self._chunks, self._members = (_open(folder / name) for name in (DOCUMENTS, CHUNKS, MEMBERS))
        tokens = folder / TOKENS
        documents, size = self._documents, tokens.stat().st_size if tokens.is_file() else -1
        _expect(_rise(documents), folder / DOCUMENTS, "starts that do not rise from 0")
        _expect(size == 4 * documents[-1], tokens, f"{size:,} bytes" if size >= 0 else "no such file", f"{4 * documents[-1]:,}")
        chunks, members = self._chunks, self._members
        _expect(_rise(chunks), folder / CHUNKS, "starts that do not rise from 0")
        _expect(chunks[-1] == len(members) == len(documents) - 1, folder / MEMBERS,
                f"{len(members):,} members of chunks that end at {chunks[-1]:,}", f"{len(documents) - 1:,}, one a document")
        placed = np.zeros(len(members), np.bool_)
        within = members.min() >= 0 and members.max() < len(members)
        if within:
            placed[members] = True
        _expect(within and bool(placed.all()), folder / MEMBERS, "a document twice or none", "each in one chunk")
        longest = np.add.reduceat(np.diff(documents)[members], chunks[:-1]).max()
        _expect(longest <= self.chunk, folder / CHUNKS, f"a chunk of {longest:,} tokens", f"at most {self.chunk:,}")
        self._tokens = np.asarray(np.memmap(tokens, np.dtype("<i4"), "r"))
        self.tokens = len(self._tokens)

    def __len__(self) -> int:
        return len(self._chunks) - 1

    def __getitem__(self, number: Any) -> Any:
        """One chunk: `input_ids`, `labels` (-100 where nothing is learned) and `seq_lengths` of its documents, all int32."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"chunk {number} of {len(self)}")
        number %= len(self)
        members = self._members[self._chunks[number] : self._chunks[number + 1]]
        starts, ends = self._documents[members], self._documents[members + 1]
        tokens = np.concatenate([self._tokens[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)])
        return {"input_ids": ids_of(tokens), "labels": labels_of(tokens), "seq_lengths": (ends - starts).astype(np.int32)}

    def assert_vocabulary(self, size: int) -> None:
        """Refuse tokens that a model of this vocabulary does not have.

        Raises:
            Med42Error: names the first one, its document and its place there.
        """
        for start in range(0, self.tokens, AT_ONCE):
            ids = ids_of(self._tokens[start : start + AT_ONCE])
            if ids.max() >= size:
                place = start + int(np.argmax(ids >= size))
                document = int(np.searchsorted(self._documents, place, side="right")) - 1
                within = place - int(self._documents[document])
                there = f"token {int(ids[place - start]):,} in document {document:,}, at its place {within:,}"
                raise Med42Error(self.folder / TOKENS, there, f"ids below {size:,}, the base model's vocabulary",
                                 "Pack the mix with this base model's tokenizer, or make the artifact again.")

    def __reduce__(self) -> tuple[object, ...]:
        """Travel as the folder's name: another process maps the file itself."""
        return type(self), (self.folder,)


class PackedWriter:
    """Writes a packed folder: documents as they come, then chunks, then the manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tokens = (folder / TOKENS).open("wb")
        self._documents, self._chunks, self._members = (_Column(folder / name) for name in (DOCUMENTS, CHUNKS, MEMBERS))
        self._token_count = self._member_count = 0
        for starts in (self._documents, self._chunks):
            starts.add(np.zeros(1, np.int64))

    def add_documents(self, tokens: NDArray[np.int32], lengths: NDArray[np.int64]) -> None:
        """Append documents: their signed tokens one after another, and the tokens of each."""
        self._tokens.write(tokens.astype("<i4", copy=False).tobytes())
        self._documents.add(self._token_count + np.cumsum(lengths, dtype=np.int64))
        self._token_count += len(tokens)

    def add_chunks(self, plan: ChunkPlan) -> None:
        """Append chunks of documents, numbered in the order in which they are added."""
        self._chunks.add(self._member_count + plan.offsets[1:])
        self._members.add(plan.members)
        self._member_count += len(plan.members)

    def close(self, account: dict[str, Any]) -> None:
        """Write what is left, and the account."""
        self._tokens.close()
        for column in (self._documents, self._chunks, self._members):
            column.close()
        (self.folder / "manifest.json").write_text(json.dumps({"format": FORMAT, **account}, indent=1, sort_keys=True) + "\n")


class _Column:
    """An int64 .npy file that grows; numpy leaves room in its header for the length, which is known last."""

    def __init__(self, path: Path) -> None:
        self._handle, self._length = path.open("wb"), 0
        self._write_header()

    def add(self, values: NDArray[np.int64]) -> None:
        self._handle.write(values.astype("<i8", copy=False).tobytes())
        self._length += len(values)

    def close(self) -> None:
        self._handle.seek(0)
        self._write_header()
        self._handle.close()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(self._handle, {"descr": "<i8", "fortran_order": False, "shape": (self._length,)})


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text())
        found = manifest["format"], int(manifest["chunk"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Med42Error(path, f"no manifest of packed chunks ({type(error).__name__})", f"one of format {FORMAT}",
                         "Run pack_data again.") from error
    _expect(found[0] == FORMAT, path, f"format {found[0]}", FORMAT)
    return dict(manifest)


def _open(path: Path) -> NDArray[np.int64]:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise Med42Error(path, f"what numpy cannot read ({error})", "a whole .npy file", "Run pack_data again.") from error
    _expect(array.dtype == np.int64 and array.ndim == 1 and len(array) > 0, path, f"{array.dtype} {list(array.shape)}",
            "int64 numbers in a row")
    return np.asarray(array)  # the map itself, less numpy's wrapper of it, which makes each slice slow


def _rise(starts: NDArray[np.int64]) -> bool:
    return len(starts) > 1 and starts[0] == 0 and bool((starts[1:] > starts[:-1]).all())


def _expect(holds: bool, where: Path, found: str, expected: str = "those of packed chunks") -> None:
    if not holds:
        raise Med42Error(where, found, expected, "The set is torn or was changed: run pack_data again.")
