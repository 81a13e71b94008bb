"""What the tests of the cluster share: a stand-in API server, the schemas of Kubeflow's objects where they lie near, a small training."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_server import Cluster, kubernetes_server, scene
from node_training import Training, finish

from manifests.check import strict

SCHEMAS = Path(__file__).parents[3] / "shared" / "crds"


@functools.cache
def validators() -> dict[str, Any]:
    """By kind, the schema that Trainer's own definitions have of it; nothing where these are not there."""
    schemas: dict[str, Any] = {}
    for name in ("trainjobs", "clustertrainingruntimes") if SCHEMAS.is_dir() else ():
        definition = yaml.load((SCHEMAS / f"{name}.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        schema = strict(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        schemas[definition["spec"]["names"]["kind"]] = jsonschema.Draft202012Validator(schema)
    return schemas


def wrong(body: dict[str, Any]) -> list[str]:
    """What the schema of an object's kind refuses in it."""
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in validators()[body["kind"]].iter_errors(body)]


@pytest.fixture
def wrong_in() -> Callable[[dict[str, Any]], list[str]]:
    """The same; skips where the schemas are not there."""
    if not validators():
        pytest.skip(f"no schemas at {SCHEMAS}")
    return wrong


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An API server that, where the schemas are there, takes nothing else than these allow."""
    with kubernetes_server(tmp_path) as server:
        if validators():
            server.validate = wrong
        for key, value in {**server.environment, "KFP_POD_NAME": "launcher-1", "KFP_POD_UID": "uid-launcher-1"}.items():
            monkeypatch.setenv(key, value)
        yield server


@pytest.fixture
def training(tmp_path: Path, cluster: Cluster) -> Callable[..., Training]:
    return lambda *changes, **nodes: Training(tmp_path, cluster, *changes, **nodes)


@pytest.fixture
def body(training: Callable[..., Training], cluster: Cluster) -> Callable[..., dict[str, Any]]:
    """The TrainJob that a training submits."""
    def submitted(*changes: str, **nodes: Any) -> dict[str, Any]:
        cluster.scripts = [[scene(suspend=False, done=True, then=finish)]]
        training(*changes, **nodes).launch()
        return copy.deepcopy(cluster.created[-1])

    return submitted
