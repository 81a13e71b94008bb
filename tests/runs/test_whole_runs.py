"""Whole runs of the real command: that it learns, that it is the training, that nothing is done twice or left half-done."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from whole_run import MED42, Run, changes, run, run_and_kill

# Enough to walk the whole road, in as little time as it takes.
SHORT = changes("sft.steps=2", "dpo.steps=1", "evaluation.limit=2", "evaluation.every_round=false", "gates=[]")


def scores(finished_run):
    names = [name for name in finished_run.finished if name.startswith("evaluate_model-")]
    last = max((finished_run.record(name)["measured"]["history"] for name in names), key=len)
    return {entry["label"]: entry for entry in last}


def test_tiny_runs_to_a_verified_bundle(tiny_run):
    assert tiny_run.status == 0, tiny_run.output
    assert "approved" in tiny_run.output
    assert "verified" in tiny_run.output
    assert (tiny_run.folder / "report.html").is_file()
    assert {path.name for path in (tiny_run.folder.parent.parent / "releases").iterdir()} == {f"tiny-{tiny_run.bundle.name[5:13]}"}


def test_tiny_learns_and_the_control_does_not(tiny_run):
    told = scores(tiny_run)
    assert list(told) == ["base", "sft", "dpo-1", "dpo-2", "dpo-3"]
    # Chance: 1/4 with four options; the standard error of 48 items is 6 points.
    for name in ("medqa", "mmlu", "medmcqa"):
        assert abs(told["base"]["scores"][name] - 0.25) < 0.25
        assert told["sft"]["scores"][name] > 0.6
    assert told["sft"]["average"] > told["base"]["average"] + 0.3
    for entry in told.values():
        assert entry["scores"]["never-taught"] < 0.5


def test_margin_rises_over_the_rounds_and_every_round_starts_at_ln_2(tiny_run):
    rounds = [tiny_run.record(f"train_dpo-{number}")["measured"] for number in (1, 2, 3)]
    margins = [measured["held_out"]["margin_over_sft"] for measured in rounds]
    gaps = [measured["held_out"]["preference_gap"] for measured in rounds]
    assert 0 < margins[0] < margins[1] < margins[2]
    assert gaps[0] < gaps[1] < gaps[2]
    assert all(abs(measured["first_loss"] - 0.693147) < 1e-5 for measured in rounds)


def test_on_its_own_answers_tiny_is_rewarded_more_from_round_to_round(tiny_run, work):
    own = run(work, "tiny", *changes("dpo.on_policy={answers: 5, max_tokens: 48, reward: {kind: overlap}}", "evaluation.every_round=false"))
    assert own.status == 0, own.output
    rewards = [own.record(f"score_answers-{number}")["measured"]["mean_reward"] for number in (1, 2, 3)]
    assert rewards[0] < rewards[1] < rewards[2]
    assert own.record("train_sft")["made"]["run"] == tiny_run.folder.name
    for number in (1, 2, 3):
        account = own.record(f"pair_answers-{number}")["measured"]["accounts"]["on-policy"]
        assert account["read"] == account["kept"] + sum(account["dropped"].values())
        assert abs(own.record(f"train_dpo-{number}")["measured"]["first_loss"] - 0.693147) < 1e-5


def test_every_stage_leaves_a_page_that_needs_nothing_else(tiny_run):
    for event in tiny_run.finished.values():
        if "path" in event:
            page = (Path(event["path"]) / "page.html").read_text()
            assert page.startswith("<!doctype html>")
            assert "<script" not in page
            assert not re.search(r"(src|href)=.?(https?:|//)", page)


def test_a_second_run_makes_nothing_and_says_whose_work_it_uses(tiny_run, work):
    again = run(work, "tiny")
    assert again.status == 0, again.output
    assert again.digests == tiny_run.digests
    assert all(event["reused"] for event in again.finished.values() if "digest" in event)
    assert f"made by run {tiny_run.folder.name}" in again.output


def test_a_changed_key_makes_only_what_depends_on_it(tiny_run, work):
    changed = run(work, "tiny", "--set", "gates=[{score: average, at_least: 0.5}]")
    assert changed.status == 0, changed.output
    made = {name for name, event in changed.finished.items() if "digest" in event and not event["reused"]}
    assert made == {"decide_release", "push_model", "seal_audit"}


def test_without_steps_everything_stays_at_chance_and_is_refused(tiny_run, work):
    idle = run(work, "tiny", "--set", "sft.steps=0", "--set", "dpo.steps=0", "--set", "evaluation.every_round=false")
    assert idle.status == 0, idle.output
    told = scores(idle)
    assert told["dpo-3"]["scores"] == told["sft"]["scores"] == told["base"]["scores"]
    assert told["base"]["average"] < 0.45
    # Refused: nothing pushed, and yet a bundle, about the decision.
    assert "refused" in idle.output
    assert "push_model" not in idle.finished
    assert not (work / "releases" / idle.bundle.name.removesuffix(".med42")).exists()
    assert "chain complete to decide_release" in idle.output


# Rounds that step so far that they forget what SFT taught.
FORGETFUL = changes("dpo.learning_rate=0.005", "dpo.diverges_at=1e9", "evaluation.every_round=false",
                    "gates=[{score: average, not_below: sft}]")


def test_a_regression_blocks_the_push_unless_a_named_person_overrides_it(tiny_run, work):
    worse = run(work, "tiny", *FORGETFUL)
    assert worse.status == 0, worse.output
    told = scores(worse)
    assert told["dpo-3"]["average"] < told["sft"]["average"] - 0.1
    assert "refused" in worse.output and "not below sft by more than chance" in worse.output
    assert "push_model" not in worse.finished
    assert not (work / "releases" / worse.bundle.name.removesuffix(".med42")).exists()
    assert "chain complete to decide_release" in worse.output
    person = "{by: Jane Doe <jane@hospital.example>, reason: 'A demonstration of an override, for this test alone.', " \
             "gates: [average-not-below-sft]}"
    passed = run(work, "tiny", *FORGETFUL, *changes(f"override={person}"))
    assert passed.status == 0, passed.output
    assert "overridden by Jane Doe" in passed.output
    card = (work / "releases" / passed.bundle.name.removesuffix(".med42") / "README.md").read_text()
    assert "**Released against average-not-below-sft** by Jane Doe <jane@hospital.example>" in card
    made = {name for name, event in passed.finished.items() if "digest" in event and not event["reused"]}
    assert made == {"decide_release", "push_model", "seal_audit"}


def test_verify_names_the_artifact_file_that_was_changed(tiny_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(tiny_run.folder, copied)
    model = next(copied.glob("*/train-sft/model/model.safetensors"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    command = [MED42, "audit", "verify", next(copied.glob("*.med42")), "--artifacts", copied]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "train-sft/model/model.safetensors: differs" in told.stdout


def test_verify_names_the_bundle_entry_that_was_changed(tiny_run, tmp_path):
    content = bytearray(tiny_run.bundle.read_bytes())
    place = content.index(b'"stage":"train_sft"')
    content[place + 10] ^= 1
    changed = tmp_path / "changed.med42"
    changed.write_bytes(content)
    told = subprocess.run([MED42, "audit", "verify", changed], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "changed.med42, records/" in told.stderr


def test_a_failed_stage_is_never_green(tmp_path):
    failed = run(tmp_path, "tiny", "--set", "sources.exam.rows=100000")
    assert failed.status == 1
    assert "stage mix_data: sources.exam: found 460 rows x repeat_limit 1 = 460; expected 100,000 rows" in failed.output
    assert "Traceback" not in failed.output
    assert not list((tmp_path / "store" / "mix_data").iterdir())
    assert not list(tmp_path.rglob("*.partial"))


def test_a_stage_that_fails_in_a_library_is_named(tmp_path):
    failed = run(tmp_path, "tiny", *SHORT, *changes("base.heads=3"))
    assert failed.status == 1
    assert "prepare_base" in failed.output
    assert "Traceback" not in failed.output


@pytest.mark.slow
def test_killed_after_each_stage_it_ends_with_the_same_digests(tmp_path):
    whole = run(tmp_path / "whole", "tiny", *SHORT)
    assert whole.status == 0, whole.output
    stages = len(whole.digests) + 1
    killed = []
    for _ in range(stages + 1):
        made = run_and_kill(tmp_path / "killed", "tiny", 1, *SHORT)
        if not made:
            break
        killed += made
    last = run(tmp_path / "killed", "tiny", *SHORT)
    assert last.status == 0, last.output
    # The engine works on two sources at once, so that one kill can come after two of them.
    assert len(killed) >= stages - 2
    assert len(set(killed)) == len(killed)
    assert last.digests == whole.digests
    assert not list((tmp_path / "killed").rglob(".*.partial"))


def test_open_small_accounts_for_every_row(tmp_path, shared_data):
    options = changes("sft.steps=1", "dpo.steps=1", "evaluation.limit=8", "base.vocabulary=1024")
    finished = run(tmp_path, "open-small", "--data-root", shared_data, *options)
    assert finished.status == 0, finished.output
    read = {"medquad": 16_407, "medical-meadow": 5_942, "mts-dialog": 2 * (1_201 + 100), "pubmedqa": 500}
    for name, count in read.items():
        account = finished.record(f"prepare_source-{name}")["measured"]["accounts"][name]
        assert account["read"] == count == account["kept"] + sum(account["dropped"].values())
    mix = finished.record("mix_data")["measured"]["accounts"]
    for name in read:
        kept = finished.record(f"prepare_source-{name}")["measured"]["accounts"][name]["kept"]
        assert mix[name]["read"] == kept == mix[name]["kept"] + sum(mix[name]["dropped"].values())
    pairs = [finished.record(f"build_preferences-{number}")["measured"]["accounts"][f"hh-{number}"] for number in (1, 2, 3)]
    assert all(account["read"] == 1_200 == account["kept"] + sum(account["dropped"].values()) for account in pairs)


def test_a_warm_interpreter_changes_no_digest(tmp_path):
    warm = run(tmp_path / "warm", "tiny", *SHORT)
    script = "import contextlib, med42.cli.run as run; run.warm_interpreter = contextlib.nullcontext; from med42.cli.main import app; app()"
    command = [sys.executable, "-c", script, "run", "tiny", "--work", tmp_path / "cold", *SHORT]
    cold = subprocess.run(command, capture_output=True, text=True, check=True)
    folder = next((tmp_path / "cold" / "runs").iterdir())
    assert Run(0, cold.stdout, folder).digests == warm.digests
