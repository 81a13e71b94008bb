"""Training on two nodes: two containers of the training image, on a network of their own that leads nowhere else."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from components.images import TRAIN
from med42.cli.containers import UID
from med42.lineage.journal import Job, write_job
from med42.recipe import load_recipe
from med42.training.launch import OUTCOME, torchrun

STAGES = {"sft": ("base", "packed"), "dpo": ("policy", "preferences")}
QUICK = ["sft.steps=25", "sft.log_every=5", "dpo.steps=6", "dpo.log_every=2", "sft.threads=1", "dpo.threads=1"]
ON_TWO = [*QUICK, "sft.devices.nodes=2", "sft.rows_per_device=4", "dpo.devices.nodes=2", "dpo.pairs_per_device=8"]


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """A folder that the nodes share and may write, with tiny's artifacts."""
    folder = tmp_path_factory.mktemp("nodes")
    folder.chmod(0o777)
    for name in ("base", "packed", "preferences"):
        shutil.copytree(tiny[name], folder / name)
    shutil.copytree(tiny["base"], folder / "policy")
    return folder


@pytest.fixture
def network(engine):
    made = engine.networks.create(f"med42-test-{os.getpid()}-{time.monotonic_ns()}", internal=True)
    yield made
    made.remove()


class OnTwoNodes:
    """One training on two nodes, `node-0` the meeting point."""

    def __init__(self, engine, network, place, stage, name, *changes):
        self.out, self.store, scratch = (place / name / part for part in ("out", "store", "scratch"))
        for folder in (self.out, self.store, scratch):
            folder.mkdir(parents=True)
            folder.chmod(0o777)
        recipe = load_recipe("tiny", [*ON_TWO, *changes])
        job_file = place / name / "job.json"
        write_job(job_file, recipe, Job(name, self.store))
        devices = recipe.sft.devices if stage == "sft" else recipe.dpo.devices
        inputs = {key: place / key for key in STAGES[stage]}
        command = torchrun(f"med42.training.train_{stage}", devices, f"node-0-{name}:29400", job_file, inputs, self.out, scratch)
        user = f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{UID}:0"
        self.nodes = [
            engine.containers.create(
                TRAIN, ["python3", *command], name=f"node-{number}-{name}", hostname=f"node-{number}-{name}", network=network.name,
                user=user, read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"], tmpfs={"/tmp": "mode=1777"},
                volumes={str(place): {"bind": str(place), "mode": "rw"}})
            for number in range(2)
        ]

    def __enter__(self):
        for node in self.nodes:
            node.start()
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.remove(force=True)

    def statuses(self, timeout=240):
        return [node.wait(timeout=timeout)["StatusCode"] for node in self.nodes]

    def logs(self):
        return "\n".join(node.logs().decode("utf-8", "replace")[-3000:] for node in self.nodes)

    def checkpointed(self, step):
        """Wait until a checkpoint of this step or a later one is complete."""
        until = time.monotonic() + 120
        while not any(int(mark.parent.name.rpartition("-")[2]) >= step for mark in self.store.glob("checkpoints/*/checkpoint-*/COMPLETE")):
            assert time.monotonic() < until, self.logs()
            time.sleep(0.05)


def losses(out):
    return [entry["loss"] for entry in json.loads((out / "training_log.json").read_text())]


def weights(out):
    return (out / "model.safetensors").read_bytes()


def alone(place, stage, *changes):
    """The losses of the same training in one process, on this machine."""
    folder = place / f"one-{stage}"
    folder.mkdir()
    write_job(folder / "job.json", load_recipe("tiny", [*QUICK, *changes]), Job("one", None))
    inputs = [part for key in STAGES[stage] for part in ("--input", f"{key}={place / key}")]
    command = [sys.executable, "-m", f"med42.training.train_{stage}", "--job", folder / "job.json", "--out", folder, "--scratch", folder]
    subprocess.run([*command, *inputs], check=True, capture_output=True)
    assert (folder / OUTCOME).is_file()
    return losses(folder)


@pytest.fixture(scope="module")
def uninterrupted(engine, place):
    """SFT on two nodes with checkpoints, never disturbed."""
    made = engine.networks.create(f"med42-test-{os.getpid()}", internal=True)
    try:
        with OnTwoNodes(engine, made, place, "sft", "whole", "sft.checkpoint_every=10", "sft.devices.restarts=2") as job:
            assert job.statuses() == [0, 0], job.logs()
            return job.out
    finally:
        made.remove()


def test_sft_on_two_nodes_has_the_losses_of_one_process(uninterrupted, place):
    one = alone(place, "sft")
    assert len(one) == 25
    assert losses(uninterrupted) == pytest.approx(one, abs=1e-5)


def test_dpo_on_two_nodes_has_the_losses_of_one_process(engine, network, place):
    with OnTwoNodes(engine, network, place, "dpo", "dpo") as job:
        assert job.statuses() == [0, 0], job.logs()
        assert losses(job.out) == pytest.approx(alone(place, "dpo"), abs=1e-5)


def test_a_node_that_is_lost_and_comes_back_changes_no_bit(engine, network, place, uninterrupted):
    with OnTwoNodes(engine, network, place, "sft", "lost", "sft.checkpoint_every=10", "sft.devices.restarts=2") as job:
        job.checkpointed(10)
        job.nodes[1].kill()
        time.sleep(1)
        job.nodes[1].start()
        assert job.statuses() == [0, 0], job.logs()
        assert weights(job.out) == weights(uninterrupted)
        assert losses(job.out) == losses(uninterrupted)


def test_without_restarts_a_lost_node_fails_the_job(engine, network, place):
    with OnTwoNodes(engine, network, place, "sft", "fails", "sft.checkpoint_every=10", "sft.steps=3000") as job:
        job.checkpointed(10)
        job.nodes[1].kill()
        first, second = job.statuses()
        assert first != 0 and second == 137
        assert not list(job.out.iterdir())
