"""What ends a training is told apart, and never looks like its end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy
import pytest
import torch

from med42.data.packed import TOKENS
from med42.errors import Med42Error
from med42.lineage.journal import Job, write_job
from med42.recipe import load_recipe
from med42.training.failures import LackOfMemoryError, PreemptedError, explained, first_failure, write_failure
from med42.training.train_sft import train_sft


def test_out_of_memory_names_the_plan_and_the_keys():
    with pytest.raises(LackOfMemoryError) as told:
        explained("train_sft", load_recipe("tiny"), lambda: torch.empty(1 << 60, dtype=torch.uint8))
    words = str(told.value)
    assert "train_sft: found out of memory: " in words
    assert "GB a process, by the plan" in words and "sft.rows_per_device" in words and "sft.sharding=zero-3" in words


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shape"):
        explained("train_sft", load_recipe("tiny"), lambda: torch.zeros(2).view(3))


def test_the_error_that_explains_the_others_is_told(tmp_path):
    write_failure(tmp_path, 1, ConnectionError("lost the peer"))
    write_failure(tmp_path, 2, PreemptedError("train_sft", "SIGTERM", "time", "Run it again."))
    assert "lost the peer" in str(first_failure(tmp_path))
    write_failure(tmp_path, 0, Med42Error("train_sft, step 3", "loss nan", "a finite loss", "Lower the learning rate."))
    assert str(first_failure(tmp_path)) == "train_sft, step 3: found loss nan; expected a finite loss. Lower the learning rate."


def test_who_lost_the_others_explains_nothing_whatever_its_clock_says(tmp_path):
    write_failure(tmp_path, 0, RuntimeError("NCCL error: ncclRemoteError"))
    write_failure(tmp_path, 9, KeyError("labels"))
    assert "KeyError: 'labels'" in str(first_failure(tmp_path))


def test_no_word_is_no_error(tmp_path):
    assert first_failure(tmp_path) is None


def test_a_diverging_loss_stops_and_names_the_last_good_checkpoint(tiny, tmp_path):
    recipe = load_recipe("tiny", ["sft.steps=40", "sft.log_every=1", "sft.checkpoint_every=1", "sft.learning_rate=0.5", "sft.warmup=0",
                                  "sft.clip_norm=1e9", "sft.diverges_at=1.2"])
    job = Job("diverging", tmp_path / "store")
    with pytest.raises(Med42Error, match=r"at most 1\.2 times the first one.*last good checkpoint is .*checkpoint-\d+"):
        train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "out", job)
    assert not (tmp_path / "out").exists()


def test_a_token_beyond_the_vocabulary_is_named_with_its_document(tiny, tmp_path, job):
    packed = shutil.copytree(tiny["packed"], tmp_path / "packed")
    tokens = numpy.fromfile(packed / TOKENS, "<i4")
    starts = numpy.load(packed / "documents.npy")
    tokens[starts[5] + 2] = 1_000_000
    tokens.tofile(packed / TOKENS)
    with pytest.raises(Med42Error, match=r"token 1,000,000 in document 5, at its place 2; expected ids below"):
        train_sft(load_recipe("tiny", ["sft.steps=1"]), tiny["base"], packed, tmp_path / "out", job)


def test_a_base_without_its_weights_is_refused(tiny, tmp_path, job):
    base = shutil.copytree(tiny["base"], tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(Med42Error, match=r"no \*\.safetensors file"):
        train_sft(load_recipe("tiny", ["sft.steps=1"]), base, tiny["packed"], tmp_path / "out", job)


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_at_once_and_the_next_start_goes_on_to_the_same_bytes(tiny, tmp_path, processes):
    changes = ["sft.steps=30", "sft.checkpoint_every=1000", "sft.threads=1"]
    if processes == 2:
        changes += ["sft.devices.gpus_per_node=2", "sft.rows_per_device=4"]
    recipe = load_recipe("tiny", changes)

    def start(name):
        script = ("import sys; from pathlib import Path; from med42.lineage.journal import read_job;"
                  "from med42.training.train_sft import train_sft; recipe, job = read_job(sys.argv[1]);"
                  "train_sft(recipe, *map(Path, sys.argv[2:]), job)")
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        write_job(folder / "job.json", recipe, Job(name, folder / "store"))
        return subprocess.Popen([sys.executable, "-c", script, str(folder / "job.json"), str(tiny["base"]), str(tiny["packed"]),
                                 str(folder / "out")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole = start("whole")
    assert whole.communicate()[0] is not None and whole.returncode == 0
    stopped, reached = start("stopped"), tmp_path / "stopped/store/checkpoints"
    while not list(reached.glob("*/attempts.txt")) and stopped.poll() is None:
        time.sleep(0.01)
    while not any("reached" in path.read_text() for path in reached.glob("*/attempts.txt")) and stopped.poll() is None:
        time.sleep(0.005)
    stopped.send_signal(signal.SIGTERM)
    told = stopped.communicate(timeout=120)[0]
    assert stopped.returncode != 0
    assert "SIGTERM at step" in told and "it goes on from" in told
    assert not (tmp_path / "stopped/out").exists()
    again = start("stopped")
    assert again.communicate()[0] is not None and again.returncode == 0
    for name in ("model.safetensors", "training_log.json"):
        assert (tmp_path / "stopped/out" / name).read_bytes() == (tmp_path / "whole/out" / name).read_bytes()
    made = json.loads((tmp_path / "stopped/out/record.json").read_text())["made"]["observed"]
    assert made["attempts"] == 2 and made["steps_redone"] == 0
