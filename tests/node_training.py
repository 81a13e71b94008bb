"""A small training of two nodes for tests of its launcher; its nodes are whatever the scenes of a stand-in API server say."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kubernetes_server import Cluster

from med42.cluster.api import connect
from med42.cluster.train_job import Mount, Nodes, on_nodes
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job, read_journal
from med42.recipe import load_recipe
from med42.training.launch import OUTCOME
from med42.training.train_sft import train


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
            plan = Plan(f"prepare_{key}", "model", {}, dict(self.inputs), "training")
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
