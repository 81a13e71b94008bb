"""Checkpoints in a bucket: they outlive the disk, and a torn one is never taken."""

import json
import shutil

import pytest
from bucket_server import bucket_server, refusing_service

from med42.errors import Med42Error
from med42.lineage.journal import Job
from med42.recipe import load_recipe
from med42.training import checkpoint_bucket, checkpoints
from med42.training.checkpoint_bucket import CheckpointBucket
from med42.training.checkpoints import ATTEMPTS, COMPLETE, mark_complete, newest
from med42.training.train_sft import train_sft

URL = "gs://clinic/trainings"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    with bucket_server("clinic", tmp_path / "cache", monkeypatch) as served:
        yield served


@pytest.fixture
def folder(tmp_path):
    """A training's folder with three checkpoints on disk."""
    for step in (10, 20, 30):
        (tmp_path / f"one/checkpoint-{step}/inner").mkdir(parents=True)
        (tmp_path / f"one/checkpoint-{step}/inner/model.safetensors").write_bytes(f"weights of {step}".encode() * 1000)
        mark_complete(tmp_path / f"one/checkpoint-{step}", step, 2)
    (tmp_path / "one" / ATTEMPTS).write_text("from 0\nreached 30\n")
    return tmp_path / "one"


def uploaded(folder, *steps, kept=2):
    ours = CheckpointBucket(URL, folder)
    for step in steps:
        ours.upload(step, kept)
    ours.wait()
    return ours


def test_the_newest_are_kept_and_come_back_on_an_empty_disk(bucket, folder, tmp_path):
    assert uploaded(folder, 10, 20, 30).steps() == [20, 30]
    elsewhere = tmp_path / "elsewhere" / "one"
    CheckpointBucket(URL, elsewhere).fetch()
    found = newest(elsewhere)
    assert (found.step, found.processes) == (30, 2)
    for name in ("inner/model.safetensors", COMPLETE):
        assert (found.folder / name).read_bytes() == (folder / "checkpoint-30" / name).read_bytes()
    assert (elsewhere / ATTEMPTS).read_text() == "from 0\nreached 30\n"


def test_the_disk_has_a_newer_one(bucket, folder, tmp_path):
    uploaded(folder, 10)
    shutil.rmtree(folder / "checkpoint-10")
    CheckpointBucket(URL, folder).fetch()
    assert not (folder / "checkpoint-10").exists()


def test_a_torn_upload_is_no_checkpoint(bucket, folder, tmp_path):
    ours = uploaded(folder, 10, 20)
    bucket.remove(f"trainings/one/checkpoint-20/{COMPLETE}")
    assert ours.steps() == [10]
    elsewhere = tmp_path / "elsewhere" / "one"
    CheckpointBucket(URL, elsewhere).fetch()
    assert newest(elsewhere).step == 10


def test_an_object_of_another_size_is_refused(bucket, folder, tmp_path):
    uploaded(folder, 10)
    bucket.put({"trainings/one/checkpoint-10/inner/model.safetensors": b"short"})
    with pytest.raises(Med42Error, match=r"step 10: found inner/model\.safetensors with 5 bytes; expected 13,000"):
        CheckpointBucket(URL, tmp_path / "elsewhere" / "one").fetch()
    assert not list((tmp_path / "elsewhere").rglob("checkpoint-*"))


def test_an_upload_that_breaks_stops_the_training_at_its_next_checkpoint(bucket, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_bucket, "PATIENCE", 1)
    ours = uploaded(folder, 10)
    with refusing_service(403, tmp_path / "cache", monkeypatch):
        broken = CheckpointBucket(URL, folder)
        broken.upload(20, 2)
        with pytest.raises(Med42Error, match="without this right"):
            broken.upload(30, 2)
    assert ours.steps() == [10]


@pytest.mark.parametrize(("status", "words"), [(403, "Storage Object User to write"), (404, "no such bucket"), (503, "in trouble")])
def test_a_bucket_that_refuses_is_told_before_the_training(status, words, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_bucket, "PATIENCE", 1)
    recipe = load_recipe("tiny", ["sft.steps=4", "sft.checkpoint_every=2", f"sft.checkpoint_bucket={URL}"])
    with refusing_service(status, tmp_path / "cache", monkeypatch), pytest.raises(Med42Error, match=words):
        train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "out", Job("test", tmp_path / "store"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("checkpoint-*"))


def test_a_training_goes_on_where_its_disk_is_lost(bucket, tiny, tmp_path, monkeypatch):
    changes = ["sft.steps=30", "sft.checkpoint_every=5", f"sft.checkpoint_bucket={URL}", "sft.threads=1", "sft.log_every=1"]
    recipe = load_recipe("tiny", changes)
    train_sft(load_recipe("tiny", changes), tiny["base"], tiny["packed"], tmp_path / "whole", Job("test", tmp_path / "store"))
    assert [blob.name for blob in bucket.client.list_blobs("clinic")] == []

    def lost(folder, step, processes):
        mark_complete(folder, step, processes)
        if step == 15:
            raise ConnectionError("the node is gone")

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(checkpoints, "mark_complete", lost)
        train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "out", Job("test", tmp_path / "disk-1"))
    train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "out", Job("test", tmp_path / "disk-2"))
    for name in ("model.safetensors", "training_log.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    made = json.loads((tmp_path / "out/record.json").read_text())["made"]["observed"]
    assert made["attempts"] == 2
    assert [blob.name for blob in bucket.client.list_blobs("clinic")] == []
