"""Every kustomization as it renders: schemas, our own rules, and that it says what profiles, code and each other say."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from med42 import __version__
from med42.cluster.look import LAUNCHER_VERBS
from med42.cluster.profile import load_profile, shipped_profiles
from med42.recipe import load_recipe, shipped_recipes
from pipelines.golden import COMPILED, GOLDEN

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
spec = importlib.util.spec_from_file_location("check", MANIFESTS / "check.py")
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)

OVERLAYS = {"kind": "kind", "gke": "gke", "airgapped": "onprem-kueue"}  # and the profile each is for
TOOLS = Path(os.environ.get("MED42_MANIFEST_TOOLS", ROOT / ".venv-manifests" / "bin" / "python"))
Object = dict[str, Any]


@pytest.fixture(scope="session")
def rendered() -> dict[str, list[Object]]:
    """The objects of every kustomization, by its folder."""
    if not (shutil.which("kubectl") or shutil.which("kustomize")):
        pytest.skip("neither kubectl nor kustomize is on the PATH")
    return {str(folder.relative_to(ROOT)): check.objects(check.render(folder)) for folder in check.kustomizations()}


def one(objects: list[Object], kind: str, name: str) -> Object:
    [found] = [found for found in objects if (found["kind"], found["metadata"]["name"]) == (kind, name)]
    return found


def kinds(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


# --- all of them ----------------------------------------------------------------------------------


def test_every_folder_renders(rendered):
    assert {"manifests/base", *(f"manifests/overlays/{name}" for name in OVERLAYS), "manifests/gitops/argocd", "manifests/gitops/events",
            "manifests/gitops/runs", "pipelines/compiled"} <= set(rendered)
    assert all(rendered.values())


def test_every_object_keeps_our_rules(rendered):
    found = [f"{folder}: {check.name_of(told)}: {problem}" for folder, objects in rendered.items() for told in objects
             for problem in check.by_rules(told)]
    found += [f"{folder}: {problem}" for folder, objects in rendered.items() for problem in check.doubled(objects)]
    assert found == []


def test_every_object_is_valid_by_schema_and_by_checkov(rendered):
    if not TOOLS.is_file():
        pytest.skip(f"no {TOOLS}: run `make manifests` once, or name another interpreter that has its tools in MED42_MANIFEST_TOOLS")
    told = subprocess.run([TOOLS, MANIFESTS / "check.py"], capture_output=True, text=True, timeout=600, check=False)
    assert told.returncode == 0, told.stderr + told.stdout
    if "no CRD schemas" in told.stdout:
        pytest.skip("Kubernetes' own kinds are valid; no CRD schemas for the others: run `make crds`")
    unchecked = set(re.findall(r"no schema for (.*): ", told.stdout))
    assert unchecked <= {"kueue.x-k8s.io/v1beta2 ResourceFlavor"}, unchecked  # which `make crds` fetches too


UNKNOWN = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: a, namespace: b}
automount: false
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: a, namespace: b}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: true}]}]}
---
apiVersion: argoproj.io/v1alpha1
kind: Sensor
metadata: {name: a, namespace: b}
spec: {dependancies: []}
---
apiVersion: pipelines.kubeflow.org/v2beta1
kind: PipelineVersion
metadata: {name: a, namespace: b}
spec: {pipelineSpecs: {}}
"""


def test_unknown_fields_and_wrong_types_are_told(rendered, tmp_path):
    if not TOOLS.is_file():
        pytest.skip(f"no {TOOLS}: run `make manifests` once, or name another interpreter that has its tools in MED42_MANIFEST_TOOLS")
    (tmp_path / "objects.yaml").write_text(UNKNOWN)
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [objects.yaml]\n")
    command = [TOOLS, MANIFESTS / "check.py", "--no-checkov", tmp_path]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 1
    words = ["ServiceAccount b/a: : Additional properties", "egress.0.ports.0.port: True is not valid", "spec.dependancies: unknown field"]
    if "no CRD schemas" not in told.stdout:
        words.append("PipelineVersion b/a: spec: Additional properties are not allowed ('pipelineSpecs'")
    for word in words:
        assert word in told.stderr


