"""One process, several, and shards of several train the same: the losses of every variant beside those of one process."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from med42.recipe import load_recipe
from med42.training import train_sft as stage
from med42.training.train_dpo import train_dpo
from med42.training.train_sft import train_sft

# 32 steps of 8 chunks go on into a second pass over the 228.
SHORT = ["sft.steps=32", "sft.log_every=1", "sft.threads=1", "sft.warmup=0.25",
         "dpo.steps=4", "dpo.log_every=1", "dpo.threads=1"]
ON_TWO = ["sft.devices.gpus_per_node=2", "dpo.devices.gpus_per_node=2"]
VARIANTS = {
    "1 process, 4 micro-steps": ["sft.rows_per_device=2", "dpo.pairs_per_device=4"],
    "2 processes": [*ON_TWO, "sft.rows_per_device=4", "dpo.pairs_per_device=8"],
    "2 processes, 2 micro-steps": [*ON_TWO, "sft.rows_per_device=2", "dpo.pairs_per_device=4"],
    "ZeRO-2": [*ON_TWO, "sft.rows_per_device=4", "dpo.pairs_per_device=8", "sft.sharding=zero-2", "dpo.sharding=zero-2"],
    "ZeRO-3": [*ON_TWO, "sft.rows_per_device=4", "dpo.pairs_per_device=8", "sft.sharding=zero-3", "dpo.sharding=zero-3"],
    "2 processes, DPO in several rows": [*ON_TWO, "sft.rows_per_device=4", "dpo.pairs_per_device=8", "dpo.row_tokens=256"],
    "ZeRO-3, DPO in several rows": [*ON_TWO, "sft.rows_per_device=4", "dpo.pairs_per_device=8", "dpo.row_tokens=256",
                                    "sft.sharding=zero-3", "dpo.sharding=zero-3"],
    "ZeRO-3, 2 micro-steps, activations computed again": [
        *ON_TWO, "sft.rows_per_device=2", "dpo.pairs_per_device=4", "sft.sharding=zero-3", "dpo.sharding=zero-3",
        "sft.activation_checkpointing=true", "dpo.activation_checkpointing=true"],
}
DECIMALS = 1e-5


def log_of(folder):
    return [entry["loss"] for entry in json.loads((folder / "training_log.json").read_text())]


@pytest.fixture(scope="module")
def one(tiny, tmp_path_factory, job):
    """SFT and a round of DPO in one process; and which chunks each step of SFT saw."""
    folder, recipe, seen = tmp_path_factory.mktemp("one"), load_recipe("tiny", SHORT), []
    gather = stage.gather

    def noting(chunks, batch):
        seen.append(batch["chunk"])
        return gather(chunks, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "gather", noting)
        train_sft(recipe, tiny["base"], tiny["packed"], folder / "sft", job)
    train_dpo(recipe, 1, folder / "sft", tiny["preferences"], folder / "dpo", job)
    batches = [chunks for chunks in seen if len(chunks) == recipe.sft.batch][: recipe.sft.steps]  # the trainer looks at one row first
    return {"folder": folder, "batches": batches}


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_those_of_one_process(variant, tiny, one, tmp_path, job, request, capsys):
    changes = VARIANTS[variant]
    if "zero" in str(changes):
        request.getfixturevalue("deepspeed")
    recipe = load_recipe("tiny", [*SHORT, *changes])
    train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "sft", job)
    train_dpo(recipe, 1, one["folder"] / "sft", tiny["preferences"], tmp_path / "dpo", job)
    differ = {}
    for name in ("sft", "dpo"):
        wanted, found = log_of(one["folder"] / name), log_of(tmp_path / name)
        assert len(wanted) == len(found)
        differ[name] = max(abs(ours - theirs) for ours, theirs in zip(found, wanted, strict=True))
    with capsys.disabled():
        print(f"\n{variant:52} largest difference of a loss: SFT {differ['sft']:.1e}, DPO {differ['dpo']:.1e}", end=" ")
    assert max(differ.values()) <= DECIMALS
    weights = (tmp_path / "sft" / "model.safetensors").stat().st_size
    assert weights == (one["folder"] / "sft" / "model.safetensors").stat().st_size


def test_losses_are_those_of_fully_shard(tiny, one, tmp_path, capsys):
    recipe = load_recipe("tiny", SHORT)
    told = {"base": str(tiny["base"]), "packed": str(tiny["packed"]), "batches": one["batches"], "out": str(tmp_path / "losses.json"),
            "sft": recipe.sft.model_dump(mode="json"), "warmup_steps": math.ceil(recipe.sft.warmup * recipe.sft.steps)}
    (tmp_path / "job.json").write_text(json.dumps(told))
    script = Path(__file__).with_name("fully_sharded.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(tmp_path / "job.json")]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wanted, found = log_of(one["folder"] / "sft"), json.loads((tmp_path / "losses.json").read_text())
    differ = max(abs(ours - theirs) for ours, theirs in zip(wanted, found, strict=True))
    with capsys.disabled():
        print(f"\n{'fully_shard (FSDP2), 2 processes':52} largest difference of a loss: SFT {differ:.1e}", end=" ")
    assert differ <= DECIMALS
