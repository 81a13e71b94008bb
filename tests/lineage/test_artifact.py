import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, copy_artifact, copy_file, produce, stage
from med42.lineage.journal import Job, read_journal
from med42.lineage.record import ANCESTRY, RECORD, Record, differing_files, read_ancestry, read_record

PLAN = Plan("prepare_source", "conversations", {"seed": 0}, {}, "data")


class BrokenError(Exception):
    pass


def write_rows(draft: Path) -> Outcome:
    (draft / "deep").mkdir()
    (draft / "deep" / "rows").write_text("abc")
    (draft / "page.html").write_text("page")
    return Outcome({"rows": 3, "summary": "3 rows"}, {"seconds": 0.5})


def never(draft: Path) -> Outcome:
    raise AssertionError("was built a second time")


def fail(draft: Path, error: BaseException | None = None) -> Outcome:
    (draft / "half").write_text("half")
    raise error or BrokenError


def kept_in(store: Path) -> list[Path]:
    """Every file of a store but the locks, which are empty, and the journals."""
    return sorted(path for path in store.rglob("*") if path.is_file() and path.parent.name not in ("locks", "journal"))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def run(name: str, store: Path | None) -> Job:
    return Job(name, store)


# --- built whole, or not at all -------------------------------------------------------------------


def test_what_is_built_lies_there_with_its_record(tmp_path):
    record = produce(PLAN, tmp_path / "out", run("one", None), write_rows)
    assert names_in(tmp_path) == ["out"]
    assert sorted(record.files) == ["deep/rows", "page.html"]
    assert (record.stage, record.name, record.kind, record.parameters) == ("prepare_source", "prepare_source", "conversations", {"seed": 0})
    assert (record.measured, record.made.observed, record.made.run) == ({"rows": 3, "summary": "3 rows"}, {"seconds": 0.5}, "one")
    assert read_record(tmp_path / "out") == record
    assert differing_files(tmp_path / "out", record) == []


def test_the_same_thing_has_the_same_digest_wherever_it_is_made(tmp_path):
    first = produce(PLAN, tmp_path / "a", run("one", None), write_rows)
    second = produce(PLAN, tmp_path / "b", run("two", tmp_path / "store"), write_rows)
    assert first.digest == second.digest
    assert first.made.run != second.made.run


def test_inputs_are_told_by_digest_and_ancestry_reaches_back(tmp_path):
    job = run("one", None)
    first = produce(PLAN, tmp_path / "a", job, write_rows)
    second = produce(replace(PLAN, stage="mix_data", inputs={"source": tmp_path / "a"}), tmp_path / "b", job, write_rows)
    third = produce(replace(PLAN, stage="pack_data", inputs={"mix": tmp_path / "b"}), tmp_path / "c", job, write_rows)
    assert third.inputs == {"mix": second.digest}
    assert read_ancestry(tmp_path / "c") == {first.digest: first, second.digest: second}