@pytest.mark.parametrize(("change", "words"), [
    (lambda role: role["rules"][0].update(verbs=["*"]), "a role allows '*'"),
    (lambda role: role["rules"][0].update(resources=["secrets"], resourceNames=[]), "reads all secrets"),
])
def test_a_role_that_may_too_much_is_told(rendered, change, words):
    role = one(check.objects(yaml.safe_dump_all(rendered["manifests/base"])), "Role", "med42-run")
    change(role)
    assert any(words in problem for problem in check.by_rules(role))


@pytest.mark.parametrize(("key", "value", "words"), [
    ("securityContext", {}, "may gain privileges"), ("securityContext", {}, "may write to its root"), ("resources", {}, "asks for nothing"),
])
def test_a_pod_that_is_not_restricted_is_told(rendered, key, value, words):
    job = one(check.objects(yaml.safe_dump_all(rendered["manifests/gitops/runs"])), "Job", "med42-submit")
    job["spec"]["template"]["spec"]["containers"][0][key] = value
    assert any(words in problem for problem in check.by_rules(job))


def test_two_recipes_of_one_name_are_told(rendered):
    objects = rendered["pipelines/compiled"]
    [problem] = check.doubled([*objects, one(objects, "Pipeline", "med42-llama3-8b")])
    assert "med42-llama3-8b: 2 objects of this name; two recipes must not have one name" in problem


def test_a_secret_with_a_value_is_told():
    assert list(check.by_rules({"kind": "Secret", "stringData": {"token": "x"}})) == ["a secret has a value"]


# --- what they say and what the code says ---------------------------------------------------------


@pytest.mark.parametrize(("overlay", "profile"), OVERLAYS.items())
def test_an_overlay_has_what_its_profile_names(rendered, overlay, profile):
    objects, told = rendered[f"manifests/overlays/{overlay}"], load_profile(profile)
    claim = one(objects, "PersistentVolumeClaim", told.storage.volume.claim)
    assert claim["spec"]["storageClassName"] == told.storage.volume.storage_class
    accounts = {found["metadata"]["name"] for found in kinds(objects, "ServiceAccount")}
    assert {told.service_account, told.trainer.service_account} <= accounts
    assert claim["metadata"]["namespace"] == one(objects, "Namespace", told.namespace)["metadata"]["name"]
    if told.kueue:
        queue = one(objects, "LocalQueue", told.kueue.queue)
        assert (queue["apiVersion"], queue["metadata"]["namespace"]) == (told.kueue.api, told.namespace)
        quota = one(objects, "ClusterQueue", queue["spec"]["clusterQueue"])["spec"]["resourceGroups"][0]["flavors"][0]
        assert one(objects, "ResourceFlavor", quota["name"])["spec"]["nodeLabels"] == told.pools[told.tasks["train"].pool].selector
        gpus = next(int(given["nominalQuota"]) for given in quota["resources"] if given["name"] == "nvidia.com/gpu")
        assert gpus >= load_recipe("llama3-70b").sft.devices.processes
    if told.storage.bucket:
        assert one(objects, "ConfigMap", "kfp-launcher")["data"]["defaultPipelineRoot"] == told.storage.bucket


@pytest.mark.parametrize("profile", shipped_profiles())
def test_secrets_have_the_names_that_profiles_use(profile):
    shapes = {shape["metadata"]["name"]: shape for shape in check.objects((MANIFESTS / "base" / "secrets.example.yaml").read_text())}
    for secret in load_profile(profile).secrets:
        assert secret.key in shapes[secret.name]["stringData"]
    signing = load_profile(profile).signing
    assert {signing.key, signing.public, "certificate.pem"} == shapes[signing.secret]["stringData"].keys()
    if registry := load_profile(profile).images.pull_secret:
        assert shapes[registry]["type"] == "kubernetes.io/dockerconfigjson"


