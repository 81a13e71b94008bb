"""What the pipeline compiles to: the golden files, the graph of tasks, and where tasks are put."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from med42.cli.compile import compile_pipeline, compile_recipe
from med42.cluster.profile import LAUNCHER, NODES_VARIABLE, PROFILE_VARIABLE, STAGES, Profile, load_profile
from med42.errors import Med42Error
from med42.lineage.signature import CERTIFICATE, KEY
from med42.recipe import dump_recipe, load_recipe, parse_recipe
from med42.recipe.derived import shape_of
from pipelines import golden

ROOT = Path(golden.__file__).parents[1]
GKE = load_profile("gke")
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


def documents(content: bytes) -> list[dict[str, Any]]:
    """The documents of a YAML stream."""
    return list(yaml.load_all(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def read(content: bytes) -> Compiled:
    """A pipeline from its intermediate representation, or from the manifest that holds it."""
    spec, *rest = documents(content)
    if "kind" in spec:
        version = rest[0]["spec"]
        spec, rest = version["pipelineSpec"], [version["platformSpec"]]
    platform = rest[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if rest else {}
    return Compiled(spec, platform)


def written(folder: Path, recipe: str, overrides: list[str], profile: Profile | None = None) -> bytes:
    """A pipeline compiled in this process."""
    output = folder / "pipeline.yaml"
    size = compile_recipe(load_recipe(recipe, overrides), profile or load_profile("default"), output, images=None)
    assert size == output.stat().st_size
    return output.read_bytes()


@pytest.fixture(scope="module")
def tiny() -> Compiled:
    return read((golden.COMPILED / "tiny.yaml").read_bytes())


@pytest.fixture(scope="module")
def paper() -> Compiled:
    """llama3-8b on GKE."""
    return read((golden.COMPILED / "llama3-8b.yaml").read_bytes())


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """llama3-8b on one node, without Trainer."""
    overrides = ["sft.devices.nodes=1", "dpo.devices.nodes=1"]
    return read(written(tmp_path_factory.mktemp("one"), "llama3-8b", overrides, load_profile("single-pod")))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """tiny on the profile that says nothing, as local runs use it."""
    return read(written(tmp_path_factory.mktemp("bare"), "tiny", []))


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
    monkeypatch.setattr(golden, "GOLDEN", {"tiny": "kind", "llama3-8b": "gke"})
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
    assert {name: entry["defaultValue"] for name, entry in parameters.items() if name != "recipe"} == {
        "overrides": "", "data_root": "", "run": "", "push_to": "directory:/med42/releases/tiny", "store": "/med42/store"}


def test_without_a_volume_nothing_is_kept_by_default(bare):
    parameters = bare.spec["root"]["inputDefinitions"]["parameters"]
    assert {name: entry["defaultValue"] for name, entry in parameters.items() if name != "recipe"} == dict.fromkeys(
        ("overrides", "push_to", "data_root", "store", "run"), "")


@pytest.mark.parametrize("recipe", ["tiny", "llama3-70b"])
def test_a_version_is_named_by_the_digest_of_what_it_holds(recipe, tmp_path):
    pipeline, version = documents((golden.COMPILED / f"{recipe}.yaml").read_bytes())
    profile = load_profile(golden.GOLDEN[recipe])
    ir = written(tmp_path, recipe, [], profile)
    assert version["metadata"] == {"name": f"{pipeline['metadata']['name']}-{hashlib.sha256(ir).hexdigest()[:12]}",
                                   "namespace": profile.namespace}
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == f"med42-{recipe.replace('.', '-')}"
    spec, platform = documents(ir)
    assert version["spec"]["pipelineSpec"] == spec
    assert version["spec"]["platformSpec"] == platform


def test_a_change_of_the_recipe_is_another_version_of_the_same_pipeline():
    before, after = (compile_pipeline(load_recipe("tiny", changes), load_profile("kind"), None) for changes in ([], ["seed=1"]))
    assert before.pipeline == after.pipeline and before.version != after.version


def test_objects_go_into_the_namespace_that_is_asked_for():
    manifest = compile_pipeline(load_recipe("tiny"), load_profile("default"), None, "elsewhere").manifest
    assert {(document["kind"], document["metadata"]["namespace"]) for document in documents(manifest)} == {
        ("Pipeline", "elsewhere"), ("PipelineVersion", "elsewhere")}


def test_the_intermediate_representation_is_the_same_in_any_process(tmp_path):
    """Golden files are compared above; this is the other format, by the command."""
    command = [sys.executable, "-m", "med42.cli", "compile", "llama3-70b", "--profile", "gke", "--allow-tags"]
    told = subprocess.run([*command, "-o", str(tmp_path / "x.yaml")], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "42"},
                          capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "x.yaml").read_bytes() == written(tmp_path, "llama3-70b", [], GKE)
    rows = [" ".join(line.split()) for line in told.stdout.splitlines()]
    assert any(row.startswith("train_sft 6 x 8 H100 h100 TrainJob") for row in rows), rows
    assert sum(row.startswith(f"train_dpo-{number} 4 x 8 H100 h100 TrainJob") for row in rows for number in (1, 2, 3)) == 3


def test_parameters_are_described(tiny):
    assert all(entry["description"] for entry in tiny.spec["root"]["inputDefinitions"]["parameters"].values())


# --- the graph ------------------------------------------------------------------------------------


def test_tasks_have_the_names_that_people_read(tiny):
    rounds = [f"{what}-{number}" for number in (1, 2, 3) for what in ("build-preferences", "train-dpo", "evaluate-dpo")]
    groups = {name for name in tiny.tasks if name.startswith("condition-branches")}
    assert len(groups) == 1
    assert tiny.tasks.keys() - groups == {
        "preflight", "prepare-benchmarks", "sources", "mix-data", "prepare-base", "pack-data", "train-sft", "evaluate-base", "evaluate-sft",
        *rounds, "decide-release", "summary"}


def test_the_summary_is_the_last_node_whatever_was_decided(tiny):
    [group] = [name for name in tiny.tasks if name.startswith("condition-branches")]
    summary = tiny.tasks["summary"]
    assert group in summary["dependentTasks"]
    assert not any("summarise-run" in task.get("dependentTasks", []) for task in tiny.spec["root"]["dag"]["tasks"].values())
    assert tiny.maker("summary", "scores") == ("evaluate-dpo-3", "scores")
    assert tiny.maker("summary", "decision") == ("decide-release", "decision")
    [sealed] = [given for given in summary["inputs"]["parameters"].values() if "taskOutputParameter" in given]
    assert sealed["taskOutputParameter"]["producerTask"] == group


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


def test_the_default_profile_asks_for_nothing(bare):
    for name, (container, settings) in bare.executors().items():
        assert "resources" not in container, name
        assert settings == {}, name
        assert "env" not in container, name


def test_a_training_inside_its_task_gets_the_gpus_of_the_recipe_and_shared_memory(one_node):
    pool = load_profile("single-pod").pools["h100"]
    for name in TRAINING:
        container, settings = one_node.executors()[name]
        accelerator = container["resources"]["accelerator"]
        assert (accelerator["resourceType"], accelerator["resourceCount"]) == ("nvidia.com/gpu", "8"), name
        assert settings["nodeSelector"] == {"labels": pool.selector} == {"labels": {"med42.io/pool": "h100"}}
        assert settings["tolerations"] == [toleration.model_dump(exclude_none=True) for toleration in pool.tolerations] != []
        [mount] = settings["emptyDirMounts"]
        assert (mount["medium"], mount["mountPath"], mount["sizeLimit"]) == ("Memory", "/dev/shm", "128Gi")
        assert settings["podMetadata"]["labels"]["med42.io/gpus"] == "8"


def test_a_training_of_several_nodes_is_followed_by_a_task_that_holds_no_gpu(paper):
    launcher = GKE.tasks[LAUNCHER]
    for name in TRAINING:
        container, settings = paper.executors()[name]
        assert "accelerator" not in container["resources"], name
        assert container["resources"]["resourceMemoryLimit"] == launcher.memory
        assert settings["nodeSelector"]["labels"] == GKE.pools[launcher.pool].selector
        assert "tolerations" not in settings
        told = json.loads(environment(container)[NODES_VARIABLE])
        assert told["image"] == container["image"]
        assert told["mounts"] == [{"claim": "med42-work", "path": "/med42"}]
        assert told["node_selector"] == GKE.pools["h100"].selector and told["accelerator"] == "nvidia.com/gpu"
        assert (told["cpu"], told["memory"], told["shared_memory"]) == ("180", "1500Gi", "256Gi")
        assert (told["runtime"], told["service_account"], told["queue"]) == ("med42-torch", "med42-train", None)
        assert settings["podMetadata"]["labels"]["med42.io/gpus"] == "16"


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container.get("env", [])}


def test_preflight_is_told_the_profile(paper):
    container, _ = paper.executors()["preflight"]
    assert Profile.model_validate_json(environment(container)[PROFILE_VARIABLE]) == GKE
    assert not any(PROFILE_VARIABLE in environment(other) for name, (other, _) in paper.executors().items() if name != "preflight")


def test_evaluation_gets_its_own_number_of_gpus(paper):
    wanted = str(load_recipe("llama3-8b").evaluation.devices.gpus_per_node)
    for label in ("base", "sft", "dpo-1", "dpo-2", "dpo-3"):
        container, settings = paper.executors()[f"evaluate-{label}"]
        assert container["resources"]["accelerator"]["resourceCount"] == wanted
        assert settings["nodeSelector"]["labels"] == {"med42.io/pool": "h100-spot"}
        assert {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"} in settings["tolerations"]


def test_no_other_task_gets_a_gpu_or_its_nodes(paper):
    others = {name: told for name, told in paper.executors().items() if not name.startswith(("train-", "evaluate-"))}
    assert {"prepare-source", "mix-data", "pack-data", "prepare-benchmarks", "prepare-base", "preflight", "push-model"} <= set(others)
    for name, (container, settings) in others.items():
        assert "accelerator" not in container["resources"], name
        assert settings["nodeSelector"] == {"labels": {"med42.io/pool": "general"}}, name
        assert "tolerations" not in settings, name


def stage_of(container: dict[str, Any]) -> str:
    return container["args"][container["args"].index("--function_to_execute") + 1]


def test_every_task_asks_what_its_row_says(paper):
    for container, _ in paper.executors().values():
        stage = stage_of(container)
        row = GKE.tasks[LAUNCHER] if stage in ("train_sft", "train_dpo") else GKE.tasks.get(stage) or GKE.tasks[STAGES[stage]]
        asked = container["resources"]
        assert (asked["resourceCpuRequest"], asked["resourceMemoryRequest"]) == (row.cpu, row.memory)
        assert (asked["resourceCpuLimit"], asked["resourceMemoryLimit"]) == (row.cpu, row.memory)


def test_every_task_has_a_deadline_and_is_retried_past_argos_hour(paper):
    for container, settings in paper.executors().values():
        stage = stage_of(container)
        row = GKE.tasks[LAUNCHER] if stage in ("train_sft", "train_dpo") else GKE.tasks.get(stage) or GKE.tasks[STAGES[stage]]
        assert settings["activeDeadlineSeconds"] == str(round(row.deadline_hours * 3600))
    groups = [paper.spec["root"], *paper.spec["components"].values()]
    tasks = [task for group in groups for task in group.get("dag", {}).get("tasks", {}).values()]
    running = [task for task in tasks if "executorLabel" in paper.component(task)]
    assert len(running) == len(paper.executors())
    for task in running:
        policy = task["retryPolicy"]
        assert policy["maxRetryCount"] >= 1
        assert float(policy["backoffMaxDuration"].rstrip("s")) >= 2 * 4 * 3600


def test_pods_run_as_our_user_with_labels_for_cost_and_network(paper):
    for name, (container, settings) in paper.executors().items():
        assert settings["securityContext"] == {"runAsUser": "10001", "runAsGroup": "0", "runAsNonRoot": True}, name
        labels, stage = settings["podMetadata"]["labels"], stage_of(container)
        assert labels["med42.io/recipe"] == "llama3-8b" and labels["med42.io/run"] == "{{workflow.uid}}"
        assert labels["med42.io/stage"] == name.replace("evaluate-", "evaluate-model-").replace(
            "summary", "summarise-run").replace("seal-audit-2", "seal-audit"), name
        offline = {variable for variable in environment(container) if variable.endswith("OFFLINE")}
        assert bool(offline) == (labels["med42.io/network"] == "inside"), name
        outside = ("preflight", "prepare_source", "prepare_benchmarks", "prepare_base", "build_preferences", "push_model")
        assert (labels["med42.io/network"] == "outside") == (stage in outside), name


def test_tokens_go_to_the_stages_that_need_them_and_nowhere_else(paper):
    for name, (container, settings) in paper.executors().items():
        given = {(secret["secretName"], entry["envVar"]) for secret in settings.get("secretAsEnv", []) for entry in secret["keyToEnv"]}
        stage = stage_of(container)
        if stage == "preflight":  # which sees whether the others are there
            expected = {("med42-hub-read", "HF_TOKEN"), ("med42-hub-read", "MED42_HAS_MED42_HUB_READ"),
                        ("med42-hub-write", "MED42_HAS_MED42_HUB_WRITE")}
        else:
            expected = {(secret.name, "HF_TOKEN") for secret in GKE.secrets if stage in secret.stages}
        assert given == expected, name
        assert all(secret["optional"] for secret in settings.get("secretAsEnv", []))


SIGNED = {"certificate": "certificate.pem"}


@pytest.mark.parametrize("signing", [{}, SIGNED, {"secret": "ours", "key": "k", "public": "p"}], ids=["key", "certificate", "named"])
def test_a_signing_key_lies_in_the_tasks_that_sign_and_nowhere_else(tmp_path, signing):
    profile = Profile.model_validate(GKE.model_dump() | {"signing": signing})
    compiled = read(written(tmp_path, "llama3-8b", ["audit.signed=true"], profile))
    secret, public = profile.signing.secret, profile.signing.public
    told = {KEY: f"/med42-signing/{profile.signing.key}"} | ({CERTIFICATE: "/med42-signing/certificate.pem"} if signing == SIGNED else {})
    signs = set()
    for name, (container, settings) in compiled.executors().items():
        mounted = [(mount["secretName"], mount["mountPath"], mount["optional"]) for mount in settings.get("secretAsVolume", [])]
        named = {variable: path for variable, path in environment(container).items() if variable.startswith("MED42_SIGNING")}
        seen = [entry["secretKey"] for mount in settings.get("secretAsEnv", []) if mount["secretName"] == secret
                for entry in mount["keyToEnv"]]
        if stage_of(container) in ("push_model", "seal_audit"):
            signs.add(stage_of(container))
            assert (mounted, named, seen) == ([(secret, "/med42-signing", True)], told, []), name
        else:
            assert (mounted, named, seen) == ([], {}, [public] if stage_of(container) == "preflight" else []), name
    assert signs == {"push_model", "seal_audit"}


def test_without_a_key_nothing_of_it_is_in_a_pipeline(paper, tmp_path):
    keyless = read(written(tmp_path, "llama3-8b", ["audit.signed=sigstore"], GKE))
    for compiled in (paper, keyless):
        assert not any("secretAsVolume" in settings for _, settings in compiled.executors().values())
        assert "med42-signing" not in json.dumps(list(compiled.executors().values()))
    networks = {stage_of(container): settings["podMetadata"]["labels"]["med42.io/network"] for container, settings in
                keyless.executors().values()}
    assert (networks["push_model"], networks["seal_audit"], networks["decide_release"]) == ("outside", "outside", "inside")


def test_every_task_but_preflight_has_the_volume(paper):
    for name, (container, settings) in paper.executors().items():
        mounted = [(mount["mountPath"], mount["constant"]) for mount in settings.get("pvcMount", [])]
        assert mounted == ([] if stage_of(container) == "preflight" else [("/med42", "med42-work")]), name


def test_artifacts_go_to_the_bucket_and_images_come_from_the_registry(paper, tiny):
    assert paper.spec["defaultPipelineRoot"] == GKE.storage.bucket
    assert "defaultPipelineRoot" not in tiny.spec
    assert all(container["image"].startswith(GKE.images.registry + "/med42-") for container, _ in paper.executors().values())
    assert all(container["image"].startswith("med42-") for container, _ in tiny.executors().values())
    assert all(settings["imagePullPolicy"] == "Never" for _, settings in tiny.executors().values())


def test_a_recipe_without_gpus_takes_none_from_a_pool_that_has_some(tiny):
    for name, (container, settings) in tiny.executors().items():
        assert "accelerator" not in container["resources"], name
        assert settings["nodeSelector"] == {"labels": {"med42.io/pool": "general"}}, name
        assert "tolerations" not in settings, name
        assert "med42.io/gpus" not in settings["podMetadata"]["labels"]


def test_a_recipe_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(Med42Error) as told:
        written(tmp_path, "llama3-70b", [], load_profile("single-pod"))
    assert "profile single-pod: train_sft: found 6 nodes x 8 = 48 processes asked for; expected at most the 1 x 8 = 8" in str(told.value)
    assert not list(tmp_path.iterdir())
