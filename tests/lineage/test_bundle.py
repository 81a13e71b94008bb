import hashlib
import json
import random
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.bundle import Bundle, check_artifacts, check_chain, pack, unpack
from med42.lineage.digest import canonical
from med42.lineage.journal import Job
from med42.lineage.record import ANCESTRY, RECORD, Record, read_ancestry, read_record

JOB = Job("one", None)
RECIPE = canonical({"name": "small", "seed": 0})
DIGEST = hashlib.sha256(RECIPE).hexdigest()
RECORDS = {"data": "mix_data", "push": "push_model"}
REPORT = "<!doctype html><p>Audit of small, &#233; and all</p>"


def writing(text: str, **measured: Any) -> Callable[[Path], Outcome]:
    def build(draft: Path) -> Outcome:
        (draft / "deep").mkdir()
        (draft / "deep" / "rows").write_text(text)
        return Outcome(measured)

    return build


def made(folder: Path, approved: bool = True, recipe: str = DIGEST) -> SimpleNamespace:
    """A chain of three artifacts: data -> decision -> push, which is made of both."""
    data, decision, push = folder / "data", folder / "decision", folder / "push"
    produce(Plan("mix_data", "conversations", {}, {}, "data"), data, JOB, writing("rows", rows=1))
    produce(Plan("decide_release", "decision", {"recipe": recipe}, {"scores": data}, "release"), decision, JOB,
            writing("decision", approved=approved))
    produce(Plan("push_model", "release", {"recipe": recipe}, {"decision": decision, "model": data}, "release"), push, JOB, writing("push"))
    records = {**read_ancestry(push), read_record(push).digest: read_record(push)}
    by_name = {record.name: record for record in records.values()}
    return SimpleNamespace(folder=folder, records=records, subject=by_name["push_model"].digest, by_name=by_name)


