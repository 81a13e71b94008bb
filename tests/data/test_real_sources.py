"""The real sets in ../shared/data, where they are there."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from med42.data.decontaminate import words
from med42.data.prepare_source import prepare_source
from med42.data.readers import read_rows
from med42.data.shards import read_shards
from med42.lineage.digest import merkle_root
from med42.lineage.journal import Job
from med42.recipe import load_recipe

FILES = {
    "medquad.jsonl.gz": (16_407, {"question", "answer", "document_source"}),
    "medical_meadow_small.jsonl.gz": (5_942, {"instruction", "input", "output"}),
    "mts_dialog.train.csv": (1_201, {"ID", "section_header", "section_text", "dialogue"}),
    "mts_dialog.validation.csv": (100, {"ID", "section_header", "section_text", "dialogue"}),
    "pubmedqa_labeled.train.jsonl.gz": (500, {"QUESTION", "CONTEXTS", "final_decision", "LONG_ANSWER"}),
    "pubmedqa_labeled.test.jsonl.gz": (500, {"QUESTION", "CONTEXTS", "final_decision", "LONG_ANSWER"}),
    "hh_rlhf_harmless.jsonl.gz": (1_200, {"chosen", "rejected"}),
}
# Source -> family, files, candidates; MTS-Dialog gives two a row, as the paper counts (2,602).
SOURCES = {
    "medquad": ("medquad", ["medquad.jsonl.gz"], 16_407),
    "meadow": ("meadow", ["medical_meadow_small.jsonl.gz"], 5_942),
    "mts-dialog": ("mts_dialog", ["mts_dialog.train.csv", "mts_dialog.validation.csv"], 2_602),
    "pubmedqa": ("pubmedqa", ["pubmedqa_labeled.train.jsonl.gz"], 500),
}


@pytest.fixture(scope="module", params=SOURCES)
def real(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    family, files, candidates = SOURCES[request.param]
    settings = {"domain": "medical", "family": family, "license": "MIT", "origin": {"kind": "file", "files": files}}
    out = tmp_path_factory.mktemp("real") / "out"
    recipe = load_recipe("tiny", [f"sources={json.dumps({request.param: settings})}"])
    record = prepare_source(recipe, request.param, out, Job("test", None, shared_data))
    account = record.measured["accounts"][request.param]
    return SimpleNamespace(name=request.param, candidates=candidates, record=record, account=account, out=out)


@pytest.mark.parametrize("name", FILES)
def test_every_row_of_a_real_file_is_read(shared_data, name):
    rows = [row for _, row in read_rows(shared_data / name, name)]
    assert len(rows) == FILES[name][0]
    assert all(FILES[name][1] <= row.keys() for row in rows)


def test_every_candidate_is_kept_or_has_a_reason(real):
    account = real.account
    assert account["read"] == real.candidates == account["kept"] + sum(account["dropped"].values())
    assert set(account["dropped"]) <= {"duplicate inside the source"}
    assert account["kept"] > 0.98 * real.candidates


def test_what_is_kept_is_on_disk_once(real):
    rows = list(read_shards(real.out, ["id", "messages"]))
    assert len({row["id"] for row in rows}) == len(rows) == real.account["kept"]
    assert merkle_root([row["id"] for row in rows]) == real.record.measured["merkle_root"]
    assert all(turn["content"] == turn["content"].strip() != "" for row in rows for turn in row["messages"])


def test_what_is_dropped_is_on_disk_with_its_place(real):
    dropped = list(read_shards(real.out / "dropped"))
    assert Counter(row["reason"] for row in dropped) == real.account["dropped"]
    assert all(row["place"].partition(":")[0] in SOURCES[real.name][1] for row in dropped)


def pubmedqa(shared_data: Path, part: str) -> list[dict]:
    name = f"pubmedqa_labeled.{part}.jsonl.gz"
    return [row for _, row in read_rows(shared_data / name, name)]


def test_pubmedqa_train_and_test_have_no_question_in_common(shared_data):
    train, test = pubmedqa(shared_data, "train"), pubmedqa(shared_data, "test")
    for column in ("pubid", "QUESTION"):
        asked = [{words(str(row[column])) for row in rows} for rows in (train, test)]
        assert [len(found) for found in asked] == [500, 500]
        assert not asked[0] & asked[1]
