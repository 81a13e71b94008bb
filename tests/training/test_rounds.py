"""What a round leaves for people to look at, and when the rounds that follow are not trained."""

import json
import math

import pytest
import torch
from transformers import LlamaForCausalLM

from med42.lineage.record import read_record
from med42.preferences.build_preferences import build_preferences
from med42.recipe import load_recipe
from med42.training.answers import Asked, answer, asked, divergence
from med42.training.train_dpo import train_dpo, why_not_trained

SHORT = ["dpo.steps=3", "dpo.samples=4", "dpo.sample_tokens=12", "dpo.threads=1"]


@pytest.fixture(scope="module")
def rounds(tiny, tmp_path_factory, job):
    """Two short rounds from tiny's base, each with its pairs."""
    folder, recipe, policy = tmp_path_factory.mktemp("rounds"), load_recipe("tiny", SHORT), tiny["base"]
    for number in (1, 2):
        build_preferences(recipe, number, tiny["base"], tiny["benchmarks"], folder / f"pairs-{number}", job)
        train_dpo(recipe, number, policy, folder / f"pairs-{number}", folder / f"dpo-{number}", job, tiny["base"])
        policy = folder / f"dpo-{number}"
    return folder


# --- what is seen ---------------------------------------------------------------------------------


def test_a_round_tells_how_far_it_has_gone(rounds):
    first, second = (read_record(rounds / f"dpo-{number}").measured for number in (1, 2))
    assert 0 < first["kl_to_sft"] < second["kl_to_sft"]
    assert second["answer_tokens_before"] == first["answer_tokens"]  # the same model, asked the same prompts
    assert second["held_out"]["margin_over_sft"] == pytest.approx(first["held_out"]["margin"] + second["held_out"]["margin"])
    assert first["first_loss"] == second["first_loss"] == pytest.approx(math.log(2), abs=1e-7)


def test_answers_stand_side_by_side(rounds):
    first, second = (json.loads((rounds / f"dpo-{number}" / "answers.json").read_text()) for number in (1, 2))
    assert len(first) == len(second) == 4
    assert [one["before"] for one in second] == [one["after"] for one in first]
    assert len({one["prompt"] for one in first}) == 4


def test_a_later_rounds_page_shows_all_rounds(rounds):
    told = json.loads((rounds / "dpo-2" / "rounds.json").read_text())
    assert [one["round"] for one in told] == [1, 2]
    assert told[0] == json.loads((rounds / "dpo-1" / "rounds.json").read_text())[0]
    page = (rounds / "dpo-2" / "page.html").read_text()
    for words in ("DPO round 2", "start and reference", read_record(rounds / "dpo-1").digest[:16], "margin over SFT",
                  "win rate over the start", "KL from the SFT model", "length drift", "round-2", "All rounds up to this one"):
        assert words in page, words
    assert page.count("<svg") == 4 + 4  # loss, reward, margin, accuracy of the steps; and four measures over the rounds
    assert "<script" not in page


def test_what_is_asked_is_held_out(rounds):
    prompts = asked(rounds / "pairs-1", 5)
    from med42.data.shards import read_shards

    held_out = {tuple(pair["prompt_ids"]) for pair in read_shards(rounds / "pairs-1" / "held_out")}
    assert len(prompts) == 5 and {tuple(prompt.ids) for prompt in prompts} <= held_out
    assert len(asked(rounds / "pairs-1", 10_000)) == len(held_out)


def test_answers_do_not_depend_on_what_is_asked_beside_them(tiny):
    model = LlamaForCausalLM.from_pretrained(tiny["base"])
    prompts = [Asked("", [5, 6, 7, 8, 9, 10, 11]), Asked("", [12]), Asked("", [13, 14, 15])]
    together = answer(model, prompts, 6, [1])
    assert together == [answer(model, [prompt], 6, [1])[0] for prompt in prompts]
    assert not model.training


def test_divergence_is_that_of_its_definition(tiny):
    torch.manual_seed(0)
    one, other = (LlamaForCausalLM.from_pretrained(tiny["base"]) for _ in range(2))
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    prompt, tokens = [5, 6, 7], [8, 9]
    with torch.no_grad():
        p, q = (model(torch.tensor([[5, 6, 7, 8]])).logits[0, 2:].softmax(-1) for model in (one, other))
    wanted = (p * (p / q).log()).sum(-1).mean().item()
    assert divergence(one, other, [Asked("", prompt), Asked("", [4])], [tokens, []]) == pytest.approx(wanted, rel=1e-3)
    assert divergence(one, one, [Asked("", prompt)], [tokens]) == 0
    assert divergence(one, other, [Asked("", prompt)], [[]]) is None


# --- stopping early -------------------------------------------------------------------------------


def stopping(measure, at_least):
    return load_recipe("tiny", [*SHORT, f'dpo.stop={{"measure": "{measure}", "at_least": {at_least}}}'])


@pytest.mark.parametrize("measure", ["margin", "accuracy"])
def test_a_round_that_brings_too_little_is_the_last(measure, rounds):
    brought = read_record(rounds / "dpo-1").measured["held_out"][measure]
    assert why_not_trained(stopping(measure, brought), 2, rounds / "dpo-1") == ""
    told = why_not_trained(stopping(measure, brought + 0.01), 2, rounds / "dpo-1")
    assert told == (f"not trained: round 1 brought a held-out {measure} of {brought:.4g}, less than {brought + 0.01:g} (dpo.stop)")
    assert why_not_trained(stopping(measure, 99), 1, rounds / "dpo-1") == ""


def test_the_rounds_that_follow_leave_the_model_as_it_is_and_say_so(rounds, tiny, tmp_path, job):
    recipe, policy = stopping("margin", 99), rounds / "dpo-1"
    for number in (2, 3):
        build_preferences(recipe, number, tiny["base"], tiny["benchmarks"], tmp_path / f"pairs-{number}", job)
        record = train_dpo(recipe, number, policy, tmp_path / f"pairs-{number}", tmp_path / f"dpo-{number}", job, tiny["base"])
        policy = tmp_path / f"dpo-{number}"
        assert record.measured["steps"] == 0
        assert record.measured["stopped"].startswith("not trained: round 1 brought a held-out margin")
        assert record.measured["summary"] == record.measured["stopped"]
        assert "not trained: round 1" in (policy / "page.html").read_text()
        assert (policy / "model.safetensors").read_bytes() == (rounds / "dpo-1" / "model.safetensors").read_bytes()
    assert [one["round"] for one in json.loads((policy / "rounds.json").read_text())] == [1, 2, 3]


def test_stopping_needs_pairs_to_measure_on(refusal):
    told = refusal(lambda: load_recipe("tiny", ["dpo.held_out=[]", 'dpo.stop={"measure": "margin", "at_least": 0}']))
    assert "stop needs held_out" in told


@pytest.mark.parametrize(("changes", "words"), [
    (["dpo.label_smoothing=0.1"], "robust needs one, no other loss has one"),
    (["dpo.loss=robust"], "robust needs one, no other loss has one"),
    (["dpo.loss=hinge"], "sigmoid_norm"), (["dpo.forward=padded"], "shared-prompt"),
])
def test_losses_and_their_keys(changes, words, refusal):
    assert words in refusal(lambda: load_recipe("tiny", changes))
