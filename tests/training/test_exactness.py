"""Training on packed chunks is training on the documents; what is learned is what the assistant says."""

import json
import math
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from med42.data.chat import IGNORED
from med42.data.packed import PackedChunks
from med42.data.shards import read_shards
from med42.errors import Med42Error
from med42.lineage.journal import Job, write_job
from med42.lineage.record import read_record
from med42.recipe import load_recipe
from med42.training.train_dpo import train_dpo
from med42.training.train_sft import collate, train_sft
from med42.training.trainer import assert_world_size

LENGTHS = (7, 12, 5, 9)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                         intermediate_size=64, max_position_embeddings=64))
    with torch.no_grad():  # make attention matter: with small weights a leak across documents would hide in rounding
        for name, weight in model.named_parameters():
            if any(part in name for part in ("q_proj", "k_proj", "v_proj", "o_proj")):
                weight.mul_(15)
    return model


@pytest.fixture
def documents():
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, 64, (length,), generator=generator).tolist() for length in LENGTHS]
    return [(row, [IGNORED if place % 3 else token for place, token in enumerate(row)]) for row in ids]


def summed_loss(model, batch):
    # As in training: with a cache, no block-diagonal mask would be derived from the positions.
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def chunk_of(documents):
    columns = {"input_ids": [token for ids, _ in documents for token in ids], "seq_lengths": [len(ids) for ids, _ in documents],
               "labels": [label for _, labels in documents for label in labels]}
    return {key: np.asarray(values, np.int32) for key, values in columns.items()}


def test_packed_loss_and_gradients_equal_separate_documents(model, documents):
    separate = [collate([chunk_of([document])], pad=0) for document in documents]
    apart = sum(summed_loss(model, batch) for batch in separate)
    wanted = gradients(model, apart)
    # Two chunks of other lengths in one batch: padding and packing at once.
    together = summed_loss(model, collate([chunk_of(documents[:3]), chunk_of(documents[3:])], pad=0))
    found = gradients(model, together)
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    assert ((found - wanted).norm() / wanted.norm()).item() < 1e-5


def test_chunks_in_one_row_are_the_same_documents(model, documents):
    chunks = [chunk_of(documents[:3]), chunk_of(documents[3:])]
    row = collate(chunks, pad=0, in_one_row=True)
    assert row["input_ids"].shape == (1, sum(LENGTHS))
    assert summed_loss(model, row).item() == pytest.approx(summed_loss(model, collate(chunks, pad=0)).item(), rel=1e-5)


def test_positions_that_do_not_start_again_would_be_seen(model, documents):
    separate = sum(summed_loss(model, collate([chunk_of([document])], pad=0)) for document in documents)
    batch = collate([chunk_of(documents)], pad=0)
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1])[None]
    assert abs(summed_loss(model, batch).item() - separate.item()) > 1e-2


def test_no_label_at_the_start_of_a_document(documents):
    batch = collate([chunk_of(documents)], pad=0)
    starts = [sum(LENGTHS[:place]) for place in range(len(LENGTHS))]
    assert (batch["labels"][0, starts] == IGNORED).all()


def test_supervised_text_is_what_the_assistant_says(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny["base"])
    said = {message["content"].strip() for row in read_shards(tiny["mix"]) for message in row["messages"] if message["role"] == "assistant"}
    answers = 0
    for chunk in PackedChunks(tiny["packed"]):
        supervised = [label for label in chunk["labels"].tolist() if label != IGNORED]
        turns = tokenizer.decode(supervised).split("<|eot_id|>")
        assert turns.pop() == ""
        assert all(turn in said for turn in turns)
        answers += len(turns)
    assert answers == read_record(tiny["packed"]).measured["documents"]


def test_scoring_supervised_positions_only_changes_no_loss(tiny, tmp_path, job):
    recipe = load_recipe("tiny", ["sft.steps=3", "sft.log_every=1"])
    script = (
        "import sys; from pathlib import Path; from med42.recipe import load_recipe; from med42.lineage.journal import Job;"
        "import med42.training.train_sft as stage; stage.score_supervised_positions_only = lambda: None;"
        "stage.train_sft(load_recipe('tiny', ['sft.steps=3', 'sft.log_every=1']), *map(Path, sys.argv[1:]), Job('stock'))"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", script, str(tiny["base"]), str(tiny["packed"]), str(tmp_path / "stock")], check=True)
    train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "ours", job)
    stock, ours = (json.loads((tmp_path / name / "training_log.json").read_text()) for name in ("stock", "ours"))
    for theirs, mine in zip(stock, ours, strict=True):
        assert (mine["loss"], mine["grad_norm"]) == pytest.approx((theirs["loss"], theirs["grad_norm"]), rel=1e-5)


def test_training_is_deterministic(tiny, tmp_path, job):
    recipe = load_recipe("tiny", ["sft.steps=3"])
    first = train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "a", job)
    second = train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "b", job)
    assert first.digest == second.digest


