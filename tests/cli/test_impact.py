"""What a change does, told for a review: against a repository of a team's own recipe."""

import subprocess

import pytest
import yaml

from med42.cli.impact import Side, impact, made_again, stages
from med42.data.prepare_source import prepare_source
from med42.errors import Med42Error
from med42.evaluation.prepare_benchmarks import prepare_benchmarks
from med42.lineage.provenance import LAYERS
from med42.recipe import load_recipe
from med42.recipe.derived import stages_of
from med42.recipe.lock import MODEL_FILES
from med42.training.planning import load_accelerators

PIN = {"of": {"kind": "hub", "repo": "meta-llama/Meta-Llama-3-8B-Instruct", "revision": "main", "files": MODEL_FILES},
       "revision": "a" * 40, "files": {"config.json": "1" * 64, "model.safetensors": "2" * 64}}
CODE = dict.fromkeys(LAYERS, "0")


@pytest.fixture
def clinic(tmp_path, monkeypatch):
    """A repository with a recipe on the branch `main`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clinic.yaml").write_text("extends: llama3-8b\nname: clinic\n")

    def git(*words):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], check=True, capture_output=True)

    git("init", "--initial-branch=main")
    git("add", ".")
    git("commit", "-m", "first")
    return tmp_path


def told(*names):
    return impact(names or ["clinic.yaml"], "main", load_accelerators())


def write(folder, **keys):
    (folder / "clinic.yaml").write_text(yaml.safe_dump({"extends": "llama3-8b", "name": "clinic", **keys}))


def section(text, name):
    return text.split(f"### {name}\n")[1].split("\n### ")[0]


def test_no_change_is_one_line(clinic):
    assert told() == "# Impact since `main`\n\nNothing changes for clinic.\n"


def test_fewer_epochs_cost_half_and_train_again(clinic):
    write(clinic, sft={"epochs": 1})
    text = told()
    assert "| `sft.epochs` | 2.0 | 1.0 |" in text
    [steps] = [line for line in section(text, "Tokens").splitlines() if line.startswith("| SFT: steps")]
    before, after = (int(cell.replace(",", "")) for cell in steps.split("|")[2:4])
    assert after == pytest.approx(before / 2, abs=1)
    [cost] = [line for line in section(text, "Cost").splitlines() if line.startswith("| train_sft")]
    before, after = (float(cell.split("$")[1].replace(",", "")) for cell in cost.split("|")[2:4])
    assert after == pytest.approx(before / 2, rel=0.01)
    again = section(text, "Stages")
    assert "| `train_sft` | its part of the recipe changes |" in again and "| `train_dpo-1` | follows train_sft |" in again
    assert "prepare_source" not in again and "pack_data" not in again and "evaluate_model-base" not in again


def test_a_new_pin_is_told_by_its_files(clinic):
    write(clinic, pins={"base": PIN})
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-am", "pin"], check=True, capture_output=True)
    write(clinic, pins={"base": {**PIN, "revision": "b" * 40, "files": {**PIN["files"], "model.safetensors": "3" * 64}}})
    text = told()
    assert "| `pins.base` | aaaaaaaaaaaa, 2 files | bbbbbbbbbbbb, 2 files; 1 of 2 files differ |" in text
    assert "| `prepare_base` | its part of the recipe changes |" in section(text, "Stages")


def test_more_rows_change_the_mix_but_prepare_no_source(clinic):
    write(clinic, sources={"medmcqa": {"rows": 1000}})
    text = told()
    assert "| rows of medmcqa | 180,462 | 1,000 |" in section(text, "Mix")
    again = section(text, "Stages")
    assert "| `mix_data` | its part of the recipe changes |" in again and "prepare_source" not in again


def test_a_licence_that_narrows_the_use_is_told(clinic):
    write(clinic, sources={"medmcqa": {"license": "CC-BY-NC-4.0"}})
    text = section(told(), "Licences")
    assert "CC-BY-NC-4.0, no commercial use |" in text
    assert "sources.medmcqa" in text.splitlines()[-1]


def test_a_new_recipe_is_told_as_new(clinic):
    (clinic / "other.yaml").write_text("extends: tiny\nname: other\n")
    text = told("other.yaml")
    assert "## other\n\nNew: " in text and "no GPUs" in section(text, "Cost")


def test_a_base_that_is_no_commit_is_told(clinic):
    with pytest.raises(Med42Error, match=r"expected a commit, branch or tag of this repository"):
        impact(["clinic.yaml"], "no-such-branch", load_accelerators())


def test_a_recipe_that_is_wrong_now_is_told(clinic):
    write(clinic, sfft={})
    with pytest.raises(Med42Error, match="unknown key 'sfft'"):
        told()


def test_the_stages_are_those_of_a_run():
    for name in ("tiny", "llama3-8b"):
        recipe = load_recipe(name)
        ours = ["prepare_source" if stage.startswith("prepare_source-") else stage for stage in stages(recipe)]
        assert set(stages_of(recipe)) - {"preflight"} <= set(ours)
        assert all(needed in stages(recipe) for stage in stages(recipe).values() for needed in stage.inputs)


def test_code_makes_its_own_layer_again():
    recipe = load_recipe("tiny")
    again = made_again(Side(recipe, CODE), Side(recipe, CODE | {"evaluation": "1", "release": "1"}))
    assert again["prepare_benchmarks"] == "the code of evaluation changes"
    assert again["mix_data"] == "follows prepare_benchmarks"
    assert not any(name.startswith("prepare_source") for name in again)


class PlannedError(Exception):
    """Carries what a stage plans."""


@pytest.mark.parametrize("change", [
    "seed=9", "phi.planted=3", "sources.flashcards.rows=5", "sources.flashcards.license=MIT", "sources.flashcards.shards=2",
    "sources.flashcards.system=x", "evaluation.limit=3", "evaluation.tokens=3000", "mix.repeat_limit=2",
])
def test_what_decides_a_stage_is_what_the_stage_plans(monkeypatch, job, tmp_path, change):
    """The stages' own plans differ where, and only where, the table of this module says so."""
    def stop(plan, *_):
        raise PlannedError(plan.parameters)

    for module in ("data.prepare_source", "evaluation.prepare_benchmarks"):
        monkeypatch.setattr(f"med42.{module}.produce", stop)

    def planned(recipe):
        found = {}
        calls = {"prepare_benchmarks": lambda: prepare_benchmarks(recipe, tmp_path, job),
                 **{f"prepare_source-{name}": lambda name=name: prepare_source(recipe, name, tmp_path, job) for name in recipe.sources}}
        for name, call in calls.items():
            with pytest.raises(PlannedError) as told_of:
                call()
            found[name] = told_of.value.args[0]
        return found

    before, after = load_recipe("tiny"), load_recipe("tiny", [change])
    plans = planned(before), planned(after)
    table = stages(before), stages(after)
    for name in plans[0]:
        if name in table[1]:
            assert (plans[0][name] != plans[1][name]) == (table[0][name].uses != table[1][name].uses), name
