"""Cluster profiles: what their schema refuses, and which recipes fit them."""

import pytest
import yaml

from med42.cluster.fit import fit
from med42.cluster.profile import SHIPPED, Profile, amount, asks, by_trainer, devices_of, load_profile, shipped_profiles
from med42.errors import Med42Error
from med42.recipe import load_recipe
from med42.recipe.schema import Devices

SINGLE_POD = yaml.safe_load((SHIPPED / "single-pod.yaml").read_text())


def changed(tmp_path, change):
    """single-pod with one change, as a file."""
    content = yaml.safe_load((SHIPPED / "single-pod.yaml").read_text())
    change(content)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_are_in_order(name):
    profile = load_profile(name)
    assert profile.name == name
    for pool in profile.pools.values():
        assert pool.selector, "a pool that no label tells from others"


def test_the_issued_ones_are_shipped():
    assert {"kind", "single-pod", "gke", "onprem-kueue"} <= set(shipped_profiles())


@pytest.mark.parametrize(("change", "words"), [
    (lambda profile: profile.update(namspace="x"), ["unknown key 'namspace'", "'namespace'"]),
    (lambda profile: profile["pools"]["h100"].update(gpu=8), ["pools.h100", "unknown key 'gpu'"]),
    (lambda profile: profile["tasks"].update(trian={"pool": "h100"}), ["tasks: 'trian' is no kind of stage"]),
    (lambda profile: profile["tasks"]["data"].update(pool="big"), ["tasks.data.pool: there is no pool 'big', only general, h100"]),
    (lambda profile: profile["tasks"]["data"].update(memory="121Gi"), ["tasks.data.memory 121Gi is more than", "has, 120Gi"]),
    (lambda profile: profile["tasks"]["data"].update(memory="16 GB"), ["tasks.data.memory"]),
    (lambda profile: profile["tasks"].pop("evaluate"), ["tasks: no row for evaluate"]),
    (lambda profile: profile.update(trainer={"runtime": "x"}), ["trainer needs tasks.launcher"]),
    (lambda profile: profile.update(trainer={}, storage={}), ["trainer needs storage.volume"]),
    (lambda profile: profile.update(kueue={"queue": "x"}), ["kueue without trainer"]),
    (lambda profile: profile["secrets"][0].update(stages=["train"]), ["med42-hub-read is for 'train', which is no stage"]),
    (lambda profile: profile["storage"].update(bucket="http://x"), ["storage.bucket"]),
    (lambda profile: profile["pools"]["h100"]["tolerations"][0].update(operator="exists"), ["tolerations.0.operator"]),
])
def test_a_bad_profile_is_refused_by_its_key(tmp_path, refusal, change, words):
    path = changed(tmp_path, change)
    told = refusal(lambda: load_profile(path))
    assert path in told
    for word in words:
        assert word in told


def test_a_profile_that_is_no_yaml_is_refused(tmp_path, refusal):
    (tmp_path / "own.yaml").write_text("pools: [")
    assert "own.yaml" in refusal(lambda: load_profile(str(tmp_path / "own.yaml")))


@pytest.mark.parametrize(("quantity", "value"), [("500m", 0.5), ("4", 4), ("16Gi", 16 * 2**30), ("1.5Gi", 1.5 * 2**30), ("2k", 2000)])
def test_quantities_are_what_kubernetes_means(quantity, value):
    assert amount(quantity) == value


def test_a_stage_has_its_own_row_before_its_kinds():
    gke = load_profile("gke")
    assert asks("prepare_base", gke, Devices()) == gke.tasks["prepare_base"]
    assert asks("pack_data", gke, Devices()) == gke.tasks["data"]
    assert asks("train_sft", gke, Devices(gpus_per_node=8)) == gke.tasks["train"]
    assert asks("train_sft", gke, Devices()) == gke.tasks["data"]  # no GPUs: those stay free


