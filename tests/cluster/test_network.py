"""Which stages may speak to a network."""

import pytest

from med42.cluster.network import needs_network
from med42.cluster.profile import STAGES
from med42.recipe import load_recipe

PAPER = load_recipe("llama3-8b")


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_no_stage_of_tiny_needs_one(stage):
    tiny = load_recipe("tiny")
    name = {"prepare_source": "exam", "build_preferences": "1"}.get(stage, "")
    assert not needs_network(tiny, stage, name, "")


@pytest.mark.parametrize(("stage", "name"), [
    ("preflight", ""), ("prepare_source", next(iter(PAPER.sources))), ("prepare_benchmarks", ""), ("prepare_base", ""),
    ("build_preferences", "1"), ("push_model", ""),
])
def test_what_comes_from_a_hub_or_goes_there_needs_one(stage, name):
    assert needs_network(PAPER, stage, name, "")


@pytest.mark.parametrize("stage", ["mix_data", "pack_data", "train_sft", "train_dpo", "evaluate_model", "decide_release", "seal_audit"])
def test_training_and_judging_never_need_one(stage):
    assert not needs_network(PAPER, stage, "1", "hub:owner/name")


def test_a_server_of_answers_needs_one():
    asked = 'dpo.on_policy={reward: {kind: overlap}, sampler: {kind: server, url: "http://vllm:8000/v1", model: m}}'
    assert needs_network(load_recipe("tiny", [asked]), "sample_answers", "1", "")
    assert not needs_network(load_recipe("tiny", ["dpo.on_policy={reward: {kind: overlap}}"]), "sample_answers", "1", "")


def test_a_server_that_scores_needs_one():
    asked = 'evaluation.server={url: "http://vllm-{label}:8000/v1", model: m}'
    assert needs_network(load_recipe("tiny", [asked]), "evaluate_model", "sft", "")
    assert not needs_network(load_recipe("tiny", [asked]), "train_sft", "", "")


def test_the_runs_own_place_to_push_to_counts():
    assert needs_network(load_recipe("tiny"), "push_model", "", "hub:owner/name")
    assert not needs_network(PAPER, "push_model", "", "directory:/releases")


def test_a_bucket_needs_one():
    bucket = load_recipe("tiny", ["sources.exam.origin={kind: bucket, url: 'gs://clinic', files: ['*.jsonl']}"])
    assert needs_network(bucket, "prepare_source", "exam", "") and needs_network(bucket, "preflight", "", "")
    assert not needs_network(bucket, "prepare_benchmarks", "", "")