def allowed(objects: list[Object], account: str) -> set[tuple[str, str, str]]:
    """What a service account may do: verb, group, resource."""
    names = {(found["roleRef"]["kind"], found["roleRef"]["name"]) for kind in ("RoleBinding", "ClusterRoleBinding")
             for found in kinds(objects, kind) if any(subject["name"] == account for subject in found["subjects"])}
    return {(verb, group, resource) for kind, name in names for rule in one(objects, kind, name)["rules"]
            for verb in rule["verbs"] for group in rule["apiGroups"] for resource in rule["resources"]}


def test_the_run_may_do_what_launcher_and_preflight_do_and_little_else(rendered):
    may = allowed(rendered["manifests/base"], "med42-run")
    assert set(LAUNCHER_VERBS) <= may
    assert {("get", "", "persistentvolumeclaims"), ("get", "storage.k8s.io", "storageclasses"), ("list", "", "nodes"),
            ("get", "trainer.kubeflow.org", "clustertrainingruntimes"), ("get", "kueue.x-k8s.io", "localqueues")} <= may
    changes = {(verb, group, resource) for verb, group, resource in may if verb not in ("get", "list", "watch")}
    assert changes == {("create", "trainer.kubeflow.org", "trainjobs"), ("patch", "trainer.kubeflow.org", "trainjobs"),
                       ("delete", "trainer.kubeflow.org", "trainjobs"), ("create", "argoproj.io", "workflowtaskresults"),
                       ("patch", "argoproj.io", "workflowtaskresults"), ("patch", "argoproj.io", "workflowtasksets/status")}


def test_nodes_of_a_training_may_do_nothing(rendered):
    assert allowed(rendered["manifests/base"], "med42-train") == set()
    assert one(rendered["manifests/base"], "ServiceAccount", "med42-train")["automountServiceAccountToken"] is False


def test_cluster_wide_rights_are_bound_in_the_overlays_own_namespace(rendered):
    for overlay in OVERLAYS:
        objects = rendered[f"manifests/overlays/{overlay}"]
        [binding] = kinds(objects, "ClusterRoleBinding")
        assert binding["subjects"][0]["namespace"] == kinds(objects, "Namespace")[0]["metadata"]["name"]


# --- the network ----------------------------------------------------------------------------------


def selects(policy: Object, labels: dict[str, str]) -> bool:
    selector = policy["spec"]["podSelector"]
    for rule in selector.get("matchExpressions", []):
        there = labels.get(rule["key"])
        if {"Exists": there is None, "NotIn": there in rule.get("values", []), "In": there not in rule.get("values", [])}[rule["operator"]]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def egress(objects: list[Object], labels: dict[str, str]) -> list[Object]:
    """All ways out that a pod with these labels has, which some policy must hold back."""
    policies = [policy for policy in kinds(objects, "NetworkPolicy")
                if selects(policy, labels) and "Egress" in policy["spec"]["policyTypes"]]
    assert policies, "nothing holds this pod back"
    return [way for policy in policies for way in policy["spec"].get("egress", [])]


def addresses(ways: list[Object]) -> set[str]:
    return {target["ipBlock"]["cidr"] for way in ways for target in way["to"] if "ipBlock" in target}


