"""The reference's log-probabilities: computed once, read again, refused for another model or other pairs."""

import re

import pytest
import torch
from safetensors.torch import save_file

from med42.errors import Med42Error
from med42.lineage.journal import Job
from med42.lineage.record import read_record
from med42.recipe import load_recipe
from med42.training.checkpoints import checkpoint_folder
from med42.training.reference import read_reference, reference_log_probs
from med42.training.train_dpo import train_dpo

MINE = {"model": "a" * 64, "pairs": "b" * 64}


def pairs_of(count):
    return [{"prompt_ids": [1] * (1 + number % 5), "chosen_ids": [2] * (1 + number % 3), "rejected_ids": [number]}
            for number in range(count)]


@pytest.fixture
def scorer():
    """A score that tells the pairs apart, and which pairs it was asked for at once."""
    asked = []

    def score(pairs):
        asked.append(pairs)
        return -torch.tensor([[pair["rejected_ids"][0] for pair in pairs], [len(pair["prompt_ids"]) for pair in pairs]]).double()

    return score, asked


def test_each_pair_keeps_its_own_and_rows_hold_what_they_may(tmp_path, scorer):
    score, asked = scorer
    pairs = pairs_of(23)
    values = reference_log_probs(tmp_path / "new" / "reference.safetensors", MINE, pairs, 12, score)
    assert values[0].tolist() == [-number for number in range(23)]
    assert values[1].tolist() == [-len(pair["prompt_ids"]) for pair in pairs]
    sizes = [sum(len(pair["prompt_ids"]) + len(pair["chosen_ids"]) for pair in row) for row in asked]
    assert max(sizes) <= 12 and len(asked) < 23


def test_it_is_computed_once(tmp_path, scorer):
    score, asked = scorer
    path = tmp_path / "reference.safetensors"
    first = reference_log_probs(path, MINE, pairs_of(9), 12, score)
    done = len(asked)
    assert torch.equal(reference_log_probs(path, MINE, pairs_of(9), 12, score), first)
    assert len(asked) == done
    assert [file.name for file in tmp_path.iterdir()] == ["reference.safetensors"]


@pytest.mark.parametrize("what", ["model", "pairs"])
def test_another_models_or_other_pairs_are_refused(what, tmp_path, scorer):
    path = tmp_path / "reference.safetensors"
    reference_log_probs(path, MINE, pairs_of(3), 12, scorer[0])
    with pytest.raises(Med42Error, match=rf"log-probabilities of other {what} \({MINE[what][:16]}\); expected those of {'c' * 16}"):
        read_reference(path, MINE | {what: "c" * 64}, 3)


def test_what_does_not_fit_is_refused(tmp_path, scorer):
    path = tmp_path / "reference.safetensors"
    reference_log_probs(path, MINE, pairs_of(3), 12, scorer[0])
    with pytest.raises(Med42Error, match=r"found 3 pairs; expected 4"):
        read_reference(path, MINE, 4)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(Med42Error, match="does not read"):
        read_reference(path, MINE, 3)


def test_a_model_that_computes_no_probability_is_named_with_the_pair(tmp_path):
    def score(pairs):
        return torch.tensor([[float("nan") if pair["rejected_ids"] == [2] else 0.0 for pair in pairs], [0.0] * len(pairs)]).double()

    with pytest.raises(Med42Error, match="not finite, of pair 2;"):
        reference_log_probs(tmp_path / "reference.safetensors", MINE, pairs_of(4), 12, score)
    assert not list(tmp_path.iterdir())


# --- in a round -----------------------------------------------------------------------------------


@pytest.fixture
def round_with(tiny, tmp_path):
    """A round of tiny that finds a reference file of given digests and values beside its checkpoints."""
    def run(shift=0.0, **digests):
        recipe, job = load_recipe("tiny", ["dpo.steps=2", "dpo.checkpoint_every=100"]), Job("test", tmp_path / "store")
        inputs = {"policy": tiny["base"], "preferences": tiny["preferences"]}
        folder = checkpoint_folder("train_dpo-1", recipe, recipe.dpo, inputs, job)
        folder.mkdir(parents=True)
        belongs_to = {"model": read_record(tiny["base"]).digest, "pairs": read_record(tiny["preferences"]).digest} | digests
        values = torch.full((read_record(tiny["preferences"]).measured["pairs"],), -10.0, dtype=torch.float64)
        save_file({"chosen": values + shift, "rejected": values.clone()}, folder / "reference-train.safetensors", metadata=belongs_to)
        return train_dpo(recipe, 1, tiny["base"], tiny["preferences"], tmp_path / "out", job)

    return run


def test_a_round_reads_it_from_beside_its_checkpoints_and_sees_that_it_is_wrong(round_with, tmp_path):
    with pytest.raises(Med42Error, match=r"first margin -?[1-9]\S*, first loss \S+; expected margin 0, loss 0\.6931"):
        round_with(shift=50.0)
    assert not (tmp_path / "out").exists()


def test_a_round_refuses_that_of_another_model(round_with, tiny):
    with pytest.raises(Med42Error, match=re.escape(f"expected those of {read_record(tiny['base']).digest[:16]}")):
        round_with(model="0" * 64)
