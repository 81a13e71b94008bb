"""Packed chunks on disk: what was written is read, lazily, and what does not fit together is refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from med42.data.packed import CHUNKS, DOCUMENTS, MEMBERS, TOKENS, PackedChunks, PackedWriter
from med42.data.packing import ChunkPlan

DOCUMENTS_MADE = [[~1, 2, 3], [~4], [~5, ~0, 0], [~6, 7]]
PLAN = [[2, 1], [0], [3]]


def write(folder: Path, documents=DOCUMENTS_MADE, plan=PLAN, chunk: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    writer = PackedWriter(folder)
    for some in (documents[:1], documents[1:]):
        tokens = [token for document in some for token in document]
        writer.add_documents(np.asarray(tokens, np.int32), np.asarray([len(document) for document in some]))
    for some in (plan[:2], plan[2:]):
        writer.add_chunks(ChunkPlan.of(some))
    writer.close({"chunk": chunk})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "packed")


def listed(chunk) -> dict[str, list[int]]:
    return {key: values.tolist() for key, values in chunk.items()}


def test_a_chunk_is_its_documents(folder):
    chunks = PackedChunks(folder)
    assert len(chunks) == 3
    assert listed(chunks[0]) == {"input_ids": [5, 0, 0, 4], "labels": [-100, -100, 0, -100], "seq_lengths": [3, 1]}
    assert [listed(chunk)["input_ids"] for chunk in chunks] == [[5, 0, 0, 4], [1, 2, 3], [6, 7]]
    assert {values.dtype for values in chunks[1].values()} == {np.dtype(np.int32)}


def test_chunks_are_numbered_like_a_list(folder):
    chunks = PackedChunks(folder)
    assert listed(chunks[-1]) == listed(chunks[2])
    for number in (3, -4):
        with pytest.raises(IndexError, match=f"chunk {number} of 3"):
            chunks[number]


def test_a_chunk_may_be_changed_without_changing_the_set(folder):
    chunks = PackedChunks(folder)
    for values in chunks[0].values():
        values[:] = 9
    assert listed(chunks[0])["input_ids"] == [5, 0, 0, 4]


def test_other_processes_open_the_file_themselves(folder):
    sent = pickle.dumps(PackedChunks(folder))
    assert len(sent) < 300
    assert listed(pickle.loads(sent)[1]) == listed(PackedChunks(folder)[1])


def test_the_numbers_are_plain_numpy_files(folder):
    assert np.load(folder / DOCUMENTS).tolist() == [0, 3, 4, 7, 9]
    assert np.load(folder / CHUNKS).tolist() == [0, 2, 3, 4]
    assert np.load(folder / MEMBERS).tolist() == [2, 1, 0, 3]
    assert np.fromfile(folder / TOKENS, "<i4").tolist() == [token for document in DOCUMENTS_MADE for token in document]


def test_a_set_far_larger_than_what_is_read_is_not_read(tmp_path):
    """A file of 8 GiB without content, of which one chunk is asked for."""
    folder, size = tmp_path / "packed", 2**31
    write(folder, [[0]] * 2, [[0], [1]])
    with (folder / TOKENS).open("r+b") as handle:
        handle.truncate(4 * size)
    np.save(folder / DOCUMENTS, np.asarray([0, size - 3, size]))
    (folder / "manifest.json").write_text(json.dumps({"format": "med42.packed/1", "chunk": size}))
    assert listed(PackedChunks(folder)[1]) == {"input_ids": [0] * 3, "labels": [0] * 3, "seq_lengths": [3]}


def cut(name: str, by: int):
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-by])

    return change


def saved(name: str, values, dtype=np.int64):
    return lambda folder: np.save(folder / name, np.asarray(values, dtype))


def manifest(**changes):
    def change(folder: Path) -> None:
        told = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(told | changes))

    return change


@pytest.mark.parametrize(("change", "where", "found"), [
    (cut(TOKENS, 4), TOKENS, "32 bytes; expected 36"),
    (cut(TOKENS, 1), TOKENS, "35 bytes; expected 36"),
    (lambda folder: (folder / TOKENS).unlink(), TOKENS, "no such file"),
    (cut(DOCUMENTS, 8), DOCUMENTS, "numpy cannot read"),
    (cut(CHUNKS, 50), CHUNKS, "numpy cannot read"),
    (lambda folder: (folder / MEMBERS).unlink(), MEMBERS, "numpy cannot read"),
    (lambda folder: (folder / MEMBERS).write_bytes(b""), MEMBERS, "numpy cannot read"),
    (saved(DOCUMENTS, [0, 3, 3, 7, 9]), DOCUMENTS, "starts that do not rise from 0"),
    (saved(DOCUMENTS, [1, 3, 4, 7, 9]), DOCUMENTS, "starts that do not rise from 0"),
    (saved(DOCUMENTS, [0]), DOCUMENTS, "starts that do not rise from 0"),
    (saved(DOCUMENTS, [], np.float64), DOCUMENTS, "float64 [0]"),
    (saved(DOCUMENTS, [0, 3, 9]), MEMBERS, "4 members of chunks that end at 4; expected 2"),
    (saved(CHUNKS, [0, 2, 2, 4]), CHUNKS, "starts that do not rise from 0"),
    (saved(CHUNKS, [0, 2, 3]), MEMBERS, "4 members of chunks that end at 3"),
    (saved(MEMBERS, [2, 1, 0, 0]), MEMBERS, "a document twice or none"),
    (saved(MEMBERS, [2, 1, 0, 4]), MEMBERS, "a document twice or none"),
    (saved(MEMBERS, [2, 1, 0, -1]), MEMBERS, "a document twice or none"),
    (saved(MEMBERS, [2, 0, 1, 3]), CHUNKS, "a chunk of 6 tokens; expected at most 4"),
    (saved(MEMBERS, [2, 1, 0, 3], np.int32), MEMBERS, "int32 [4]"),
    (manifest(format="med42.packed/2"), "manifest.json", "format med42.packed/2"),
    (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json", "no manifest of packed chunks"),
    (lambda folder: (folder / "manifest.json").unlink(), "manifest.json", "no manifest of packed chunks"),
])
def test_what_does_not_fit_together_is_told(folder, refusal, change, where, found):
    change(folder)
    told = refusal(lambda: PackedChunks(folder))
    assert told.startswith(f"{folder / where}: found ")
    assert found in told
    assert "un pack_data again." in told


def test_a_folder_of_something_else_is_told(tiny, refusal):
    assert "no manifest of packed chunks" in refusal(lambda: PackedChunks(tiny.mix))
