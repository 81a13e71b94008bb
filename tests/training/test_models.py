"""Every shape of Llama 3 trains as TRL's own path trains it: rope scaling of 3.1, tied and untied heads, low-rank updates, bf16."""

import json

import pytest
import torch
from safetensors.torch import load_file

from med42.data.pack_data import pack_data
from med42.data.packed import PackedChunks
from med42.lineage.artifact import Outcome, Plan, produce
from med42.recipe import load_recipe
from med42.training.model import COMPANIONS
from med42.training.train_sft import train_sft
from med42.training.trainer import training_order

SHORT = ["sft.steps=4", "sft.threads=1", "sft.warmup=0", "sft.checkpoint_every=0"]
ROPE_31 = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 64}
SHAPES = {
    "Llama 3, tied": {"tie_word_embeddings": True},
    "Llama 3, untied": {"tie_word_embeddings": False},
    "Llama 3.1, untied": {"tie_word_embeddings": False, "rope_parameters": ROPE_31},
}


def log_of(folder):
    return json.loads((folder / "training_log.json").read_text())


@pytest.fixture(scope="module", params=SHAPES)
def shaped(request, tiny, tmp_path_factory, job):
    """A base model of this shape with tiny's tokenizer, and the mix packed for it."""
    from transformers import AutoConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("shaped")

    def build(draft):
        config = AutoConfig.from_pretrained(tiny["base"])
        for key, value in SHAPES[request.param].items():
            setattr(config, key, value)
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(draft)
        for name in COMPANIONS:
            if (tiny["base"] / name).is_file() and not (draft / name).is_file():
                (draft / name).write_bytes((tiny["base"] / name).read_bytes())
        return Outcome()

    produce(Plan("prepare_base", "model", SHAPES[request.param], {}, "training"), folder / "base", job, build)
    pack_data(load_recipe("tiny"), tiny["mix"], folder / "base", folder / "packed", job)
    return folder


def trained_by_trl(shaped, recipe, folder):
    """The losses of TRL's SFTTrainer with its own padding-free collator, on the same chunks as plain columns."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    settings, chunks = recipe.sft, PackedChunks(shaped / "packed")
    order = training_order(len(chunks), settings.steps * settings.batch, recipe.seed)
    rows = datasets.Dataset.from_list([
        {"input_ids": chunk["input_ids"].tolist(), "seq_lengths": chunk["seq_lengths"].tolist(),
         "labels": chunk["labels"].tolist()} for chunk in map(chunks.__getitem__, order)])
    arguments = SFTConfig(
        output_dir=str(folder), train_sampling_strategy="sequential", use_cpu=True, bf16=False, padding_free=True, max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True}, per_device_train_batch_size=1, gradient_accumulation_steps=settings.batch,
        max_steps=settings.steps, learning_rate=settings.learning_rate, adam_beta1=settings.betas[0], adam_beta2=settings.betas[1],
        adam_epsilon=settings.epsilon, weight_decay=settings.weight_decay, optim="adamw_torch", lr_scheduler_type=settings.schedule,
        warmup_steps=0, max_grad_norm=settings.clip_norm,
        logging_steps=1, report_to="none", save_strategy="no", disable_tqdm=True, gradient_checkpointing=False)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(shaped / "base", dtype=torch.float32, attn_implementation="sdpa")
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(shaped / "base"))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], model


def test_losses_and_weights_are_those_of_trls_own_path(shaped, tmp_path, job):
    recipe = load_recipe("tiny", [*SHORT, "sft.rows_per_device=1"])
    train_sft(recipe, shaped / "base", shaped / "packed", tmp_path / "ours", job)
    losses, model = trained_by_trl(shaped, recipe, tmp_path / "trl")
    assert [entry["loss"] for entry in log_of(tmp_path / "ours")] == losses
    ours, theirs = load_file(tmp_path / "ours/model.safetensors"), model.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_the_configuration_is_kept(shaped, tmp_path, job):
    train_sft(load_recipe("tiny", SHORT), shaped / "base", shaped / "packed", tmp_path / "out", job)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (shaped / "base", tmp_path / "out"))
    assert before["rope_parameters"] == after["rope_parameters"]
    assert ("lm_head.weight" in load_file(tmp_path / "out/model.safetensors")) is not before["tie_word_embeddings"]


def test_low_rank_updates_come_out_as_a_whole_model(tiny, tmp_path, job):
    recipe = load_recipe("tiny", [*SHORT, "sft.steps=20", "sft.lora={rank: 8, alpha: 16, projections: [q_proj, v_proj]}"])
    train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "out", job)
    before, after = load_file(tiny["base"] / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj" in name or "v_proj" in name}
    assert all(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 8 for name in changed)
    losses = [entry["loss"] for entry in log_of(tmp_path / "out")]
    assert losses[-1] < losses[0]


def test_bf16_computes_and_fp32_is_kept(tiny, tmp_path, job):
    for dtype in ("float32", "bfloat16"):
        train_sft(load_recipe("tiny", [*SHORT, f"sft.dtype={dtype}"]), tiny["base"], tiny["packed"], tmp_path / dtype, job)
    exact, rounded = ([entry["loss"] for entry in log_of(tmp_path / dtype)] for dtype in ("float32", "bfloat16"))
    assert exact != rounded and rounded == pytest.approx(exact, rel=2e-2)
    assert {weight.dtype for weight in load_file(tmp_path / "bfloat16/model.safetensors").values()} == {torch.float32}


def test_values_are_written_for_tensorboard(tiny, tmp_path):
    from med42.lineage.journal import Job

    recipe = load_recipe("tiny", [*SHORT, "sft.tensorboard=true"])
    train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "out", Job("a-run", tmp_path / "store"))
    (events,) = (tmp_path / "store/tensorboard/a-run/train_sft").iterdir()
    assert all(key in events.read_bytes() for key in (b"train/loss", b"train/learning_rate", b"train/grad_norm"))


def test_every_row_is_trained_on_once_a_pass_and_each_pass_in_another_order():
    order = training_order(10, 25, seed=0)
    assert [sorted(order[start : start + 10]) for start in (0, 10)] == [list(range(10))] * 2 and len(order) == 25
    assert order[:10] != order[10:20] and order != training_order(10, 25, seed=1)
    assert training_order(10, 0, seed=0) == []
