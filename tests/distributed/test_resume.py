"""Killed trainings go on: to the same bytes with as many processes, to the same losses with another number.

`KILLS=20 make test-distributed` kills each training at 20 random moments; by default it is one.
"""

import json
import os
import random
import subprocess
import sys
import time

import psutil
import pytest

from med42.lineage.journal import Job, write_job
from med42.recipe import load_recipe
from med42.training.checkpoints import COMPLETE

KILLS = int(os.environ.get("KILLS", "1"))
STAGES = {
    "sft": ("from med42.training.train_sft import train_sft; train_sft(recipe, *map(Path, sys.argv[2:]), job)", "packed"),
    "dpo": ("from med42.training.train_dpo import train_dpo; train_dpo(recipe, 1, *map(Path, sys.argv[2:]), job)", "preferences"),
}
STAGE = "import sys; from pathlib import Path; from med42.lineage.journal import read_job; recipe, job = read_job(sys.argv[1]); "
ON_TWO = ["sft.devices.gpus_per_node=2", "sft.rows_per_device=4"]
DPO_ON_TWO = ["dpo.devices.gpus_per_node=2", "dpo.pairs_per_device=8"]
VARIANTS = {
    "one process": ("sft", []), "two processes": ("sft", ON_TWO), "ZeRO-3": ("sft", [*ON_TWO, "sft.sharding=zero-3"]),
    "DPO, one process": ("dpo", []), "DPO, two processes": ("dpo", DPO_ON_TWO),
    "DPO, ZeRO-3": ("dpo", [*DPO_ON_TWO, "dpo.sharding=zero-3"]),
}


def start(folder, tiny, changes, stage="sft"):
    """The stage, in processes of their own that can be killed together."""
    folder.mkdir(exist_ok=True)
    write_job(folder / "job.json", load_recipe("tiny", ["sft.threads=1", "dpo.threads=1", *changes]), Job("test", folder / "store"))
    call, rows = STAGES[stage]
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", STAGE + call, str(folder / "job.json"), str(tiny["base"]), str(tiny[rows]), str(folder / "out")],
            stdout=log, stderr=log, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def kill(process):
    """Kill the stage alone, as a machine short of memory would; the processes that it started end with it."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert not psutil.wait_procs(started, timeout=20)[1], "processes that nobody waits for train on"


def attempts(folder):
    notes = list(folder.glob("store/checkpoints/*/attempts.txt"))
    return notes[0].read_text() if notes else ""


def losses(folder):
    return [entry["loss"] for entry in json.loads((folder / "out" / "training_log.json").read_text())]


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_at_random_it_comes_to_the_same_bytes(variant, tiny, tmp_path, request, capsys):
    if "ZeRO" in variant:
        request.getfixturevalue("deepspeed")
    stage, changes = VARIANTS[variant]
    changes = [*changes, f"{stage}.steps={20 + 20 * KILLS}", f"{stage}.checkpoint_every=5"]
    assert start(tmp_path / "whole", tiny, changes, stage).wait() == 0
    folder, draw, killed = tmp_path / "killed", random.Random(42), 0
    while not (folder / "out").exists():
        before, running = attempts(folder), start(folder, tiny, changes, stage)
        if killed < KILLS:
            while attempts(folder).count("reached") == before.count("reached") and running.poll() is None:
                time.sleep(0.005)
            time.sleep(draw.random() * 1.5)
            if running.poll() is None:
                kill(running)
                killed += 1
                continue
        assert running.wait() == 0, (folder / "log.txt").read_text()[-3000:]
    for name in ("model.safetensors", "training_log.json"):
        assert (folder / "out" / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()
    made = json.loads((folder / "out" / "record.json").read_text())["made"]["observed"]
    assert made["attempts"] == killed + 1
    with capsys.disabled():
        print(f"\n{variant}: killed {killed} times, {made['steps_redone']} steps done again, the same bytes", end=" ")


@pytest.mark.parametrize(("sharding", "before", "after"), [("ddp", 2, 1), ("ddp", 1, 2), ("zero-3", 2, 1)])
def test_it_goes_on_with_another_number_of_processes(sharding, before, after, tiny, tmp_path, request, capsys):
    if sharding != "ddp":
        request.getfixturevalue("deepspeed")
    base = ["sft.steps=32", "sft.checkpoint_every=5", "sft.weight_decay=0.1", f"sft.sharding={sharding}"]

    def on(processes):
        return [*base, f"sft.devices.gpus_per_node={processes}", f"sft.rows_per_device={8 // processes}"]

    assert start(tmp_path / "whole", tiny, on(before)).wait() == 0
    folder = tmp_path / "moved"
    running = start(folder, tiny, on(before))
    while not list(folder.glob(f"store/checkpoints/*/checkpoint-*/{COMPLETE}")) and running.poll() is None:
        time.sleep(0.005)
    kill(running)
    assert start(folder, tiny, on(after)).wait() == 0, (folder / "log.txt").read_text()[-3000:]
    differ = max(abs(ours - theirs) for ours, theirs in zip(losses(folder), losses(tmp_path / "whole"), strict=True))
    with capsys.disabled():
        print(f"\n{sharding}, {before} -> {after} processes: largest difference of a loss {differ:.1e}", end=" ")
    assert differ <= 1e-5
    assert json.loads((folder / "out" / "record.json").read_text())["made"]["observed"]["attempts"] == 2
