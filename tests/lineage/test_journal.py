import json
import time

import pytest

from med42.errors import Med42Error
from med42.lineage.journal import Job, Progress, read_job, read_journal, write_job
from med42.recipe import load_recipe


def test_a_line_in_the_log_and_one_in_the_journal(tmp_path, capsys):
    job = Job("one", tmp_path)
    job.tell("train", "progress", loss=1.23456789, done=3, words="é")
    assert capsys.readouterr().out == "[train] progress loss=1.235 done=3 words=é\n"
    (event,) = read_journal(job.journal)
    assert time.time() - event.pop("time") < 60
    assert event == {"name": "train", "event": "progress", "loss": 1.23456789, "done": 3, "words": "é"}


def test_without_a_store_there_is_a_log_alone(tmp_path, capsys):
    job = Job("one", None)
    job.tell("train", "started")
    assert job.journal is None
    assert capsys.readouterr().out == "[train] started\n"


def test_each_run_has_a_journal(tmp_path):
    for name in ("one", "two", "one"):
        Job(name, tmp_path).tell(name, "started")
    assert [event["name"] for event in read_journal(Job("one", tmp_path).journal)] == ["one", "one"]
    assert len(read_journal(Job("two", tmp_path).journal)) == 1


def test_telling_of_work_that_ends(tmp_path):
    job = Job("one", tmp_path)
    with job.telling("mix") as facts:
        facts["rows"] = 3
    events = read_journal(job.journal)
    assert [event["event"] for event in events] == ["started", "finished"]
    assert events[1]["rows"] == 3
    assert 0 <= events[1]["seconds"] < 5


@pytest.mark.parametrize("error", [ValueError("why"), KeyboardInterrupt("why"), Med42Error("why", "a", "b", "c")])
def test_telling_of_work_that_fails(tmp_path, error):
    job = Job("one", tmp_path)
    with pytest.raises(type(error)), job.telling("mix"):
        raise error
    last = read_journal(job.journal)[-1]
    assert (last["event"], last["error"]) == ("failed", type(error).__name__)
    assert "why" in last["message"]


def test_a_line_that_is_still_being_written_is_left_out(tmp_path):
    job = Job("one", tmp_path)
    job.tell("mix", "started")
    with job.journal.open("a") as handle:
        handle.write('{"time": 1, "na')
    assert [event["event"] for event in read_journal(job.journal)] == ["started"]


def test_a_journal_that_is_not_there_is_empty(tmp_path):
    assert read_journal(tmp_path / "absent.jsonl") == []


def test_a_journal_that_cannot_be_written_is_told(tmp_path, refusal):
    (tmp_path / "file").write_text("")
    told = refusal(lambda: Job("one", tmp_path / "file").tell("mix", "started"))
    assert "one.jsonl: found " in told
    assert "choose another folder for the store" in told


def test_progress_tells_now_and_then_and_the_end(tmp_path):
    job = Job("one", tmp_path)
    progress = Progress(job, "pack", 1000, "rows", interval=60)
    for done in range(1, 1001):
        progress.step(done, tokens=done)
    (event,) = read_journal(job.journal)
    assert (event["event"], event["done"], event["total"], event["unit"], event["seconds_left"]) == ("progress", 1000, 1000, "rows", 0.0)
    assert event["tokens"] == 1000


def test_progress_estimates_what_is_left(tmp_path):
    job = Job("one", tmp_path)
    progress = Progress(job, "pack", 4, "rows", interval=0)
    progress.started -= 10
    progress.step(1)
    assert read_journal(job.journal)[0]["seconds_left"] == pytest.approx(30, abs=1)


@pytest.mark.parametrize("job", [Job("one"), Job("two", push_to="hub:a/b")])
def test_a_job_file_carries_recipe_and_job(tmp_path, job):
    recipe = load_recipe("tiny", ["seed=7"])
    write_job(tmp_path / "job.json", recipe, job)
    assert read_job(str(tmp_path / "job.json")) == (recipe, job)


def test_a_job_file_carries_folders(tmp_path):
    job = Job("one", tmp_path / "store", tmp_path / "data")
    write_job(tmp_path / "job.json", load_recipe("tiny"), job)
    assert read_job(str(tmp_path / "job.json"))[1] == job
    assert json.loads((tmp_path / "job.json").read_text())["store"] == str(tmp_path / "store")
