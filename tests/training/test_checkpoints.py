"""Checkpoints: only whole ones are taken, there is room for them, and they do not care where the training ran."""

import json
import shutil
import subprocess

import pytest

from med42.errors import Med42Error
from med42.lineage.journal import Job
from med42.recipe import load_recipe
from med42.training.checkpoints import (
    COMPLETE,
    account_of_attempts,
    assert_room,
    checkpoint_folder,
    mark_complete,
    newest,
    note_attempt,
)


@pytest.fixture
def folder(tmp_path):
    for step in (10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"weights")
        mark_complete(tmp_path / f"checkpoint-{step}", step, 2)
    return tmp_path


def test_the_newest_whole_one_is_taken(folder):
    (folder / "checkpoint-30").mkdir()
    found = newest(folder)
    assert (found.folder.name, found.step, found.processes) == ("checkpoint-20", 20, 2)


@pytest.mark.parametrize(("damage", "words"), [
    (lambda place: (place / "model.safetensors").write_bytes(b"weig"), "model.safetensors has 4 bytes of 7"),
    (lambda place: (place / "model.safetensors").unlink(), "model.safetensors is missing"),
    (lambda place: (place / COMPLETE).write_text("{"), "COMPLETE does not read"),
])
def test_a_damaged_one_is_not_taken_and_said_so(folder, capsys, damage, words):
    damage(folder / "checkpoint-20")
    assert newest(folder).step == 10
    assert f"checkpoint-20: {words}; an earlier checkpoint is taken" in capsys.readouterr().out


def test_none_is_none(tmp_path):
    assert newest(tmp_path) is None and newest(None) is None


def test_too_little_room_is_told_with_the_arithmetic(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here: {error}")
    try:
        settings = load_recipe("tiny").sft
        assert_room(disk, settings, 20_000)  # 3 x 12 x 20,000 bytes = 720 KB
        with pytest.raises(Med42Error, match=r"expected 1,440,000: 2 checkpoints and one being written, less 0 that are there, of 480,000"):
            assert_room(disk, settings, 40_000)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_checkpoint_belongs_to_what_decides_the_result(tiny, tmp_path):
    inputs, job = {"base": tiny["base"], "packed": tiny["packed"]}, Job("test", tmp_path)

    def identity(*changes):
        recipe = load_recipe("tiny", ["sft.checkpoint_every=10", *changes])
        return checkpoint_folder("train_sft", recipe, recipe.sft, inputs, job)

    mine = identity()
    assert identity("sft.devices.gpus_per_node=2", "sft.rows_per_device=4", "sft.threads=1", "sft.checkpoint_every=20") == mine
    others = {identity(change) for change in ("sft.learning_rate=1e-4", "sft.steps=7", "seed=1", "sft.sharding=zero-3")}
    assert len(others | {mine}) == 5


def test_attempts_and_what_was_done_twice(tmp_path):
    for what, step in (("from", 0), ("reached", 30), ("from", 20), ("reached", 45), ("from", 40), ("reached", 50)):
        note_attempt(tmp_path, what, step)
    assert account_of_attempts(tmp_path) == {"attempts": 3, "steps_redone": 15}
    assert account_of_attempts(None) == {"attempts": 1, "steps_redone": 0}


def test_the_mark_names_every_file(folder):
    shutil.copytree(folder / "checkpoint-20", folder / "checkpoint-40" / "inner")
    mark_complete(folder / "checkpoint-40", 40, 1)
    assert json.loads((folder / "checkpoint-40" / COMPLETE).read_text())["files"] == {"inner/model.safetensors": 7}