@pytest.mark.parametrize("error", [BrokenError(), KeyboardInterrupt(), SystemExit(1), Med42Error("a", "b", "c", "d")],
                         ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("stored", [True, False])
def test_a_build_that_fails_leaves_nothing(tmp_path, store, error, stored):
    with pytest.raises(type(error)):
        produce(PLAN, tmp_path / "out", run("one", store if stored else None), lambda draft: fail(draft, error))
    assert not (tmp_path / "out").exists()
    assert names_in(tmp_path) == (["store"] if stored else [])
    assert kept_in(store) == []


def test_a_build_that_fails_leaves_what_was_there(tmp_path):
    produce(PLAN, tmp_path / "out", run("one", None), write_rows)
    with pytest.raises(BrokenError):
        produce(PLAN, tmp_path / "out", run("two", None), fail)
    assert differing_files(tmp_path / "out", read_record(tmp_path / "out")) == []


def test_a_killed_build_is_cleared_away(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").write_text("half")
    record = produce(PLAN, tmp_path / "out", run("one", None), write_rows)
    assert names_in(tmp_path) == ["out"]
    assert "half" not in record.files


def test_an_input_without_a_record_is_refused(tmp_path, refusal):
    (tmp_path / "input").mkdir()
    told = refusal(lambda: produce(replace(PLAN, inputs={"mix": tmp_path / "input"}), tmp_path / "out", run("one", None), never))
    assert f"{tmp_path / 'input' / RECORD}: found No such file" in told


@pytest.mark.parametrize("value", [float("nan"), object, {1, 2}, Path("/")], ids=repr)
@pytest.mark.parametrize("part", [0, 1])
def test_a_measurement_that_no_record_can_hold_is_refused(tmp_path, refusal, value, part):
    facts = [{}, {}]
    facts[part] = {"loss": value}
    assert "cannot hold exactly" in refusal(lambda: produce(PLAN, tmp_path / "out", run("one", None), lambda draft: Outcome(*facts)))
    assert names_in(tmp_path) == []


def test_a_link_in_the_draft_is_refused(tmp_path, refusal):
    def build(draft: Path) -> Outcome:
        (draft / "link").symlink_to("/etc/passwd")
        return Outcome()

    assert "link or special file" in refusal(lambda: produce(PLAN, tmp_path / "out", run("one", None), build))
    assert names_in(tmp_path) == []


# --- used again -----------------------------------------------------------------------------------


def test_a_finished_artifact_is_used_again(tmp_path, store):
    first = produce(PLAN, tmp_path / "a", run("one", store), write_rows)
    second = produce(PLAN, tmp_path / "b", run("two", store), never)
    assert second == first
    assert second.made.run == "one"
    assert differing_files(tmp_path / "b", first) == []
    assert (tmp_path / "b" / RECORD).read_bytes() == (tmp_path / "a" / RECORD).read_bytes()


@pytest.mark.parametrize("other", [
    {"parameters": {"seed": 1}}, {"stage": "mix_data"}, {"name": "prepare_source-b"}, {"layer": "release"}, {"packages": ("pyarrow",)},
], ids=lambda other: next(iter(other)))
def test_another_plan_is_made_anew(tmp_path, store, other):
    produce(PLAN, tmp_path / "a", run("one", store), write_rows)
    assert produce(replace(PLAN, **other), tmp_path / "b", run("two", store), write_rows).made.run == "two"


def test_another_input_is_made_anew(tmp_path, store):
    for seed in (0, 1):
        produce(replace(PLAN, parameters={"seed": seed}), tmp_path / f"in{seed}", run("one", store), write_rows)
    plan = replace(PLAN, stage="mix_data", inputs={"source": tmp_path / "in0"})
    produce(plan, tmp_path / "a", run("one", store), write_rows)
    assert produce(replace(plan, inputs={"source": tmp_path / "in1"}), tmp_path / "b", run("two", store), write_rows).made.run == "two"


def damage(home: Path, how: str) -> None:
    if how == "changed":
        (home / "page.html").write_text("pagE")
    elif how == "added":
        (home / "more").write_text("")
    elif how == "removed":
        (home / "deep" / "rows").unlink()
    elif how == "linked":
        (home / "more").symlink_to("/etc/passwd")
    elif how == "torn record":
        (home / RECORD).write_text((home / RECORD).read_text()[:100])
    elif how == "no record":
        (home / RECORD).unlink()


@pytest.mark.parametrize("how", ["changed", "added", "removed", "linked", "torn record", "no record"])
def test_what_was_changed_in_the_store_is_made_again(tmp_path, store, how):
    first = produce(PLAN, tmp_path / "a", run("one", store), write_rows)
    (home,) = (store / "prepare_source").iterdir()
    damage(home, how)
    second = produce(PLAN, tmp_path / "b", run("two", store), write_rows)
    assert (second.made.run, second.digest) == ("two", first.digest)
    assert differing_files(tmp_path / "b", first) == differing_files(home, first) == []
    assert produce(PLAN, tmp_path / "c", run("three", store), never).made.run == "two"


def two_steps(tmp_path: Path, store: Path, name: str, build: Callable[[Path], Outcome]) -> Path:
    """Make, in one run, an artifact and one of which it is the input; where the second lies."""
    source, mix = tmp_path / name / "source", tmp_path / name / "mix"
    produce(PLAN, source, run(name, store), write_rows)
    produce(replace(PLAN, stage="mix_data", inputs={"source": source}), mix, run(name, store), build)
    return mix


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff"])
def test_ancestry_that_was_changed_in_the_store_is_written_again(tmp_path, store, text):
    first = two_steps(tmp_path, store, "one", write_rows)
    told = (first / ANCESTRY).read_bytes()
    (home,) = (store / "mix_data").iterdir()
    (home / ANCESTRY).unlink()
    (home / ANCESTRY).write_bytes(text)
    second = two_steps(tmp_path, store, "two", never)
    assert (second / ANCESTRY).read_bytes() == (home / ANCESTRY).read_bytes() == told


def test_ancestry_tells_of_the_run_that_made_an_input_again(tmp_path, store):
    first = two_steps(tmp_path, store, "one", write_rows)
    told = (first / ANCESTRY).read_bytes()
    (home,) = (store / "prepare_source").iterdir()
    damage(home, "changed")
    second = two_steps(tmp_path, store, "two", never)
    assert [record.made.run for record in read_ancestry(second).values()] == ["two"]
    assert read_record(second).made.run == "one"
    assert (first / ANCESTRY).read_bytes() == told


def produce_slowly(folder: Path, name: str, started: multiprocessing.Barrier) -> None:
    def build(draft: Path) -> Outcome:
        with (folder / "built").open("a") as handle:
            handle.write(f"{name}\n")
        time.sleep(0.3)
        return write_rows(draft)

    started.wait()
    produce(PLAN, folder / name, run(name, folder / "store"), build)


def test_two_processes_make_one_thing_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=produce_slowly, args=(tmp_path, name, barrier)) for name in ("one", "two")]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    built = (tmp_path / "built").read_text().split()
    assert len(built) == 1
    records = [read_record(tmp_path / name) for name in ("one", "two")]
    assert records[0] == records[1]
    assert [records[0].made.run] == built


