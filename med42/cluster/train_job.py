"""A training on several nodes: a Kubeflow TrainJob in which each node runs the launch contract, followed to its end.

    store/train_jobs/<name>/job.json        recipe and places, for every node
                            scratch-<n>/    what the processes of attempt n share; their word of what ended them; their outcome
                            model/          the model, until it is in its artifact
                            attempts.json   how each attempt ended

The name comes from all that decides the training, so a component that is started again finds the job that its forerunner left, and
follows that one. Nodes share one volume, which holds the store; an input artifact is read from the store where it is kept there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, ValidationError

from med42.cluster.api import GROUP, VERSION, Cluster, connect
from med42.cluster.causes import FINAL, PASSING, Cause, End, read_pod
from med42.cluster.follow import Follower
from med42.cluster.profile import NODES_VARIABLE
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, copy_artifact
from med42.lineage.digest import folder_files, value_digest
from med42.lineage.journal import Job, write_job
from med42.lineage.provenance import code_digest
from med42.lineage.record import RECORD, read_record
from med42.recipe import Recipe
from med42.recipe.schema import Devices, Dpo, Frozen, Sft
from med42.training.failures import PreemptedError
from med42.training.launch import FOLLOWED, OUTCOME, Launch, Train, start, torchrun

IDENTITY = "med42.io/identity"  # the annotation with the digest that the name has the beginning of
ATTEMPT = "med42.io/attempt"
MANAGER = "med42.io/launcher"
POD_NAME, POD_UID = "KFP_POD_NAME", "KFP_POD_UID"  # in which Kubeflow tells a pod who it is
PORT = 29500  # which Trainer opens on node 0
SEEN_AFTER = 120.0  # seconds in which one node's files are seen by another one: NFS keeps what it knew of a folder for up to a minute


class Mount(Frozen):
    """A volume claim, and where every node has it."""

    claim: str
    path: str


class Nodes(Frozen):
    """The nodes of a training as the cluster profile has them; a component is told when the pipeline is compiled."""

    image: str
    mounts: list[Mount] = Field(min_length=1, description="one of them holds the store")
    runtime: str = "med42-torch"
    service_account: str | None = None
    node_selector: dict[str, str] = Field(default={})
    tolerations: list[dict[str, Any]] = Field(default=[])
    pull_secrets: list[str] = Field(default=[])
    accelerator: str = Field(default="nvidia.com/gpu", description="the resource that devices.gpus_per_node counts")
    cpu: str | None = None
    memory: str | None = None
    shared_memory: str | None = Field(default=None, description="/dev/shm of a node, instead of the runtime's")
    env: dict[str, str] = Field(default={})
    queue: str | None = Field(default=None, description="Kueue's local queue")
    labels: dict[str, str] = Field(default={}, description="of the job and its pods, for tools that count cost")
    patience: PositiveInt = Field(default=1800, description="seconds that pods may be without a place, or a volume, before it is given up")


class ToldToEndError(PreemptedError):
    """The launcher itself was told to end."""


@dataclass(frozen=True)
class Attempt:
    """One TrainJob, and how it ended."""

    run: str
    cause: Cause | None = None
    found: str = ""


def on_nodes(nodes: str | None = None, cluster: Cluster | None = None, interval: float = 5.0) -> Launch:
    """The launcher that a component hands to a training stage.

    Args:
        nodes: `Nodes` as JSON, which MED42_NODES holds where it is not given; empty where the cluster has no Kubeflow Trainer.
        cluster: instead of the one that this process runs in.
        interval: seconds between two looks at a job.

    Returns:
        A launcher that submits a TrainJob where the recipe asks for several nodes, and starts the processes here where it asks for one.

    Raises:
        Med42Error: text that is no `Nodes`.
    """
    given = os.environ.get(NODES_VARIABLE, "") if nodes is None else nodes
    try:
        where = Nodes.model_validate_json(given) if given else None
    except ValidationError as error:
        raise Med42Error(NODES_VARIABLE, " ".join(str(error).split())[:500], "what compiling writes",
                         "Compile the pipeline again.") from error

    def launch(train: Train, stage: str, settings: Sft | Dpo, recipe: Recipe, inputs: dict[str, Path], draft: Path, job: Job) -> Outcome:
        if where is None or settings.devices.nodes == 1:
            return start(train, stage, settings, recipe, inputs, draft, job)
        if settings.checkpoint_bucket:
            raise Med42Error(f"{stage}: checkpoint_bucket", settings.checkpoint_bucket, "none on several nodes",
                             "The volume that they share outlives them and keeps the checkpoints; unset it.")
        training = _Training(cluster or connect(), where, train, stage, settings, recipe, inputs, job, interval)
        return training.run(draft)

    return launch


def job_name(stage: str, identity: str) -> str:
    """The name of a training's TrainJob; with `-node-0-0` after it a host's name, which has at most 63 characters."""
    return f"med42-{stage.removeprefix('train_')}-{identity[:16]}"


def train_job(name: str, nodes: Nodes, devices: Devices, command: list[str], annotations: dict[str, str], owners: list[dict[str, Any]]
              ) -> dict[str, Any]:
    """The TrainJob of a training.

    Environment goes into `trainer.env`: Trainer forbids it in a patch of the node's container. What says where pods run goes into a patch
    of our own, beside which Kueue may lay one of its own.
    """
    resources = {"cpu": nodes.cpu, "memory": nodes.memory, nodes.accelerator: str(devices.gpus_per_node) if devices.gpus_per_node else None}
    asked = {key: value for key, value in resources.items() if value is not None}
    volumes: list[dict[str, Any]] = [
        {"name": f"shared-{number}", "persistentVolumeClaim": {"claimName": mount.claim}} for number, mount in enumerate(nodes.mounts)]
    if nodes.shared_memory:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": nodes.shared_memory}})
    pod: dict[str, Any] = {
        "nodeSelector": nodes.node_selector, "tolerations": nodes.tolerations, "serviceAccountName": nodes.service_account,
        "imagePullSecrets": [{"name": secret} for secret in nodes.pull_secrets], "volumes": volumes,
        "containers": [{"name": "node", "volumeMounts": [
            {"name": f"shared-{number}", "mountPath": mount.path} for number, mount in enumerate(nodes.mounts)]}],
    }
    template: dict[str, Any] = {"spec": {key: value for key, value in pod.items() if value}}
    if nodes.labels:
        template["metadata"] = {"labels": nodes.labels}
    patch = {"template": {"spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": template}}}]}}}
    queue = {"kueue.x-k8s.io/queue-name": nodes.queue} if nodes.queue else {}
    return {
        "apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob",
        "metadata": {
            "name": name, "annotations": annotations, "ownerReferences": owners,
            "labels": {**nodes.labels, **queue, "app.kubernetes.io/managed-by": "med42"},
        },
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": nodes.runtime},
            "trainer": {
                "image": nodes.image, "command": ["python3"], "args": command, "numNodes": devices.nodes,
                "env": [{"name": key, "value": value} for key, value in sorted({"MED42_IMAGE": nodes.image, **nodes.env}.items())],
                **({"resourcesPerNode": {"requests": asked, "limits": asked}} if asked else {}),
            },
            "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": patch}],
            **({"suspend": True} if nodes.queue else {}),  # Kueue starts it
        },
    }


class _Training:
    """One training, over all its attempts."""

    def __init__(self, cluster: Cluster, nodes: Nodes, train: Train, stage: str, settings: Sft | Dpo, recipe: Recipe,
                 inputs: dict[str, Path], job: Job, interval: float) -> None:
        shared = [mount.path for mount in nodes.mounts]
        if job.store is None or not any(job.store.is_relative_to(path) for path in shared):
            raise Med42Error(f"{stage}: store", str(job.store or "none"), f"a folder below {' or '.join(shared)}, which all nodes share",
                             "Give the run its `store` there.")
        self.cluster, self.nodes, self.train, self.stage, self.settings = cluster, nodes, train, stage, settings
        self.recipe, self.inputs, self.job, self.interval = recipe, inputs, job, interval
        # Devices are in it: a job of other nodes is another job, though it goes on from the same checkpoints.
        self.identity = value_digest({
            "stage": stage, "seed": recipe.seed, "settings": settings.model_dump(mode="json"), "code": code_digest("training"),
            "inputs": {key: read_record(path).digest for key, path in inputs.items()}, "image": nodes.image, "store": str(job.store)})
        self.name = job_name(stage, self.identity)
        self.folder = job.store / "train_jobs" / self.name
        self.attempts: list[Attempt] = []

    def run(self, draft: Path) -> Outcome:
        """Train to the end, over as many attempts as devices.restarts allows; the model goes into the draft."""
        self._prepare()
        with self._freed_when_told_to_end():
            while not self._is_made():
                self._adopt_or_create()
                follower = Follower(self.cluster, self.name, self.settings.devices.nodes, self.stage, self.job, self._scratch(),
                                    self.nodes.patience, self.interval)
                end = follower.to_the_end()
                if end is None:
                    break
                self._note(end)
                if follower.holds_nodes:  # pods that wait for one another hold machines
                    self.cluster.delete_train_job(self.name)
                if end.cause not in PASSING or self._lost() > self.settings.devices.restarts:
                    raise end.error(self._budget(end) + follower.tail())
                self.job.tell(self.stage, "lost", cause=end.cause, found=end.found, tried_again=f"{self._lost()} of "
                              f"{self.settings.devices.restarts} times")
                self._free()
            return self._finish(draft)

    def _prepare(self) -> None:
        assert self.job.store is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        _sweep(self.folder)
        told = self.folder / "attempts.json"
        self.attempts = [Attempt(**attempt) for attempt in json.loads(told.read_text())] if told.is_file() else []
        last = self._ended_here()
        if last and (last.cause in FINAL or (last.cause in PASSING and self._lost() > self.settings.devices.restarts)):
            raise Med42Error(self.stage, f"the same training in this run before, which ended so: {last.cause}: {last.found}",
                             "something that may end otherwise", "Not tried again: mend the cause and start a new run.")

    def _adopt_or_create(self) -> None:
        """See that the job is there, once: the one that an earlier launcher left, or a new one."""
        while (found := self.cluster.train_job(self.name)) is not None:
            metadata = found["metadata"]
            ended_before = bool(self.attempts) and self.attempts[-1].cause is not None
            if metadata.get("annotations", {}).get(IDENTITY) != self.identity:
                raise Med42Error(f"TrainJob {self.name}", "a job that is not this training's", "none of that name", "Delete it.")
            if not metadata.get("deletionTimestamp") and not ended_before:
                self.cluster.own_train_job(self.name, _owners())
                self.job.tell(self.stage, "adopted", train_job=self.name, attempt=len(self.attempts) or 1)
                if not self.attempts:
                    self._record([Attempt(self.job.run)])
                return
            self._free()
        self._record([*self.attempts, Attempt(self.job.run)])
        self._lay_out()
        self.cluster.create_train_job(self._body())
        devices = self.settings.devices
        self.job.tell(self.stage, "submitted", train_job=self.name, nodes=devices.nodes, gpus=devices.nodes * devices.gpus_per_node,
                      attempt=len(self.attempts), owner=os.environ.get(POD_NAME, "nobody"))

    def _is_made(self) -> bool:
        """Whether an earlier launcher saw the training end well, and ended itself before the model was in its artifact."""
        return bool(self.attempts) and (self._scratch() / OUTCOME).is_file() and any((self.folder / "model").iterdir())

    def _lay_out(self) -> None:
        shutil.rmtree(self.folder / "model", ignore_errors=True)
        for folder in (self.folder / "model", self._scratch()):
            folder.mkdir(parents=True, exist_ok=True)
        (self._scratch() / FOLLOWED).touch()
        write_job(self.folder / "job.json", self.recipe, self.job)

    def _body(self) -> dict[str, Any]:
        devices = self.settings.devices
        once = devices.model_copy(update={"restarts": 0})  # attempts are counted here, where a lost node is told from a bug
        command = torchrun(self.train.__module__, once, f"{self.name}-node-0-0.{self.name}:{PORT}", self.folder / "job.json",
                           {key: self._on_the_store(key, path) for key, path in self.inputs.items()}, self.folder / "model",
                           self._scratch(), ranked=True)
        told = {IDENTITY: self.identity, ATTEMPT: str(len(self.attempts)), "med42.io/run": self.job.run, "med42.io/stage": self.stage}
        labels = {**self.nodes.labels, "med42.io/stage": self.stage.replace("_", "-")}
        return train_job(self.name, self.nodes.model_copy(update={"labels": labels}), devices, command, told, _owners())

    def _on_the_store(self, key: str, path: Path) -> Path:
        """An input where all nodes see it: the store's own, or a copy."""
        assert self.job.store is not None
        if path.is_relative_to(self.job.store):
            return path
        record = read_record(path)
        kept, copy = self.job.store / record.stage / record.fingerprint[:24], self.folder / "inputs" / key
        for place in (kept, copy):
            if (place / RECORD).is_file() and read_record(place).digest == record.digest:
                return place
        copy_artifact(path, copy)
        return copy

    def _finish(self, draft: Path) -> Outcome:
        """Take the model and what was learned, and free the job."""
        told, until = self._scratch() / OUTCOME, time.monotonic() + SEEN_AFTER
        while not told.is_file():
            if time.monotonic() > until:
                end = End("failed", f"TrainJob {self.name}", "Complete, and no outcome", str(told),
                          "See that all nodes share the store's volume.")
                self._note(end)
                raise end.error()
            time.sleep(self.interval)
        outcome = Outcome(**json.loads(told.read_text()))
        model = self.folder / "model"
        for name in folder_files(model):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            try:  # the model stays until its record is written: reading 141 GB takes minutes, in which this process may end
                (draft / name).hardlink_to(model / name)
            except OSError:
                shutil.move(model / name, draft / name)
        lost = [asdict(attempt) for attempt in self.attempts if attempt.cause]
        self.cluster.delete_train_job(self.name)
        if not any(path.is_file() for path in model.rglob("*")):
            shutil.rmtree(self.folder)
        return Outcome(outcome.measured, {**outcome.observed, "train_job": {
            "name": self.name, "attempts": len(self.attempts), "restarts_allowed": self.settings.devices.restarts, "lost": lost}})

    def _free(self) -> None:
        """Delete the job, and wait until its pods are gone with it: its name is needed again."""
        self.cluster.delete_train_job(self.name)
        until = time.monotonic() + self.nodes.patience
        while self.cluster.train_job(self.name) is not None:
            if time.monotonic() > until:
                left = ", ".join(read_pod(pod).where for pod in self.cluster.pods(self.name))
                raise Med42Error(
                    f"TrainJob {self.name}", f"still there {self.nodes.patience} s after it was deleted, with {left or 'no pods'}",
                    "its pods to end", "A pod on a machine that is lost ends when its node is deleted: kubectl delete node NODE.")
            time.sleep(self.interval)

    def _scratch(self) -> Path:
        return self.folder / f"scratch-{len(self.attempts)}"

    def _note(self, end: End) -> None:
        self._record([*self.attempts[:-1], Attempt(self.attempts[-1].run, end.cause, f"{end.where}: {end.found}")])

    def _record(self, attempts: list[Attempt]) -> None:
        self.attempts = attempts
        draft = self.folder / ".attempts.partial"
        draft.write_text(json.dumps([asdict(attempt) for attempt in attempts], indent=1) + "\n")
        draft.rename(self.folder / "attempts.json")

    def _ended_here(self) -> Attempt | None:
        """How this run's last attempt ended; None where it has none, or one that is still going on."""
        last = self.attempts[-1] if self.attempts else None
        return last if last and last.run == self.job.run and last.cause else None

    def _lost(self) -> int:
        return sum(1 for attempt in self.attempts if attempt.run == self.job.run and attempt.cause in PASSING)

    def _budget(self, end: End) -> str:
        if end.cause not in PASSING:
            return ""
        return f" That was loss {self._lost()}, and devices.restarts allows {self.settings.devices.restarts}."

    @contextmanager
    def _freed_when_told_to_end(self) -> Iterator[None]:
        """Delete the job when this process is told to end: the run was cancelled, or its node is drained. Checkpoints stay."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: object) -> None:
            raise ToldToEndError(self.stage, "SIGTERM to the launcher", "time to finish",
                                 f"TrainJob {self.name} was deleted; run it again, and it goes on from its last checkpoint.")

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        except (ToldToEndError, KeyboardInterrupt):
            self.cluster.delete_train_job(self.name)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def _owners() -> list[dict[str, Any]]:
    """The pod that this process runs in, as Kubeflow tells it; nobody outside of a pod."""
    name, uid = os.environ.get(POD_NAME, ""), os.environ.get(POD_UID, "")
    return [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}] if name and uid else []


def _sweep(folder: Path) -> None:
    """Remove what earlier trainings left: models that are links to an artifact's files by now."""
    for other in folder.parent.iterdir():
        files = [path for path in (other / "model").rglob("*") if path.is_file()]
        if other != folder and files and all(path.stat().st_nlink > 1 for path in files):
            shutil.rmtree(other, ignore_errors=True)
