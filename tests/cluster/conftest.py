"""What the tests of the cluster share: a stand-in API server, the schemas of Kubeflow's objects where they lie near, a small training."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes_server import Cluster, kubernetes_server

from med42.cluster.api import connect
from med42.cluster.train_job import Mount, Nodes, on_nodes
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job, read_journal
from med42.recipe import load_recipe
from med42.training.launch import OUTCOME
from med42.training.train_sft import train

SCHEMAS = Path(__file__).parents[3] / "shared" / "crds"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with kubernetes_server(tmp_path) as server:
        for key, value in {**server.environment, "KFP_POD_NAME": "launcher-1", "KFP_POD_UID": "uid-launcher-1"}.items():
            monkeypatch.setenv(key, value)
        yield server


@pytest.fixture(scope="session")
def wrong_in() -> Callable[[dict[str, Any]], list[str]]:
    """What the schema of an object's kind refuses in it; skips where the schemas are not there."""
    if not SCHEMAS.is_dir():
        pytest.skip(f"no schemas at {SCHEMAS}")
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    def strict(schema: Any) -> Any:
        """A structural schema as one that refuses unknown fields."""
        if isinstance(schema, list):
            return [strict(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        schema = {key: strict(value) for key, value in schema.items()}
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
            schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
        if "properties" in schema and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
        return schema

    schemas: dict[str, Any] = {}
    for name in ("trainjobs", "clustertrainingruntimes"):
        definition = yaml.load((SCHEMAS / f"{name}.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        schema = strict(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        schemas[definition["spec"]["names"]["kind"]] = jsonschema.Draft202012Validator(schema)

    def wrong(body: dict[str, Any]) -> list[str]:
        return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in schemas[body["kind"]].iter_errors(body)]

    return wrong


class Training:
    """A training of two nodes whose launcher a test starts; its nodes are whatever the scenes say."""

    def __init__(self, folder: Path, cluster: Cluster, *changes: str, run: str = "run-1", **nodes: Any) -> None:
        self.store = folder / "volume" / "store"
        self.recipe = load_recipe("tiny", ["sft.devices.nodes=2", "sft.devices.gpus_per_node=4", "sft.rows_per_device=1", *changes])
        self.job = Job(run, self.store)
        self.nodes = Nodes(**{"image": "registry.example/med42-train@sha256:0123", "patience": 60,
                              "mounts": [Mount(claim="med42-work", path=str(folder / "volume"))], **nodes})
        self.inputs = {}
        for key in ("base", "packed"):
            plan = Plan(f"prepare_{key}", "model", {}, {}, "training")
            produce(plan, folder / "artifacts" / key, self.job, lambda draft, key=key: (draft / "file").write_text(key) and Outcome())
            self.inputs[key] = folder / "artifacts" / key
        self.draft = folder / "draft"
        self.server = cluster

    def launch(self, away: float = 5.0) -> Outcome:
        self.draft.mkdir(exist_ok=True)
        launch = on_nodes(self.nodes.model_dump_json(), connect(away, pause=0.001), interval=0.001)
        return launch(train, "train_sft", self.recipe.sft, self.recipe, self.inputs, self.draft, self.job)

    def told(self, event: str = "") -> list[dict[str, Any]]:
        """What the journal says of this training."""
        return [entry for entry in read_journal(self.job.journal) if event in ("", entry["event"])]

    def states(self) -> list[str]:
        return [entry["state"] for entry in self.told("train_job")]


def finish(job: dict[str, Any]) -> None:
    """What the nodes of a training leave when it ends well."""
    place = places(job)
    (place.out / "weights").mkdir()
    (place.out / "weights" / "model.safetensors").write_bytes(b"weights")
    (place.scratch / OUTCOME).write_text(json.dumps({"measured": {"steps": 7}, "observed": {"tokens_a_second": 8.0}}))


def places(job: dict[str, Any]) -> SimpleNamespace:
    """The folders that a TrainJob's command names."""
    words = job["spec"]["trainer"]["args"]
    return SimpleNamespace(**{name: Path(words[words.index(f"--{name}") + 1]) for name in ("out", "scratch", "job")})


@pytest.fixture
def training(tmp_path: Path, cluster: Cluster) -> Callable[..., Training]:
    return lambda *changes, **nodes: Training(tmp_path, cluster, *changes, **nodes)


@pytest.fixture
def body(training: Callable[..., Training], cluster: Cluster) -> Callable[..., dict[str, Any]]:
    """The TrainJob that a training submits."""
    from kubernetes_server import scene

    def submitted(*changes: str, **nodes: Any) -> dict[str, Any]:
        cluster.scripts = [[scene(suspend=False, done=True, then=finish)]]
        training(*changes, **nodes).launch()
        return copy.deepcopy(cluster.created[-1])

    return submitted
