"""The plan: exact where it can be, near what is measured, and clear about what does not fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from med42.cli.main import app
from med42.data.pack_data import pack_data
from med42.errors import Med42Error
from med42.recipe import load_recipe
from med42.recipe.schema import Shape
from med42.training.planning import Accelerator, load_accelerators, parameter_count, plan_training, what_would_fit
from med42.training.prepare_base import prepare_base

MEASURED = ["base.hidden_size=768", "base.layers=8", "base.feed_forward=2048", "base.heads=12", "base.kv_heads=4", "base.context=1024",
            "pack.chunk=1024", "sft.batch=1", "sft.rows_per_device=1", "sft.steps=2", "sft.threads=1", "sft.warmup=0"]


def plan(*arguments):
    return CliRunner().invoke(app, ["plan", *arguments])


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(tied):
    shape = Shape(vocabulary=1000, hidden_size=96, layers=3, heads=8, kv_heads=2, feed_forward=256, tied=tied)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, hidden_size=96, num_hidden_layers=3, num_attention_heads=8,
                                             num_key_value_heads=2, intermediate_size=256, tie_word_embeddings=tied))
    assert parameter_count(shape) == model.num_parameters()


@pytest.mark.parametrize(("recipe", "parameters"), [("llama3-8b", 8_030_261_248), ("llama3-70b", 70_553_706_496)])
def test_parameters_of_the_papers_models(recipe, parameters):
    assert parameter_count(load_recipe(recipe).base.shape) == parameters


def test_tinys_plan_has_the_sizes_of_its_base(tiny):
    config = AutoConfig.from_pretrained(tiny["base"])
    shape = load_recipe("tiny").base.shape
    assert (shape.hidden_size, shape.layers, shape.tied) == (config.hidden_size, config.num_hidden_layers, config.tie_word_embeddings)


@pytest.fixture(scope="module")
def measuring(tiny, tmp_path_factory, job):
    """tiny's artifacts, and a base of 52 million parameters with its chunks."""
    folder = tmp_path_factory.mktemp("measuring")
    (folder / "tiny").symlink_to(tiny["base"].parent)
    recipe = load_recipe("tiny", MEASURED)
    prepare_base(recipe, tiny["mix"], folder / "base", job)
    pack_data(recipe, tiny["mix"], folder / "base", folder / "packed", job)
    return folder


@pytest.mark.parametrize("changes", [[], ["sft.activation_checkpointing=true"], ["sft.dtype=bfloat16"]], ids=str)
def test_planned_memory_is_what_is_measured(changes, measuring, capsys):
    # glibc would keep freed blocks below a moving threshold in pieces; with a fixed one it gives them back.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("peak_memory.py")
    told = subprocess.run([sys.executable, str(script), str(measuring), *MEASURED, *changes], env=environment, check=True,
                          capture_output=True, text=True).stdout
    measured, planned = map(int, told.rpartition("RESULT")[2].split())
    with capsys.disabled():
        print(f"\n{changes or 'fp32'}: planned {planned / 1e6:,.0f} MB, measured {measured / 1e6:,.0f} MB", end=" ")
    assert planned == pytest.approx(measured, rel=0.15)


def test_the_papers_hardware_holds_its_models():
    for recipe, where in (("llama3-8b", "2 x 8 H100"), ("llama3-70b", "6 x 8 H100")):
        told = plan(recipe)
        assert told.exit_code == 0, told.output
        assert f"train_sft on {where}" in told.output and "does not fit" not in told.output
    assert "train_dpo-1 to train_dpo-3 on 4 x 8 H100" in told.output


def test_what_cannot_fit_is_refused_with_what_would():
    told = plan("llama3-70b", "--set", "sft.devices.nodes=2", "--set", "sft.batch=48", "--set", "sft.rows_per_device=1")
    words = " ".join(told.output.split())
    assert told.exit_code == 1
    assert "does not fit: ZeRO-3 on " in words and "sft.sharding=zero-3" in words
    least = int(words.partition("ZeRO-3 on ")[2].split()[0])
    assert 16 < least <= 32
    # What it names does fit, and one GPU less does not.
    recipe, accelerator = load_recipe("llama3-70b"), load_accelerators()["H100"]
    for processes, fits in ((least, True), (least - 1, False)):
        devices = recipe.sft.devices.model_copy(update={"nodes": 1, "gpus_per_node": processes})
        changed = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"devices": devices, "batch": processes})})
        assert (plan_training(changed)[0].memory <= accelerator.memory_gb * 1e9) is fits


def test_nothing_holds_a_model_that_is_too_large():
    recipe, small = load_recipe("llama3-70b"), Accelerator(memory_gb=8, bf16_tflops=1, utilisation=0.5, gb_a_second=1, dollars_an_hour=0)
    assert "no number of these GPUs up to 1,024 holds it" in what_would_fit(recipe, "train_sft", small)


def test_low_rank_updates_need_less():
    full, low = (plan_training(load_recipe("llama3-8b", changes))[0] for changes in ([], ["sft.lora={rank: 16, alpha: 32}"]))
    # 16 x the two sides of every projection: q, o 8,192 each; k, v 5,120; gate, up, down 18,432 -> 81,920 a layer.
    trained = {part.name: part.arithmetic for part in low.parts}["optimizer"]
    assert trained == f"8 x {32 * 16 * 81_920:,} / 16"
    assert low.memory < full.memory


def test_prices_of_ones_own(tmp_path):
    table = tmp_path / "ours.yaml"
    table.write_text("H100: {memory_gb: 80, bf16_tflops: 989, utilisation: 0.35, gb_a_second: 50, dollars_an_hour: 8.0}\n")
    ours, theirs = (json.loads(plan("llama3-8b", "--json", *more).output) for more in (["--accelerators", str(table)], []))
    assert ours[0]["dollars"] == pytest.approx(2 * theirs[0]["dollars"])
    assert ours[0]["memory_bytes"] == sum(round(part["size"]) for part in ours[0]["parts"])


@pytest.mark.parametrize(("text", "words"), [
    ("H100: {memory_gb: 80}\n", "bf16_tflops"), ("- H100\n", "rows of memory_gb"), ("H100: [1\n", "rows of memory_gb"),
    ("H100: {memory_gb: -1, bf16_tflops: 1, utilisation: 1, gb_a_second: 1, dollars_an_hour: 1}\n", "memory_gb"),
])
def test_a_table_that_is_none(tmp_path, text, words):
    (tmp_path / "ours.yaml").write_text(text)
    with pytest.raises(Med42Error, match=words):
        load_accelerators(tmp_path / "ours.yaml")


def test_an_accelerator_without_a_row_is_named(tmp_path):
    told = plan("llama3-8b", "--set", "sft.devices.accelerator=B200")
    assert told.exit_code == 1 and "B200" in told.output and "--accelerators" in " ".join(told.output.split())
    with pytest.raises(Med42Error, match="No such file"):
        load_accelerators(tmp_path / "none.yaml")
