"""What the pipeline compiles to: the golden files, the graph of tasks, and where tasks are put."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from med42.cli.compile import compile_recipe
from med42.cluster.profile import STAGES, Profile, load_profile
from med42.errors import Med42Error
from med42.recipe import dump_recipe, load_recipe, parse_recipe
from med42.recipe.derived import shape_of
from pipelines import golden

ROOT = Path(golden.__file__).parents[1]
GPU_POOL = load_profile("gpu-pool")
TRAINING = ("train-sft", "train-dpo-1", "train-dpo-2", "train-dpo-3")


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline, with its tasks by the names that people read."""

    spec: dict[str, Any]
    platform: dict[str, Any]

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        return {task["taskInfo"]["name"]: task for task in self.spec["root"]["dag"]["tasks"].values()}

    def component(self, task: dict[str, Any]) -> dict[str, Any]:
        return self.spec["components"][task["componentRef"]["name"]]

    def inside(self, name: str) -> dict[str, dict[str, Any]]:
        """The tasks inside the group of tasks of this name, wherever it is."""
        groups = [self.spec["root"], *self.spec["components"].values()]
        [group] = [self.component(task) for group in groups for task in group.get("dag", {}).get("tasks", {}).values()
                   if task["taskInfo"]["name"] == name]
        return {task["taskInfo"]["name"]: task for task in group["dag"]["tasks"].values()}

    def maker(self, name: str, given: str) -> tuple[str, str]:
        """Which task makes an input of a task, and as which of its outputs."""
        told = self.tasks[name]["inputs"]["artifacts"][given]["taskOutputArtifact"]
        return self.spec["root"]["dag"]["tasks"][told["producerTask"]]["taskInfo"]["name"], told["outputArtifactKey"]

    def executors(self) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """Container and Kubernetes settings of every task that runs something, by the name that people read."""
        groups = [self.spec["root"], *self.spec["components"].values()]
        found = {}
        for group in groups:
            for task in group.get("dag", {}).get("tasks", {}).values():
                if label := self.component(task).get("executorLabel"):
                    settings = self.platform.get(label, {})
                    found[task["taskInfo"]["name"]] = (self.spec["deploymentSpec"]["executors"][label]["container"], settings)
        return found


def read(content: bytes) -> Compiled:
    spec, *rest = yaml.safe_load_all(content)
    platform = rest[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if rest else {}
    return Compiled(spec, platform)


def written(folder: Path, recipe: str, overrides: list[str], profile: Profile | None = None) -> bytes:
    """A pipeline compiled in this process, whose logging is left as it was."""
    level, output = logging.getLogger().level, folder / "pipeline.yaml"
    try:
        size = compile_recipe(load_recipe(recipe, overrides), profile or load_profile("default"), output, images=None)
    finally:
        logging.getLogger().setLevel(level)
    assert size == output.stat().st_size
    return output.read_bytes()


@pytest.fixture(scope="module")
def tiny() -> Compiled:
    return read((golden.COMPILED / "tiny.yaml").read_bytes())


@pytest.fixture(scope="module")
def paper() -> Compiled:
    """llama3-8b on a pool of GPU nodes."""
    return read((golden.COMPILED / "llama3-8b.yaml").read_bytes())


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return read(written(tmp_path_factory.mktemp("two"), "tiny", ["dpo.rounds=[[round-1], [round-2]]"]))


# --- the files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["0", "1"])
def test_golden_files_are_what_any_process_compiles(seed):
    told = subprocess.run([sys.executable, "-m", "pipelines.golden", "--check"], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed},
                          capture_output=True, text=True, timeout=120)
    assert (told.returncode, told.stderr) == (0, "")