def test_the_papers_gpus_on_gke():
    """Tables 2 and 3: 48 GPUs for SFT of 70B, 32 for DPO."""
    gke, recipe = load_profile("gke"), load_recipe("llama3-70b")
    placed = {place.stage: place for place in fit(recipe, gke)}
    assert (placed["train_sft"].shape, placed["train_sft"].devices.processes) == ("6 x 8 H100", recipe.paper.sft_gpus)
    for number in (1, 2, 3):
        place = placed[f"train_dpo-{number}"]
        assert (place.shape, place.devices.processes, place.how) == ("4 x 8 H100", recipe.paper.dpo_gpus, "TrainJob")
    assert all(place.memory <= 80e9 for place in placed.values() if place.memory)


@pytest.mark.parametrize("recipe", ["llama3-8b", "llama3.1-8b", "llama3-70b", "llama3.1-70b"])
@pytest.mark.parametrize("profile", ["gke", "onprem-kueue"])
def test_paper_recipes_fit(recipe, profile):
    resolved = load_recipe(recipe)
    assert len(fit(resolved, load_profile(profile))) == 5
    assert by_trainer(load_profile(profile), devices_of(resolved, "train_sft"))


@pytest.mark.parametrize("profile", shipped_profiles())
def test_tiny_fits_everywhere(profile):
    assert all(place.shape == "CPU" for place in fit(load_recipe("tiny"), load_profile(profile)))


@pytest.mark.parametrize(("recipe", "changes", "profile", "words"), [
    ("llama3-8b", [], "single-pod", ["train_sft: found 2 nodes x 8 = 16 processes", "at most the 1 x 8 = 8 of pool 'h100'"]),
    ("llama3-8b", [], "kind", ["found 2 pretended on a node of pool 'gpu'", "8 a node"]),
    ("llama3-8b", ["sft.devices.accelerator=A100"], "gke", ["found A100 asked for", "H100, which pool 'h100' has"]),
    ("llama3-70b", ["sft.devices.nodes=1", "sft.batch=48", "paper=null"], "gke",
     [" GB a GPU = weights 17.6 + gradients", "at most the 80 GB of one H100", "ZeRO-3 on", "sft.batch 48 is reached with"]),
    ("llama3-70b", ["evaluation.devices.gpus_per_node=1"], "gke",
     ["evaluate_model: found 2 x 70,553,706,496 bytes of weights / 1 = 141.1 GB a GPU", "evaluation.devices.gpus_per_node=2"]),
    ("llama3-8b", ["limits.memory_gib=2000"], "gke", ["a task of 1500Gi", "limits.memory_gib of the recipe, 2000 GiB"]),
    ("llama3-8b", ["sft.steps=1000000"], "gke", ["1,000,000 steps x", "deadline_hours, 240"]),
    ("tiny", ["sft.devices={nodes: 2, gpus_per_node: 0}", "sft.rows_per_device=4"], "single-pod",
     ["2 nodes asked for", "without Kubeflow Trainer"]),
])
def test_what_does_not_fit_is_refused_with_the_arithmetic(refusal, recipe, changes, profile, words):
    told = refusal(lambda: fit(load_recipe(recipe, changes), load_profile(profile)))
    for word in [f"profile {profile}", *words]:
        assert word in told


def test_gpus_on_a_pool_without_any_are_refused(refusal):
    ordinary = Profile.model_validate({"name": "ordinary", "title": "No GPUs", "pools": {"all": {"cpu": "8"}},
                                       "tasks": {kind: {"pool": "all"} for kind in ("data", "train", "evaluate", "release")}})
    assert "found no accelerator on a node of pool 'all', where train_sft runs; expected 8 a node" in refusal(
        lambda: fit(load_recipe("llama3-8b"), ordinary))


def test_a_profile_that_says_nothing_refuses_nothing():
    assert fit(load_recipe("llama3-70b"), load_profile("default")) == []


def test_errors_name_the_shipped_profiles():
    with pytest.raises(Med42Error, match="one of default, gke, kind, onprem-kueue, single-pod"):
        load_profile("huge")
