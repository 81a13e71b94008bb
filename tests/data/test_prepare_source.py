import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from med42.data.conversation import row_digest
from med42.data.prepare_source import prepare_source
from med42.data.shards import read_manifest, read_shards
from med42.lineage.digest import merkle_root
from med42.lineage.journal import Job
from med42.lineage.record import Record, differing_files
from med42.recipe import load_recipe

GOOD = [{"instruction": "", "input": f"Question {number}?", "output": f"Answer {number}."} for number in range(5)]
EMPTY = {"instruction": "", "input": "Question?", "output": " "}


def prepared(folder: Path, rows: list[Any], family: str = "meadow", name: str = "rows.jsonl", store: Path | None = None) -> Record:
    """Rows written to a file, and prepared from there as the source `cards`."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"domain": "medical", "family": family, "license": "MIT", "origin": {"kind": "file", "files": [name]}}
    recipe = load_recipe("tiny", [f"sources={json.dumps({'cards': settings})}"])
    return prepare_source(recipe, "cards", folder / "out", Job("test", store, folder))


def test_every_row_is_kept_or_has_a_reason(tmp_path):
    record = prepared(tmp_path, [*GOOD, EMPTY, GOOD[0], {"instruction": "", "input": "", "output": "x"}, GOOD[0]])
    assert record.measured["accounts"] == {"cards": {"read": 9, "kept": 5, "repeated": 0, "dropped": {
        "duplicate inside the source": 2, "empty assistant turn": 1, "empty user turn": 1}}}
    assert (record.measured["rows"], record.measured["license"]) == (9, "MIT")
    dropped = list(read_shards(tmp_path / "out" / "dropped"))
    assert sorted((row["place"], row["reason"]) for row in dropped) == [
        ("rows.jsonl:6", "empty assistant turn"), ("rows.jsonl:7", "duplicate inside the source"), ("rows.jsonl:8", "empty user turn"),
        ("rows.jsonl:9", "duplicate inside the source")]
    again = [row["id"] for row in dropped if row["reason"] == "duplicate inside the source"]
    assert again == [row_digest(kept(tmp_path)[0]["messages"])] * 2


def kept(folder: Path) -> list[dict[str, Any]]:
    return list(read_shards(folder / "out"))


def test_kept_rows_are_the_conversations_under_their_digests(tmp_path):
    record = prepared(tmp_path, GOOD)
    rows = kept(tmp_path)
    assert [row["messages"][0]["content"] for row in rows] == [row["input"] for row in GOOD]
    assert all(row["id"] == row_digest(row["messages"]) and row["source"] == "cards" for row in rows)
    manifest = read_manifest(tmp_path / "out")
    assert manifest["merkle_root"] == record.measured["merkle_root"] == merkle_root([row["id"] for row in rows])
    assert manifest["rows"] == 5
    assert "5 rows of family meadow (MIT) gave 5 conversations" in (tmp_path / "out" / "page.html").read_text()


def test_the_record_pins_the_file(tmp_path):
    first = prepared(tmp_path / "a", GOOD)
    again = prepared(tmp_path / "b", GOOD)
    other = prepared(tmp_path / "c", GOOD[:4])
    assert first.digest == again.digest
    assert first.parameters["pinned"] != other.parameters["pinned"]
    assert (first.name, first.kind) == ("prepare_source-cards", "conversations")
    assert differing_files(tmp_path / "b" / "out", first) == []


def test_a_changed_file_is_prepared_again(tmp_path):
    store = tmp_path / "store"
    assert prepared(tmp_path / "a", GOOD, store=store).fingerprint == prepared(tmp_path / "b", GOOD, store=store).fingerprint
    assert prepared(tmp_path / "c", GOOD[:3], store=store).measured["rows"] == 3


# --- errors leave nothing -------------------------------------------------------------------------


def nothing_left(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == ["rows.jsonl"]


def test_a_missing_column_names_file_row_and_column(tmp_path, refusal):
    told = refusal(lambda: prepared(tmp_path, [*GOOD, {"instruction": "", "input": "x", "outptu": "y"}]))
    assert "rows.jsonl:6, column 'output': found columns input, instruction, outptu; expected a column 'output'" in told
    assert "family 'meadow'; check sources.cards" in told
    assert nothing_left(tmp_path)


def test_a_column_of_another_type_names_file_row_and_column(tmp_path, refusal):
    told = refusal(lambda: prepared(tmp_path, [GOOD[0], {**GOOD[1], "input": ["x"]}]))
    assert "rows.jsonl:2, column 'input': found a value of type list; expected text" in told
    assert nothing_left(tmp_path)


def test_half_a_surrogate_pair_names_file_row_and_column(tmp_path, refusal):
    told = refusal(lambda: prepared(tmp_path, [GOOD[0], {**GOOD[1], "output": "a smile \ud83d, torn"}]))
    assert "rows.jsonl:2, column 'output': found half of a surrogate pair" in told
    assert nothing_left(tmp_path)


def test_no_conversation_at_all_is_an_error(tmp_path, refusal):
    told = refusal(lambda: prepared(tmp_path, [EMPTY, EMPTY, {"instruction": "", "input": "", "output": "x"}]))
    assert "sources.cards: found no conversation in 3 rows (2 x empty assistant turn, 1 x empty user turn)" in told
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("rows", [[], [GOOD[0], 3], [GOOD[0], None]])
def test_files_that_cannot_be_read_leave_nothing(tmp_path, rows, refusal):
    assert "rows.jsonl" in refusal(lambda: prepared(tmp_path, rows))
    assert nothing_left(tmp_path)


def test_an_unknown_family_is_told_before_anything_is_read(tmp_path, refusal):
    assert "sources.cards.family: found 'medow'" in refusal(lambda: prepared(tmp_path, GOOD, family="medow"))
    assert nothing_left(tmp_path)


def test_a_file_of_another_form_is_told(tmp_path, refusal):
    assert "found the suffix '.tsv'" in refusal(lambda: prepared(tmp_path, GOOD, name="rows.tsv"))
    assert not (tmp_path / "out").exists()


# --- tiny -----------------------------------------------------------------------------------------


def test_tinys_sources_are_all_accounted_for(tiny: SimpleNamespace):
    read = {name: read_manifest(path)["sources"][name]["read"] for name, path in tiny.sources.items()}
    assert read == {"flashcards": 585, "exam": 460, "statements": 230, "abstracts": 60, "chats": 88}
    for name, path in tiny.sources.items():
        account = read_manifest(path)["sources"][name]
        assert account["kept"] == len(list(read_shards(path)))
        assert account["dropped"] == Counter(row["reason"] for row in read_shards(path / "dropped"))
        assert account["read"] == account["kept"] + sum(account["dropped"].values())
