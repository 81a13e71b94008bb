"""`med42 run --until`: a run that is told where to stop."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import ENVIRONMENT, MED42, answer, refusal

from med42.cluster.profile import load_profile
from med42.recipe import load_recipe
from med42.recipe.derived import stages_of
from pipelines.med42_v2 import med42_v2

DATA_STAGES = ["preflight", "prepare_benchmarks", "prepare_source-abstracts", "prepare_source-chats", "prepare_source-exam",
               "prepare_source-flashcards", "prepare_source-statements", "mix_data"]

ON_POLICY = "dpo.on_policy={reward: {kind: overlap}}"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of `tiny` that stopped after its mix, and one after it that went on to the chunks."""
    folder = tmp_path_factory.mktemp("until")

    def run(stage: str) -> SimpleNamespace:
        told = subprocess.run([MED42, "run", "tiny", "--until", stage], cwd=folder, env={**ENVIRONMENT, "NO_COLOR": "1"},
                              capture_output=True, text=True, timeout=120)
        assert (told.returncode, told.stderr) == (0, ""), told
        name = re.search(r"^run (\S+), log", told.stdout, re.MULTILINE).group(1)
        lines = (folder / "work" / "store" / "journal" / f"{name}.jsonl").read_text().splitlines()
        events = {event["name"]: event for event in map(json.loads, lines) if event["event"] == "finished"}
        return SimpleNamespace(told=told.stdout, events=events, folder=folder / "work" / "runs" / name, work=folder / "work")

    return SimpleNamespace(mix=run("mix_data"), pack=run("pack-data"))


def test_it_stops_after_the_stage_and_says_so(stopped):
    assert sorted(stopped.mix.events) == sorted(DATA_STAGES)
    assert sorted(stopped.pack.events) == sorted([*DATA_STAGES, "prepare_base", "pack_data"])
    for run, stage in ((stopped.mix, "mix_data"), (stopped.pack, "pack_data")):
        assert f"stopped after {stage}, as asked: nothing was pushed, and there is no bundle" in run.told
        place = re.search(rf"^{stage}  (\S+)$", run.told, re.MULTILINE).group(1)
        assert (run.work.parent / place / "record.json").is_file()
        assert not list(run.work.rglob("*.med42"))
    assert not (stopped.pack.work / "releases").exists()


def test_the_next_run_goes_on_from_there(stopped):
    for stage in DATA_STAGES[1:]:
        assert stopped.pack.events[stage]["reused"]
        assert stopped.pack.events[stage]["digest"] == stopped.mix.events[stage]["digest"]
    assert not stopped.pack.events["pack_data"]["reused"]


def test_every_row_is_accounted_for_on_screen_and_page(stopped):
    for source in load_recipe("tiny").sources:
        for stage in (f"prepare_source-{source}", "mix_data"):
            counts = re.search(rf"^{stage} +{source} +([0-9,]+) +([0-9,]+) +([0-9,]+)\b", stopped.pack.told, re.MULTILINE)
            read, kept, left_out = (int(count.replace(",", "")) for count in counts.groups())
            assert read == kept + left_out > 0
    for run in (stopped.mix, stopped.pack):
        page = (run.folder / "report.html").read_text()
        assert "told to stop after" in page and "Decision" not in page and "Scores in %" not in page
        assert page.count('<td class="good">yes</td>') >= 2 * len(load_recipe("tiny").sources) and '<td class="bad">' not in page
        links = re.findall(r'href="([^"]+page\.html)"', page)
        assert len(links) == len(run.events) - 1  # preflight is no artifact of the store
        assert all((run.folder / link).is_file() for link in links)


def test_data_stages_start_no_heavy_library(tmp_path, blocked):
    heavy = blocked("torch", "transformers", "trl", "lm_eval", "datasets")
    told = answer("run", "tiny", "--until", "prepare_source", cwd=tmp_path, **heavy)
    [log] = (tmp_path / "work" / "runs").glob("*/log.txt")
    assert "stopped after prepare_source" in told and "is blocked by this test" not in log.read_text()


def test_an_unknown_stage_is_told_with_those_there_are(tmp_path):
    told = refusal("run", "tiny", "--until", "train_dpo-9", "--work", "work", cwd=tmp_path)
    assert "--until: found 'train_dpo-9'" in told
    assert all(stage in told for stage in stages_of(load_recipe("tiny")))
    assert not list(tmp_path.iterdir())


def test_who_does_not_push_needs_no_right_to(tmp_path):
    told = answer("run", "tiny", "--until", "preflight", "--set", "push={kind: hub, repo: nobody/Llama-x}", cwd=tmp_path,
                  HF_HUB_OFFLINE="1", HF_TOKEN="")
    assert "stopped after preflight" in told


def tasks(recipe, until: str) -> set[str]:
    """The tasks of a pipeline, those inside its loops and branches too, by display name."""
    spec = med42_v2(recipe, load_profile("default"), None, until).pipeline_spec
    dags = [spec.root.dag, *(component.dag for component in spec.components.values())]
    return {task.task_info.name for dag in dags for task in dag.tasks.values()}


@pytest.mark.parametrize("changes", [[], ["evaluation.every_round=false"], ["dpo.rounds=[]"], [ON_POLICY]], ids=str)
def test_each_stage_can_be_the_last(changes):
    recipe = load_recipe("tiny", changes)
    stages = stages_of(recipe)
    shown = {stage: stage.replace("evaluate_model", "evaluate").replace("_", "-") for stage in stages}
    for number, stage in enumerate(stages):
        built = tasks(recipe, stage)
        assert shown[stage] in built
        assert not {shown[later] for later in stages[number + 1 :]} & built
        if not stage.startswith(("evaluate", "decide")):
            assert not any(name.startswith("evaluate") for name in built)
    assert {shown[stage] for stage in stages} | {"push-model", "seal-audit"} <= tasks(recipe, "")


def test_no_stage_is_forgotten(tmp_path):
    assert {path.name for path in Path("components").iterdir() if (path / "component.py").is_file()} == {
        stage.partition("-")[0] for stage in stages_of(load_recipe("tiny", [ON_POLICY]))} | {"push_model", "seal_audit", "summarise_run"}