TASK = {"med42.io/recipe": "tiny", "med42.io/network": "inside"}
FETCHING = {**TASK, "med42.io/network": "outside"}
NODE = {"app.kubernetes.io/component": "train", "med42.io/recipe": "tiny"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_stage_that_needs_no_network_has_none(rendered, overlay):
    objects = rendered[f"manifests/overlays/{overlay}"]
    assert "0.0.0.0/0" not in addresses(egress(objects, TASK))
    for policy in kinds(objects, "NetworkPolicy"):
        if "Ingress" in policy["spec"]["policyTypes"] and selects(policy, TASK):
            assert not policy["spec"].get("ingress"), "someone may call a task"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nodes_of_a_training_reach_each_other_and_names_alone(rendered, overlay):
    objects = rendered[f"manifests/overlays/{overlay}"]
    ways = egress(objects, NODE)
    assert addresses(ways) == set()
    pods = [target for way in ways for target in way["to"] if "podSelector" in target]
    assert pods == [{"podSelector": {"matchLabels": {"app.kubernetes.io/component": "train"}}}]


def test_only_fetching_stages_get_out_and_never_to_private_addresses(rendered):
    for overlay in ("kind", "gke"):
        ways = [way for way in egress(rendered[f"manifests/overlays/{overlay}"], FETCHING) if "0.0.0.0/0" in addresses([way])]
        [block] = [target["ipBlock"] for way in ways for target in way["to"]]
        assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(block["except"])
        assert [way["ports"] for way in ways] == [[{"protocol": "TCP", "port": 443}]]


def test_nothing_leaves_a_cluster_without_a_way_out(rendered):
    for labels in (TASK, FETCHING, NODE, {}):
        found = addresses(egress(rendered["manifests/overlays/airgapped"], labels))
        assert all(address.startswith("10.") for address in found), found


def test_kubeflows_own_pods_are_left_alone_where_they_share_the_namespace(rendered):
    policies = [policy for policy in kinds(rendered["manifests/overlays/kind"], "NetworkPolicy") if selects(policy, {"app": "ml-pipeline"})]
    assert policies == []


# --- GitOps ---------------------------------------------------------------------------------------


def test_argo_cd_may_make_what_is_rendered_and_no_secret(rendered):
    project = one(rendered["manifests/gitops/argocd"], "AppProject", "med42")["spec"]
    lists = ("clusterResourceWhitelist", "namespaceResourceWhitelist")
    permitted = {(told["group"], told["kind"]) for key in lists for told in project[key]}
    objects = rendered["manifests/gitops/runs"]
    made = {(found["apiVersion"].rpartition("/")[0], found["kind"]) for found in objects}
    assert made <= permitted
    assert not {kind for _, kind in permitted} & {"Secret", "Workflow", "TrainJob", "Pod"}
    assert {found["metadata"].get("namespace", "med42") for found in objects} == {project["destinations"][0]["namespace"]}


def test_things_come_in_order(rendered):
    waves = {}
    for found in rendered["manifests/gitops/runs"]:
        waves.setdefault(found["kind"], set()).add(int(found["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", "0")))
    assert waves["Namespace"] == {-2} and waves["Role"] == waves["NetworkPolicy"] == waves["ServiceAccount"] == {-1}
    assert waves["Pipeline"] == {1} and waves["PipelineVersion"] == {2}
    job = one(rendered["manifests/gitops/runs"], "Job", "med42-submit")["metadata"]["annotations"]
    assert job["argocd.argoproj.io/hook"] == "PostSync" and job["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"


def test_versions_stay_when_git_goes_on(rendered):
    for version in kinds(rendered["manifests/gitops/runs"], "PipelineVersion"):
        assert version["metadata"]["annotations"]["argocd.argoproj.io/sync-options"] == "Prune=false"


def test_sync_and_clock_start_the_same_pod(rendered):
    objects = rendered["manifests/gitops/runs"]
    job, clock = one(objects, "Job", "med42-submit"), one(objects, "CronJob", "med42-submit")
    assert job["spec"]["template"] == clock["spec"]["jobTemplate"]["spec"]["template"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    told = load_profile("gke")
    assert container["args"] == [
        f"python3 -m med42.cli submit --namespace {told.namespace} --service-account {told.service_account} /runs/*.yaml"]


def test_our_images_are_of_this_version(rendered):
    for folder in (MANIFESTS, ROOT / "kind"):
        for path in folder.rglob("*.yaml"):
            assert set(re.findall(r"med42-[a-z]+:([0-9][0-9.]*)", path.read_text())) <= {__version__}, path


def test_requests_name_recipes_and_profiles_that_are_compiled(rendered):
    requests = sorted(path for path in (MANIFESTS / "gitops" / "runs").glob("*.yaml") if "recipe" in yaml.safe_load(path.read_text()))
    assert requests
    listed = set(one_map(rendered["manifests/gitops/runs"])["data"])
    for path in requests:
        told = yaml.safe_load(path.read_text())
        assert set(told) == {"recipe", "profile", "overrides", "reason"} and told["reason"]
        assert told["recipe"] in shipped_recipes() and told["profile"] == GOLDEN[told["recipe"]]
        assert path.name in listed


def one_map(objects: list[Object]) -> Object:
    [found] = [found for found in kinds(objects, "ConfigMap") if found["metadata"]["name"].startswith("med42-runs-")]
    return found


def test_what_argo_cd_applies_is_what_was_compiled(rendered):
    versions = {found["metadata"]["name"]: found for found in kinds(rendered["manifests/gitops/runs"], "PipelineVersion")}
    for recipe in set(GOLDEN) - {"tiny"}:
        _, version = check.objects((COMPILED / f"{recipe}.yaml").read_text())
        assert versions[version["metadata"]["name"]]["spec"] == version["spec"]


@pytest.mark.parametrize(("kind", "given", "status"), [
    ("Pipeline", {}, "Healthy"),
    ("Pipeline", {"status": {"conditions": [{"status": "False", "reason": "Refused", "message": "no"}]}}, "Degraded"),
    ("PipelineVersion", {"spec": {"pipelineName": "x", "pipelineSpec": {}}}, "Healthy"),
    ("PipelineVersion", {"spec": {}}, "Degraded"),
    ("PipelineVersion", {"spec": {"pipelineName": "x", "pipelineSpec": {}},
                         "status": {"conditions": [{"status": "Unknown", "reason": "Waiting", "message": "yet"}]}}, "Progressing"),
    ("PipelineVersion", {"spec": {"pipelineName": "x", "pipelineSpec": {}},
                         "status": {"conditions": [{"status": "True", "reason": "Ready", "message": ""}]}}, "Healthy"),
])
def test_health_as_argo_cd_would_find_it(kind, given, status):
    lupa = pytest.importorskip("lupa", reason="lupa is not installed: Argo CD's health checks are not run")
    [settings] = check.objects((MANIFESTS / "gitops" / "argocd" / "argocd-cm.yaml").read_text())
    script = settings["data"][f"resource.customizations.health.pipelines.kubeflow.org_{kind}"]
    lua = lupa.LuaRuntime()
    found = lua.execute(f"local obj = ...; {script}", lua.table_from(given, recursive=True))
    assert found["status"] == status and found["message"]


def test_new_data_ask_for_a_review_and_start_nothing(rendered):
    sensor = one(rendered["manifests/gitops/events"], "Sensor", "med42-review")
    [trigger] = sensor["spec"]["triggers"]
    assert set(trigger["template"]) == {"name", "http"}, "the sensor makes objects itself"
    event = next(told["src"]["value"] for told in trigger["template"]["http"]["payload"] if told["dest"] == "event_type")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "review.yml").read_text())
    assert workflow[True]["repository_dispatch"]["types"] == [event]  # YAML 1.1 reads `on` as true
    steps = "\n".join(step.get("run", "") for step in workflow["jobs"]["lock"]["steps"])
    assert "gh pr create" in steps and "submit" not in steps


# --- workflows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_actions_are_pinned_and_given_little(path):
    text = path.read_text()
    for used in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used
    told = yaml.safe_load(text)
    assert told["permissions"] == {}
    for job in told["jobs"].values():
        assert job["timeout-minutes"] and job["permissions"]
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