def seal(chain: SimpleNamespace, **changes: Any) -> bytes:
    told = {"recipe_name": "small", "recipe": RECIPE, "subject": chain.subject, "records": chain.records, "report": REPORT} | changes
    return pack(**told)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return made(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def sealed(chain: SimpleNamespace) -> bytes:
    return seal(chain)


# --- sealing and reading --------------------------------------------------------------------------


def test_the_same_records_give_the_same_bytes(chain, sealed):
    backwards = dict(reversed(chain.records.items()))
    assert seal(chain, records=backwards) == sealed


def test_what_was_sealed_is_read(chain, sealed):
    bundle = unpack(sealed, "here")
    check_chain(bundle, "here")
    assert bundle.records == chain.records
    assert bundle.subject == chain.by_name["push_model"]
    assert (bundle.recipe, bundle.report) == (RECIPE, REPORT)
    assert (bundle.index["recipe"], bundle.index["recipe_digest"], bundle.index["schema"]) == ("small", DIGEST, "med42.bundle/2")


def test_anybody_can_read_it_without_us(chain, sealed):
    with zipfile.ZipFile(BytesIO(sealed)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(archive.namelist())
        index = json.loads(archive.read("bundle.json"))
        found = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
        assert found == {"bundle.json": found["bundle.json"], **index["entries"]}
        assert len(archive.namelist()) == 3 + len(chain.records)


# --- changed in one place -------------------------------------------------------------------------


def refused(content: bytes) -> bool:
    """Whether a file is refused in the one way; any other error fails the test."""
    try:
        check_chain(unpack(content, "here"), "here")
    except Med42Error:
        return True
    return False


@pytest.mark.parametrize("seed", range(2))
def test_every_byte_counts(sealed, seed):
    draw = random.Random(seed)
    flipped = bytearray(sealed)
    for place, byte in enumerate(sealed):
        flipped[place] = byte ^ draw.randrange(1, 256)
        assert refused(bytes(flipped)), f"byte {place}: {byte} -> {flipped[place]} went unnoticed"
        flipped[place] = byte
    assert bytes(flipped) == sealed
    assert not refused(sealed)


def test_every_length_counts(sealed):
    assert [length for length in range(len(sealed)) if not refused(sealed[:length])] == []


@pytest.mark.parametrize("more", [b"\0", b"more", b"PK\x05\x06" + bytes(18)])
def test_nothing_can_be_put_round_it(sealed, more):
    assert refused(sealed + more)
    assert refused(more + sealed)


@pytest.mark.parametrize("content", [b"", b"PK", b"no bundle at all", bytes(100), b"\x1f\x8b" + bytes(100)])
def test_other_files_are_no_bundles(content, refusal):
    assert "here: found a file that is no bundle" in refusal(lambda: unpack(content, "here"))


# --- changed and fitted together again ------------------------------------------------------------


def entries_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP file in the form in which bundles are written."""
    held = BytesIO()
    with zipfile.ZipFile(held, "w", method) as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.create_system, entry.compress_type = 0o100644 << 16, 3, method
            archive.writestr(entry, entries[name])
    return held.getvalue()


def refitted(content: bytes, index: dict[str, Any] | None = None, **changes: bytes | None) -> bytes:
    """A bundle with entries changed or removed (None), whose index fits them again, but for what `index` says."""
    entries = entries_of(content)
    names = {"recipe": "recipe.json", "report": "report.html"}
    for key, value in changes.items():
        entries[names.get(key, key)] = value
    entries = {name: value for name, value in entries.items() if value is not None}
    told = json.loads(entries.pop("bundle.json"))
    told["entries"] = {name: hashlib.sha256(value).hexdigest() for name, value in entries.items()}
    told["recipe_digest"] = told["entries"].get("recipe.json")
    return zipped({**entries, "bundle.json": canonical(told | (index or {}))})


def test_refitting_nothing_is_the_bundle(sealed):
    assert refitted(sealed) == sealed == zipped(entries_of(sealed))


@pytest.mark.parametrize("index", [
    {"entries": []}, {"entries": {}}, {"entries": None}, {"entries": {"recipe.json": 1}}, {"subject": None}, {"subject": []},
    {"subject": "00"}, {"recipe": "other"}, {"recipe": 1}, {"recipe_digest": "00"}, {"recipe_digest": None},
    {"schema": "med42.bundle/3"}, {"schema": None}, {"more": 1},
], ids=str)
def test_an_index_that_does_not_fit_is_told(sealed, index, refusal):
    told = refusal(lambda: unpack(refitted(sealed, index), "here"))
    assert "here, bundle.json" in told


def test_entries_that_are_not_as_listed_are_told(sealed, refusal):
    told = refusal(lambda: unpack(refitted(sealed, {"entries": {"recipe.json": "1", "report.html": "1"}}), "here"))
    assert "here, recipe.json: found sha256" in told


@pytest.mark.parametrize("changes", [
    {"report": None}, {"recipe": None}, {"report": "é".encode()}, {"report": b"\xff"},
    {"recipe": b"{"}, {"recipe": b"[]"}, {"recipe": b"\xff"}, {"recipe": b"{}"}, {"recipe": canonical({"name": "other"})},
], ids=str)
def test_parts_that_are_missing_or_no_recipe_are_told(sealed, changes, refusal):
    told = refusal(lambda: unpack(refitted(sealed, **changes), "here"))
    assert "here, bundle.json" in told or "here, recipe.json" in told


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"\xff", b'{"entries": 1}'])
def test_an_index_that_is_none_is_told(sealed, text, refusal):
    assert "here, bundle.json" in refusal(lambda: unpack(zipped(entries_of(sealed) | {"bundle.json": text}), "here"))


def test_a_missing_index_is_told(sealed, refusal):
    entries = entries_of(sealed)
    del entries["bundle.json"]
    assert "no index" in refusal(lambda: unpack(zipped(entries), "here"))


def test_an_index_with_other_spaces_is_told(sealed):
    entries = entries_of(sealed)
    assert refused(zipped(entries | {"bundle.json": json.dumps(json.loads(entries["bundle.json"])).encode()}))


def test_a_record_under_another_digest_is_told(sealed, chain, refusal):
    name = f"records/{chain.subject}.json"
    values = json.loads(entries_of(sealed)[name])
    values["measured"] = {"rows": 2}
    told = refusal(lambda: unpack(refitted(sealed, **{name: canonical(values)}), "here"))
    assert f"here, {name}: found a record with digest" in told


@pytest.mark.parametrize("name", ["more.txt", "records/x.txt", "../evil", "records/../../evil"])
def test_an_entry_that_no_bundle_has_is_told(sealed, name, refusal):
    assert "an entry that no bundle has" in refusal(lambda: unpack(refitted(sealed, **{name: b"{}"}), "here"))


def test_a_compressed_bundle_is_told(sealed, refusal):
    assert "here, bundle.json" in refusal(lambda: unpack(zipped(entries_of(sealed), zipfile.ZIP_DEFLATED), "here"))


# --- the chain ------------------------------------------------------------------------------------


def chain_refusal(content: bytes, refusal: Callable[[Callable[[], object]], str]) -> str:
    bundle = unpack(content, "here")
    return refusal(lambda: check_chain(bundle, "here"))


def without(chain: SimpleNamespace, name: str) -> dict[str, Record]:
    return {digest: record for digest, record in chain.records.items() if record.name != name}


@pytest.mark.parametrize("name", ["mix_data", "decide_release"])
def test_a_gap_is_told(chain, refusal, name):
    told = chain_refusal(seal(chain, records=without(chain, name)), refusal)
    assert f"no record {chain.by_name[name].digest[:16]}" in told


def test_a_record_that_leads_nowhere_is_told(chain, refusal):
    told = chain_refusal(seal(chain, subject=chain.by_name["decide_release"].digest), refusal)
    assert "records that lead nowhere: push_model" in told


def test_a_bundle_about_a_decision_alone_is_whole(chain):
    records = without(chain, "push_model")
    check_chain(unpack(seal(chain, subject=chain.by_name["decide_release"].digest, records=records), "here"), "here")


def test_a_push_against_the_decision_is_told(tmp_path, refusal):
    told = chain_refusal(seal(made(tmp_path, approved=False)), refusal)
    assert "record push_model: found a push" in told


UNMET = {"score": "mmlu", "met": False}


@pytest.mark.parametrize(("measured", "right"), [
    ({"verdicts": [{"score": "mmlu", "met": True}]}, True), ({"verdicts": [UNMET]}, False), ({"verdicts": ["odd"]}, False),
    ({"verdicts": {}}, False), ({"verdicts": [UNMET], "override": {"by": "somebody"}}, False),
    ({"verdicts": [UNMET | {"overridden": True}]}, False),
    ({"verdicts": [UNMET | {"overridden": True}], "override": {"by": "somebody", "reason": "looked at"}}, True),
], ids=str)
def test_an_approval_rests_on_its_gates(tmp_path, measured, right):
    out = tmp_path / "decision"
    plan = Plan("decide_release", "decision", {"recipe": DIGEST}, {}, "release")
    record = produce(plan, out, JOB, writing("", approved=True, **measured))
    content = pack("small", RECIPE, record.digest, {record.digest: record}, REPORT)
    assert refused(content) is not right


def test_a_push_without_a_decision_is_told(tmp_path, refusal):
    out = tmp_path / "push"
    record = produce(Plan("push_model", "release", {"recipe": DIGEST}, {}, "release"), out, JOB, writing("push"))
    content = pack("small", RECIPE, record.digest, {record.digest: record}, REPORT)
    assert "record push_model: found a push" in chain_refusal(content, refusal)


def test_parts_of_another_recipe_are_told(tmp_path, refusal):
    told = chain_refusal(seal(made(tmp_path, recipe="00" * 32)), refusal)
    assert "another recipe's digest" in told
    assert DIGEST[:16] in told


# --- the artifacts behind it ----------------------------------------------------------------------


@pytest.fixture
def both(tmp_path: Path) -> tuple[Bundle, Path]:
    """A chain of its own on disk, to be changed, and its bundle."""
    chain = made(tmp_path / "run")
    return unpack(seal(chain), "here"), chain.folder


def test_unchanged_artifacts_are_as_recorded(both):
    bundle, folder = both
    assert check_artifacts(bundle, folder) == []


@pytest.mark.parametrize("name", ["deep/rows", RECORD, ANCESTRY])
@pytest.mark.parametrize("artifact", ["data", "push"])
def test_bytes_of_every_file_count(both, artifact, name):
    bundle, folder = both
    path, record = folder / artifact / name, RECORDS[artifact]
    whole, draw = path.read_bytes(), random.Random(0)
    for place in range(0, len(whole), 1 if len(whole) < 100 else 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ draw.randrange(1, 256)]) + whole[place + 1 :])
        problems = check_artifacts(bundle, folder)
        assert any(str(path) in line or f"artifact of {record} " in line for line in problems), f"byte {place} of {path} went unnoticed"
    path.write_bytes(whole)
    assert check_artifacts(bundle, folder) == []


@pytest.mark.parametrize("place", [0, 30, -1])
def test_white_space_counts(both, place):
    bundle, folder = both
    path = folder / "data" / RECORD
    text = path.read_bytes()
    ends = [number for number, byte in enumerate(text) if byte == ord("\n")]
    path.write_bytes(text[: ends[place]] + b"\r" + text[ends[place] + 1 :])
    assert f"{path}: is not the record of mix_data that was sealed" in check_artifacts(bundle, folder)


@pytest.mark.parametrize("name", ["deep/rows", RECORD, ANCESTRY])
@pytest.mark.parametrize("artifact", ["data", "push"])
def test_a_removed_file_is_named(both, artifact, name):
    bundle, folder = both
    (folder / artifact / name).unlink()
    problems = check_artifacts(bundle, folder)
    assert len(problems) == 1
    assert RECORDS[artifact] in problems[0]
    assert str(folder / artifact / name) in problems[0] or name == RECORD


def test_an_added_file_is_named(both):
    bundle, folder = both
    (folder / "data" / "deep" / "more").write_text("")
    assert check_artifacts(bundle, folder) == [f"{folder / 'data' / 'deep' / 'more'}: differs from the record of mix_data"]


def test_a_record_of_another_run_is_named(both):
    bundle, folder = both
    text = (folder / "data" / RECORD).read_text()
    (folder / "data" / RECORD).write_text(text.replace('"run": "one"', '"run": "two"'))
    assert check_artifacts(bundle, folder)[0] == f"{folder / 'data' / RECORD}: is not the record of mix_data that was sealed"


def test_an_ancestry_with_too_little_is_named(both):
    bundle, folder = both
    (folder / "push" / ANCESTRY).write_text("{}")
    assert check_artifacts(bundle, folder) == [f"{folder / 'push' / ANCESTRY}: is not the ancestry of push_model that was sealed"]


def test_artifacts_of_another_recipe_beside_it_are_no_problem(both, tmp_path):
    bundle, folder = both
    produce(Plan("mix_data", "conversations", {"seed": 7}, {}, "data", name="mix_data"), folder / "other", JOB, writing("other"))
    assert check_artifacts(bundle, folder) == []


def test_an_empty_folder_holds_none(both, tmp_path):
    bundle, _ = both
    (tmp_path / "empty").mkdir()
    assert len(check_artifacts(bundle, tmp_path / "empty")) == len(bundle.records)


