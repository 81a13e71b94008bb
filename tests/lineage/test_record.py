import json
from pathlib import Path

import pytest

from med42.lineage.digest import canonical
from med42.lineage.record import (
    ANCESTRY,
    RECORD,
    FileEntry,
    Made,
    Record,
    describe_files,
    differing_files,
    parse_record,
    read_ancestry,
    read_record,
    record_text,
    write_record,
)

MADE = Made(run="one", started="2026-01-01T00:00:00+00:00", seconds=1.5, python="3.11", machine="x86_64 Linux", processors=2, commit="abc",
            dirty=False, image="")
FILES = {"rows": FileEntry(sha256="00", bytes=3)}
RECORD_HERE = Record(stage="mix_data", name="mix_data", kind="conversations", parameters={"seed": 0, "rate": 1.0}, inputs={"source": "aa"},
                     code="cc", packages={"pyarrow": "26"}, files=FILES, measured={"rows": 3, "share": 0.25}, made=MADE)
OTHERS = {
    "stage": "pack_data", "name": "mix", "kind": "packed", "parameters": {"seed": 1}, "inputs": {"source": "ab"}, "code": "cd",
    "packages": {"pyarrow": "27"}, "files": {"rows": FileEntry(sha256="00", bytes=4)}, "measured": {"rows": 4},
}


def changed(**values: object) -> Record:
    return Record(**{name: getattr(RECORD_HERE, name) for name in Record.model_fields} | values)


def artifact(folder: Path, ancestry: dict[str, Record] | None = None) -> Record:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows").write_text("abc")
    record = changed(files=describe_files(folder))
    write_record(folder, record, ancestry or {})
    return record


@pytest.mark.parametrize("field", sorted(set(Made.model_fields) - {"observed", "accelerators"}))
def test_circumstances_are_no_part_of_the_digest(field):
    value = getattr(MADE, field)
    other = MADE.model_copy(update={field: not value if isinstance(value, bool) else value + value + type(value)(1)})
    assert changed(made=other).digest == RECORD_HERE.digest
    for update in ({"observed": {"seconds": 1}}, {"accelerators": ["NVIDIA H100"]}):
        assert changed(made=MADE.model_copy(update=update)).digest == RECORD_HERE.digest


def test_every_other_field_is_part_of_the_digest():
    assert OTHERS.keys() == Record.model_fields.keys() - {"made", "schema_version"}
    digests = {changed(**{field: value}).digest for field, value in OTHERS.items()}
    assert len(digests | {RECORD_HERE.digest}) == len(OTHERS) + 1


def test_what_is_known_before_making_is_the_fingerprint():
    before = {field for field, value in OTHERS.items() if changed(**{field: value}).fingerprint != RECORD_HERE.fingerprint}
    assert before == {"stage", "name", "parameters", "inputs", "code", "packages"}


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), object, {1, 2}, Path("/"), b"x", 2**60, "\ud83d"], ids=repr)
@pytest.mark.parametrize("field", ["measured", "parameters"])
def test_what_json_cannot_hold_has_no_digest(field, value, refusal):
    assert "cannot hold exactly" in refusal(lambda: changed(**{field: {"deep": [{"value": value}]}}).digest)


def test_round_trip(tmp_path):
    record = artifact(tmp_path)
    again = read_record(tmp_path)
    assert again.digest == record.digest
    assert record_text(again) == (tmp_path / RECORD).read_text()
    assert parse_record(canonical(record.model_dump(mode="json")), "here").digest == record.digest


def test_missing_record(tmp_path, refusal):
    told = refusal(lambda: read_record(tmp_path))
    assert f"{tmp_path / RECORD}: found No such file" in told
    assert "Run the stage" in told


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"stage": "mix_data"}'])
def test_record_that_is_none(tmp_path, text, refusal):
    (tmp_path / RECORD).write_bytes(text)
    assert f"{tmp_path / RECORD}: found" in refusal(lambda: read_record(tmp_path))


def test_record_with_an_unknown_key_or_schema(refusal):
    values = RECORD_HERE.model_dump(mode="json")
    assert "'approved'" in refusal(lambda: parse_record(json.dumps(values | {"approved": True}), "here"))
    assert "'schema_version'" in refusal(lambda: parse_record(json.dumps(values | {"schema_version": "med42.record/2"}), "here"))


def test_ancestry_round_trip(tmp_path):
    parent = changed(name="parent")
    artifact(tmp_path, {parent.digest: parent})
    assert {digest: record.name for digest, record in read_ancestry(tmp_path).items()} == {parent.digest: "parent"}


def test_changed_ancestry(tmp_path, refusal):
    parent = changed(name="parent")
    artifact(tmp_path, {parent.digest: parent})
    text = (tmp_path / ANCESTRY).read_text().replace('"rows":3', '"rows":4')
    (tmp_path / ANCESTRY).write_text(text)
    told = refusal(lambda: read_ancestry(tmp_path))
    assert "ancestry was changed" in told
    assert parent.digest[:12] in told


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"3", b'{"a": "\xff"}', b'{"a": 1}'])
def test_ancestry_that_is_none(tmp_path, text, refusal):
    (tmp_path / ANCESTRY).write_bytes(text)
    assert f"{tmp_path / ANCESTRY}: found" in refusal(lambda: read_ancestry(tmp_path))


def test_differing_files(tmp_path):
    record = artifact(tmp_path)
    assert differing_files(tmp_path, record) == []
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "added").write_text("")
    (tmp_path / "rows").write_text("abd")
    assert differing_files(tmp_path, record) == ["more/added", "rows"]
    (tmp_path / "rows").unlink()
    assert differing_files(tmp_path, record) == ["more/added", "rows"]