def test_a_golden_file_that_drifted_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(golden, "COMPILED", tmp_path)
    monkeypatch.setattr(golden, "compiled", lambda recipe: recipe.encode())
    (tmp_path / "tiny.yaml").write_bytes(b"tiny")
    (tmp_path / "llama3-8b.yaml").write_bytes(b"something else")
    assert golden.main(["--check"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "llama3-8b.yaml" in line
    assert golden.main([]) == 0
    assert (tmp_path / "llama3-8b.yaml").read_bytes() == b"llama3-8b"
    assert golden.main(["--check"]) == 0


@pytest.mark.parametrize("recipe", golden.GOLDEN)
def test_golden_file_fits_a_cluster(recipe):
    content = (golden.COMPILED / f"{recipe}.yaml").read_bytes()
    assert content.isascii()
    assert len(content) < 1 << 20
    assert str(ROOT).encode() not in content


def test_a_title_beyond_ascii_still_compiles_to_ascii(tmp_path):
    content = written(tmp_path, "tiny", ["title=Äskulap \u2695"])
    assert content.isascii()
    default = read(content).spec["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
    assert parse_recipe(default).title == "Äskulap \u2695"


def test_the_whole_recipe_is_the_default_parameter(tiny):
    parameters = tiny.spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["recipe"]["defaultValue"] == dump_recipe(load_recipe("tiny"))
    assert {name: entry["defaultValue"] for name, entry in parameters.items() if name != "recipe"} == dict.fromkeys(
        ("overrides", "push_to", "data_root", "store", "run"), "")


# --- the graph ------------------------------------------------------------------------------------


def test_tasks_have_the_names_that_people_read(tiny):
    rounds = [f"{what}-{number}" for number in (1, 2, 3) for what in ("build-preferences", "train-dpo", "evaluate-dpo")]
    groups = {name for name in tiny.tasks if name.startswith("condition-branches")}
    assert len(groups) == 1
    assert tiny.tasks.keys() - groups == {
        "preflight", "prepare-benchmarks", "sources", "mix-data", "prepare-base", "pack-data", "train-sft", "evaluate-base", "evaluate-sft",
        *rounds, "decide-release"}


def test_preflight_comes_before_everything_and_is_never_skipped(tiny):
    assert "dependentTasks" not in tiny.tasks["preflight"]
    assert not tiny.tasks["preflight"]["cachingOptions"].get("enableCache")
    told = tiny.tasks["preflight"]["inputs"]["parameters"]
    assert told["shape"]["runtimeValue"]["constant"] == shape_of(load_recipe("tiny"))
    for name, task in tiny.tasks.items():
        assert name == "preflight" or "preflight" in task["dependentTasks"], name
        if "job_file" in task.get("inputs", {}).get("artifacts", {}):
            assert tiny.maker(name, "job_file") == ("preflight", "job_file")


def test_sources_are_the_iterations_of_one_loop(paper):
    assert json.loads(paper.tasks["sources"]["parameterIterator"]["items"]["raw"]) == sorted(load_recipe("llama3-8b").sources)
    assert list(paper.inside("sources")) == ["prepare-source"]


def test_mix_takes_every_source_and_the_benchmarks(tiny):
    assert tiny.maker("mix-data", "benchmarks") == ("prepare-benchmarks", "benchmarks")
    assert tiny.maker("mix-data", "sources")[0] == "sources"


def test_a_random_base_waits_for_the_mix_and_a_published_one_does_not(tiny, paper):
    assert tiny.maker("prepare-base", "mix") == ("mix-data", "mix")
    assert paper.tasks["prepare-base"]["dependentTasks"] == ["preflight"]
    for compiled in (tiny, paper):
        assert compiled.maker("pack-data", "base") == compiled.maker("train-sft", "base") == ("prepare-base", "base")


@pytest.mark.parametrize(("number", "before"), [(1, "train-sft"), (2, "train-dpo-1"), (3, "train-dpo-2")])
def test_a_round_starts_from_the_model_before_with_its_own_pairs(tiny, number, before):
    name = f"train-dpo-{number}"
    assert tiny.maker(name, "policy") == (before, "model")
    assert tiny.maker(name, "preferences") == (f"build-preferences-{number}", "preferences")
    for task in (name, f"build-preferences-{number}"):
        assert tiny.tasks[task]["inputs"]["parameters"]["round_number"]["runtimeValue"]["constant"] == number


def test_preferences_are_kept_clear_of_the_benchmarks(tiny):
    for number in (1, 2, 3):
        assert tiny.maker(f"build-preferences-{number}", "benchmarks") == ("prepare-benchmarks", "benchmarks")


def test_scores_go_from_model_to_model(tiny):
    models = {"base": ("prepare-base", "base"), "sft": ("train-sft", "model"),
              **{f"dpo-{n}": (f"train-dpo-{n}", "model") for n in (1, 2, 3)}}
    before = None
    for label, maker in models.items():
        name = f"evaluate-{label}"
        assert tiny.tasks[name]["inputs"]["parameters"]["label"]["runtimeValue"]["constant"] == label
        assert tiny.maker(name, "model") == maker
        assert tiny.maker(name, "benchmarks") == ("prepare-benchmarks", "benchmarks")
        if before is None:
            assert "earlier" not in tiny.tasks[name]["inputs"]["artifacts"]
        else:
            assert tiny.maker(name, "earlier") == (before, "scores")
        before = name
    assert tiny.maker("decide-release", "scores") == (before, "scores")


def decided(compiled: Compiled) -> dict[str, Any]:
    """The two branches after the decision."""
    [group] = [name for name in compiled.tasks if name.startswith("condition-branches")]
    return compiled.inside(group)


def test_push_happens_under_the_approved_condition_alone(tiny):
    branches = decided(tiny)
    [group] = [name for name in tiny.tasks if name.startswith("condition-branches")]
    assert set(branches) == {"approved", "refused"}
    verdict = "inputs.parameter_values['pipelinechannel--decide-release-Output'] == true"
    assert branches["approved"]["triggerPolicy"]["condition"] == verdict
    assert branches["refused"]["triggerPolicy"]["condition"] == f"!({verdict})"
    told = tiny.tasks[group]["inputs"]["parameters"]["pipelinechannel--decide-release-Output"]["taskOutputParameter"]
    assert told == {"outputParameterKey": "Output", "producerTask": "decide-release"}

    pushing = [name for name, component in tiny.spec["components"].items() if "push-model" in component.get("dag", {}).get("tasks", {})]
    assert pushing == [branches["approved"]["componentRef"]["name"]]
    assert "push-model" not in tiny.spec["root"]["dag"]["tasks"]


def test_a_release_and_a_refusal_are_both_sealed(tiny):
    approved, refused = tiny.inside("approved"), tiny.inside("refused")
    assert set(approved) == {"push-model", "seal-audit"}
    assert approved["push-model"]["inputs"]["artifacts"]["model"]["componentInputArtifact"] == "pipelinechannel--train-dpo-3-model"
    assert approved["push-model"]["inputs"]["artifacts"]["decision"]["componentInputArtifact"] == "pipelinechannel--decide-release-decision"
    assert approved["seal-audit"]["inputs"]["artifacts"]["subject"]["taskOutputArtifact"] == {
        "outputArtifactKey": "release", "producerTask": "push-model"}
    [sealing] = refused.values()
    assert sealing["inputs"]["artifacts"]["subject"]["componentInputArtifact"] == "pipelinechannel--decide-release-decision"


def test_an_on_policy_round_samples_from_its_model_scores_and_pairs(tmp_path):
    compiled = read(written(tmp_path, "tiny", ["dpo.on_policy={reward: {kind: overlap}}"]))
    for number, before in ((1, "train-sft"), (2, "train-dpo-1"), (3, "train-dpo-2")):
        published = (f"build-preferences-{number}", "preferences")
        assert compiled.maker(f"sample-answers-{number}", "policy") == (before, "model")
        assert compiled.maker(f"sample-answers-{number}", "preferences") == published
        assert compiled.maker(f"score-answers-{number}", "answers") == (f"sample-answers-{number}", "answers")
        assert compiled.maker(f"pair-answers-{number}", "scored") == (f"score-answers-{number}", "scored")
        assert compiled.maker(f"pair-answers-{number}", "published") == published
        assert compiled.maker(f"train-dpo-{number}", "preferences") == (f"pair-answers-{number}", "preferences")
        assert compiled.maker(f"train-dpo-{number}", "sft") == ("train-sft", "model")


def test_a_recipe_of_two_rounds_compiles_to_two(two_rounds):
    assert sorted(name for name in two_rounds.tasks if name.startswith("train-dpo")) == ["train-dpo-1", "train-dpo-2"]
    assert two_rounds.maker("decide-release", "scores") == ("evaluate-dpo-2", "scores")
    pushed = two_rounds.inside("approved")["push-model"]["inputs"]["artifacts"]["model"]
    assert pushed["componentInputArtifact"] == "pipelinechannel--train-dpo-2-model"


def test_rounds_between_may_go_unscored(tmp_path):
    compiled = read(written(tmp_path, "tiny", ["evaluation.every_round=false"]))
    assert sorted(name for name in compiled.tasks if name.startswith("evaluate")) == ["evaluate-base", "evaluate-dpo-3", "evaluate-sft"]
    assert compiled.maker("evaluate-dpo-3", "earlier") == ("evaluate-sft", "scores")


# --- where tasks are put --------------------------------------------------------------------------


def test_the_default_profile_asks_for_nothing(tiny):
    for name, (container, settings) in tiny.executors().items():
        assert "resources" not in container, name
        assert settings == {}, name


def test_training_gets_the_gpus_of_the_recipe_on_the_pool(paper):
    for name in TRAINING:
        container, settings = paper.executors()[name]
        accelerator = container["resources"]["accelerator"]
        assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "8"), name
        assert settings["nodeSelector"] == {"labels": GPU_POOL.pools["train"].node_selector} == {"labels": {"med42.io/pool": "gpu"}}
        assert settings["tolerations"] == GPU_POOL.pools["train"].tolerations != []


def test_evaluation_gets_its_own_number_of_gpus(paper):
    wanted = str(load_recipe("llama3-8b").evaluation.devices.gpus_per_node)
    for label in ("base", "sft", "dpo-1", "dpo-2", "dpo-3"):
        container, settings = paper.executors()[f"evaluate-{label}"]
        assert container["resources"]["accelerator"]["resourceCount"] == wanted
        assert settings["nodeSelector"]["labels"] == {"med42.io/pool": "gpu"}


def test_no_other_task_gets_a_gpu_or_its_nodes(paper):
    others = {name: told for name, told in paper.executors().items() if not name.startswith(("train-", "evaluate-"))}
    assert {"prepare-source", "mix-data", "pack-data", "prepare-benchmarks", "prepare-base", "preflight", "push-model"} <= set(others)
    for name, (container, settings) in others.items():
        assert "accelerator" not in container["resources"], name
        assert settings == {}, name


def test_every_task_asks_what_its_pool_says(paper):
    for container, _ in paper.executors().values():
        stage = container["args"][container["args"].index("--function_to_execute") + 1]
        pool = GPU_POOL.pools[STAGES[stage]]
        asked = container["resources"]
        assert (asked["resourceCpuRequest"], asked["resourceMemoryRequest"]) == (pool.cpu, pool.memory)
        assert (asked["resourceCpuLimit"], asked["resourceMemoryLimit"]) == (pool.cpu, pool.memory)


def test_gpus_that_the_profile_does_not_have_are_refused(tmp_path):
    ordinary = Profile.model_validate({"name": "ordinary", "title": "No GPUs", "pools": {
        "train": {"cpu": "8"}, "evaluate": {"accelerator": "nvidia.com/gpu"},
    }})
    with pytest.raises(Med42Error) as told:
        written(tmp_path, "llama3-8b", [], ordinary)
    assert "profile ordinary: found no accelerator in the pool of train_sft; expected 8 a node" in str(told.value)


def test_a_recipe_without_gpus_takes_none_from_a_pool_that_has_some(tmp_path):
    compiled = read(written(tmp_path, "tiny", [], GPU_POOL))
    for name, (container, settings) in compiled.executors().items():
        assert "accelerator" not in container["resources"], name
        assert settings == {}, name