def test_no_steps_leave_the_base_as_it_is(tiny, tmp_path, job):
    train_sft(load_recipe("tiny", ["sft.steps=0"]), tiny["base"], tiny["packed"], tmp_path / "same", job)
    before, after = (LlamaForCausalLM.from_pretrained(path).state_dict() for path in (tiny["base"], tmp_path / "same"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_first_loss_of_a_round_is_ln_2(tiny, tmp_path, job):
    recipe = load_recipe("tiny", ["dpo.steps=2", "dpo.log_every=1"])
    record = train_dpo(recipe, 1, tiny["base"], tiny["preferences"], tmp_path / "dpo", job)
    assert record.measured["first_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert record.measured["held_out"]["margin"] > 0
    assert record.measured["held_out"]["margin_over_sft"] == record.measured["held_out"]["margin"]


def test_a_loss_that_is_not_finite_is_an_error(tiny, tmp_path, job):
    recipe = load_recipe("tiny", ["sft.steps=6", "sft.log_every=1", "sft.learning_rate=1e30", "sft.clip_norm=1e30", "sft.warmup=0"])
    with pytest.raises(Med42Error, match=r"train_sft, step \d+: found loss (nan|inf)"):
        train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "broken", job)
    assert not list(tmp_path.iterdir())


def test_chunks_of_another_base_are_refused(tiny, tmp_path, job):
    from med42.training.prepare_base import prepare_base

    other = tmp_path / "other"
    prepare_base(load_recipe("tiny", ["seed=7"]), tiny["mix"], other, job)
    with pytest.raises(Med42Error, match="another base model's tokenizer"):
        train_sft(load_recipe("tiny"), other, tiny["packed"], tmp_path / "model", job)


def test_pickled_weights_are_refused(tiny, tmp_path, job):
    from med42.training.model import load_model

    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(Med42Error, match="safetensors"):
        load_model(tmp_path, load_recipe("tiny").sft)


def test_another_world_size_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(Med42Error, match="found 1 processes; expected 16"):
        assert_world_size(16)


def test_two_processes_equal_one(tiny, tmp_path, job):
    one = load_recipe("tiny", ["sft.steps=3", "sft.log_every=1", "dpo.steps=2", "dpo.log_every=1"])
    two = load_recipe("tiny", [
        "sft.steps=3", "sft.log_every=1", "dpo.steps=2", "dpo.log_every=1", "sft.devices.gpus_per_node=2", "sft.rows_per_device=4",
        "dpo.devices.gpus_per_node=2", "dpo.pairs_per_device=8", "sft.threads=1", "dpo.threads=1",
    ])
    for name, recipe in (("one", one), ("two", two)):
        train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / f"sft-{name}", job)
        train_dpo(recipe, 1, tiny["base"], tiny["preferences"], tmp_path / f"dpo-{name}", job)
    for stage in ("sft", "dpo"):
        first, second = (json.loads((tmp_path / f"{stage}-{name}" / "training_log.json").read_text()) for name in ("one", "two"))
        assert [entry["loss"] for entry in second] == pytest.approx([entry["loss"] for entry in first], abs=1e-5)


def test_a_failed_process_fails_the_stage(tiny, tmp_path, job):
    recipe = load_recipe("tiny", ["sft.steps=3", "sft.devices.gpus_per_node=2", "sft.rows_per_device=4", "sft.learning_rate=1e30",
                                  "sft.clip_norm=1e30", "sft.log_every=1", "sft.warmup=0"])
    with pytest.raises(Med42Error, match=r"train_sft, step \d+: found loss (nan|inf)"):
        train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "model", job)
    assert not list(tmp_path.iterdir())


def test_several_nodes_are_refused_with_what_to_set(tiny, tmp_path, job):
    with pytest.raises(Med42Error, match=r"devices\.nodes"):
        recipe = load_recipe("tiny", ["sft.devices.nodes=2", "sft.rows_per_device=4"])
        train_sft(recipe, tiny["base"], tiny["packed"], tmp_path / "model", job)


@pytest.mark.parametrize(("stage", "inputs", "changes"), [
    ("sft", ("base", "packed"), ["sft.steps=30", "sft.log_every=5", "sft.checkpoint_every=10"]),
    ("dpo", ("policy", "preferences"), ["dpo.steps=9", "dpo.log_every=1", "dpo.checkpoint_every=3"]),
])
def test_a_killed_training_resumes_to_the_same_bytes(tiny, tmp_path, stage, inputs, changes):
    def start(name):
        folder = tmp_path / name
        (folder / "out").mkdir(parents=True, exist_ok=True)
        write_job(folder / "job.json", load_recipe("tiny", changes), Job(name, folder / "store"))
        named = [part for key in inputs for part in ("--input", f"{key}={tiny['base' if key == 'policy' else key]}")]
        command = [sys.executable, "-m", f"med42.training.train_{stage}", "--job", folder / "job.json", "--out", folder / "out"]
        return subprocess.Popen([*command, "--scratch", folder, *named], stdout=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    killed = start("killed")
    while not (done := list((tmp_path / "killed").glob("store/checkpoints/*/checkpoint-*/COMPLETE"))) and killed.poll() is None:
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -9 and done
    (done[0].parents[1] / "checkpoint-999").mkdir()  # torn: it has no mark
    assert start("killed").wait() == 0
    for name in ("model.safetensors", "training_log.json"):
        assert (tmp_path / "killed/out" / name).read_bytes() == (tmp_path / "whole/out" / name).read_bytes()