# --- places that refuse ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def write_much(draft: Path) -> Outcome:
    (draft / "first").write_bytes(os.urandom(40_000))
    (draft / "second").write_bytes(os.urandom(40_000))
    return Outcome()


def write_much_parquet(draft: Path) -> Outcome:
    pyarrow.parquet.write_table(pyarrow.table({"rows": [os.urandom(100) for _ in range(2_000)]}), draft / "rows.parquet")
    return Outcome()


@pytest.mark.parametrize("build", [write_much, write_much_parquet])
def test_a_full_disk_is_told_and_nothing_is_left(small_disk, refusal, build):
    told = refusal(lambda: produce(PLAN, small_disk / "out", run("one", None), build))
    assert f"{small_disk / 'out'}: found no space left on the disk" in told
    assert "nothing half-made was kept" in told
    assert names_in(small_disk) == []


def test_a_full_store_is_told_and_nothing_is_left(small_disk, tmp_path, refusal):
    told = refusal(lambda: produce(PLAN, tmp_path / "out", run("one", small_disk / "store"), write_much))
    assert "no space left on the disk" in told
    assert kept_in(small_disk) == []
    assert not (tmp_path / "out").exists()


def test_a_disk_that_the_copy_does_not_fit_is_told(small_disk, tmp_path, store, refusal):
    told = refusal(lambda: produce(PLAN, small_disk / "out", run("one", store), write_much))
    assert "no space left on the disk" in told
    assert names_in(small_disk) == []
    assert len(kept_in(store)) == 4


def test_a_copy_onto_another_disk_is_whole(small_disk, store):
    record = produce(PLAN, small_disk / "out", run("one", store), write_rows)
    assert differing_files(small_disk / "out", record) == []


def test_a_journal_on_a_full_disk_is_told(small_disk, refusal):
    job = run("one", small_disk)
    job.tell("step", "begins")
    (small_disk / "filler").write_bytes(bytes(60_000))
    assert "one.jsonl: found No space left" in refusal(lambda: job.tell("step", "goes on", words="x" * 10_000))


@pytest.mark.parametrize("place", ["out", "store"])
def test_a_file_in_the_way_is_told(tmp_path, refusal, place):
    (tmp_path / "file").write_text("mine")
    places = {"out": tmp_path / "a", "store": None} | {place: tmp_path / "file" / "below"}
    told = refusal(lambda: produce(PLAN, places["out"], run("one", places["store"]), write_rows))
    assert "found Not a directory" in told
    assert str(tmp_path / "file") in told
    assert names_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


# --- the stage that is told, and copies -----------------------------------------------------------


@stage
def make_rows(name: str, out: Path, job: Job, build: Callable[[Path], Outcome] = write_rows) -> Record:
    return produce(replace(PLAN, name=f"make_rows-{name}"), out, job, build)


def test_a_stage_tells_its_journal(tmp_path, store, capsys):
    first = make_rows("exam", tmp_path / "a", run("one", store))
    make_rows("exam", tmp_path / "b", job=run("two", store))
    started, finished = read_journal(store / "journal" / "one.jsonl")
    assert (started["name"], started["event"], finished["event"]) == ("make_rows-exam", "started", "finished")
    assert (finished["summary"], finished["made_by"], finished["reused"]) == ("3 rows", "one", False)
    assert (finished["digest"], finished["path"]) == (first.digest, str(tmp_path / "a"))
    again = read_journal(store / "journal" / "two.jsonl")[-1]
    assert (again["made_by"], again["reused"], again["digest"]) == ("one", True, first.digest)
    assert "[make_rows-exam] finished" in capsys.readouterr().out


def test_a_stage_tells_its_failure(tmp_path, store):
    with pytest.raises(BrokenError):
        make_rows("exam", tmp_path / "a", run("one", store), lambda draft: fail(draft, BrokenError("of itself")))
    failed = read_journal(store / "journal" / "one.jsonl")[-1]
    assert (failed["event"], failed["error"], failed["message"]) == ("failed", "BrokenError", "of itself")


def test_a_stage_whose_store_is_a_file_is_told(tmp_path, refusal):
    (tmp_path / "file").write_text("")
    assert f"{tmp_path / 'file'}" in refusal(lambda: make_rows("exam", tmp_path / "a", run("one", tmp_path / "file")))


def test_a_copy_takes_the_place_of_what_was_there(tmp_path):
    record = produce(PLAN, tmp_path / "a", run("one", None), write_rows)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("")
    copy_artifact(tmp_path / "a", tmp_path / "b")
    assert differing_files(tmp_path / "b", record) == []
    assert json.loads((tmp_path / "b" / RECORD).read_text())["stage"] == "prepare_source"
    assert names_in(tmp_path) == ["a", "b"]


def test_copying_a_file(tmp_path):
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    with pytest.raises(FileNotFoundError):
        copy_file(tmp_path / "absent", tmp_path / "b")
    assert names_in(tmp_path) == ["a", "b"]
