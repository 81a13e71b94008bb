"""A small Kubernetes API server on loopback, for tests: what a launcher of trainings asks of one, with a controller that plays a script.

A script is a list of scenes for each TrainJob that is created, one after another. A job is in its first scene when it is created, and
each look at it moves it on by one; it stays in the last. A scene tells what is different from the one before:

    cluster.scripts = [[scene(pods=[pod(0), pod(1)]), scene(failed="BackoffLimitExceeded")], [scene(done=True)]]

    with kubernetes_server(tmp_path) as cluster:   # writes a kubeconfig; `cluster.environment` points at it
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE = "clinic"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
EVENTS = f"/api/v1/namespaces/{NAMESPACE}/events"
WORKLOADS = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{NAMESPACE}/workloads"
MOST_LOOKS = 3000  # at a job whose script is over: a test that waits for more waits for ever
Scene = dict[str, Any]


def pod(index: int, phase: str = "Running", uid: str = "", going: bool = False, **status: Any) -> dict[str, Any]:
    """A pod of a training, which may be on its way out; `status` as Kubernetes has it."""
    metadata = {"deletionTimestamp": "2031-01-01T00:00:00Z"} if going else {}
    return {"index": index, "uid": uid or f"uid-{index}", "metadata": metadata, "status": {"phase": phase, **status}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """The status of a pod whose container does not start."""
    return {"containerStatuses": [{"name": "node", "state": {"waiting": {"reason": reason, "message": message}}}]}


def ended(exit_code: int, reason: str = "Error") -> dict[str, Any]:
    """The status of a pod whose container has ended."""
    return {"containerStatuses": [{"name": "node", "state": {"terminated": {"exitCode": exit_code, "reason": reason}}}]}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]}


def scene(pods: list[dict[str, Any]] | None = None, log: str = "", suspend: bool | None = None, failed: str = "", message: str = "",
          done: bool = False, says: str = "", then: Callable[[dict[str, Any]], None] | None = None) -> Scene:
    """What becomes of a job.

    Args:
        pods: the pods that there are from now on.
        log: lines that node 0 writes.
        suspend: as Kueue sets it.
        failed: the reason of the condition Failed.
        message: its message.
        done: the condition Complete.
        says: what Kueue's workload says.
        then: called with the job, as its nodes would write files.
    """
    return {"pods": pods, "log": log, "suspend": suspend, "failed": failed, "message": message, "done": done, "says": says, "then": then}


@dataclass
class Cluster:
    """The server's state, for a test to set up and to look at.

    Attributes:
        scripts: the scenes of each TrainJob, in the order in which they are created.
        jobs: those that there are, by name.
        created: the bodies of all that were ever created.
        requests: every request seen, as `GET trainjobs`.
        forbidden: verb and resource pairs that are refused.
        away: answers 503 to the next so many requests; -1 hangs up on all.
        refuse: status and message for the next creation.
        unheard: verb and resource pairs that are done once without an answer.
        clock: seconds by which the server's clock is ahead.
        lingers: looks at a deleted job until its pods are gone, and it with them.
        watch: called at each look at a job whose script is over.
        validate: called with each body that is created; returns what is wrong with it.
    """

    folder: Path
    endpoint: str = ""
    scripts: list[list[Scene]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    away: int = 0
    refuse: tuple[int, str] | None = None
    clock: float = 0.0
    looks: int = 0
    lingers: int = 0
    watch: Callable[[dict[str, Any]], None] | None = None
    unheard: set[tuple[str, str]] = field(default_factory=set)
    token: str = "of-the-launcher"
    validate: Callable[[dict[str, Any]], list[str]] = lambda body: []
    events: list[dict[str, Any]] = field(default_factory=list)
    scenes: dict[str, list[Scene]] = field(default_factory=dict)
    pods: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)

    @property
    def environment(self) -> dict[str, str]:
        """What a client's process needs to find this server."""
        return {"KUBECONFIG": str(self.folder / "kubeconfig"), "NO_PROXY": "127.0.0.1"}

    def now(self) -> float:
        return time.time() + self.clock

    def add(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create a job, as a client or as an earlier launcher did."""
        job = copy.deepcopy(body)
        job["metadata"] |= {"uid": f"uid-of-job-{len(self.created)}", "namespace": NAMESPACE, "creationTimestamp": self.stamp()}
        name = job["metadata"]["name"]
        self.scenes[name] = list(self.scripts.pop(0)) if self.scripts else []
        self.created.append(copy.deepcopy(body))
        self.jobs[name], self.pods[name], self.logs[name], self.says[name] = job, [], [], ""
        return job

    def stamp(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.now())) + f".{time.monotonic_ns() % 10**9:09d}Z"

    def advance(self, name: str) -> None:
        """Play a job's next scene."""
        if not self.scenes[name]:
            self.looks += 1
            if self.watch:
                self.watch(self.jobs[name])
            elif self.looks > MOST_LOOKS:
                raise RefusedError(410, "the script is over, and the job is still being looked at")
            return
        job, next_one = self.jobs[name], self.scenes[name].pop(0)
        conditions = job.setdefault("status", {}).setdefault("conditions", [])
        if next_one["pods"] is not None:
            self.pods[name] = next_one["pods"]
        if next_one["suspend"] is not None:
            job["spec"]["suspend"] = next_one["suspend"]
            reason = "Suspended" if next_one["suspend"] else "Resumed"
            conditions[:] = [{"type": "Suspended", "status": str(next_one["suspend"]), "reason": reason, "message": "",
                              "lastTransitionTime": self.stamp()}]
        self.says[name] = next_one["says"]
        self.logs[name] += [f"{self.log_stamp(name, number)} {line}" for number, line in enumerate(next_one["log"].splitlines())]
        if next_one["failed"] or next_one["done"]:
            kind = "Complete" if next_one["done"] else "Failed"
            conditions.append({"type": kind, "status": "True", "reason": next_one["failed"] or "AllJobsCompleted",
                               "message": next_one["message"], "lastTransitionTime": self.stamp()})
        if next_one["then"]:
            next_one["then"](job)

    def log_stamp(self, name: str, number: int) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_800_000_000 + len(self.logs[name])))
        return f"{seconds}.{number:09d}Z"


class RefusedError(Exception):
    """Ends a request with a status and a message."""


def answer(cluster: Cluster, method: str, path: str, query: dict[str, str], body: Any) -> Any:
    name = path.rpartition("/")[2]
    match method, path:
        case "POST", _ if path == JOBS:
            if cluster.refuse:
                (status, words), cluster.refuse = cluster.refuse, None
                raise RefusedError(status, words)
            if body["metadata"]["name"] in cluster.jobs:
                raise RefusedError(409, "trainjobs.trainer.kubeflow.org already exists")
            if query.get("fieldValidation") == "Strict" and (wrong := cluster.validate(body)):
                raise RefusedError(400, f"strict decoding error: {'; '.join(wrong)}")
            return cluster.add(body)
        case "GET", _ if path.startswith(JOBS + "/"):
            if name not in cluster.jobs:
                raise RefusedError(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
            if "deletionTimestamp" not in cluster.jobs[name]["metadata"]:
                cluster.advance(name)
            elif (lingers := cluster.lingers - 1) >= 0:
                cluster.lingers = lingers
            else:
                cluster.jobs.pop(name)
            if name not in cluster.jobs:
                raise RefusedError(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
            return cluster.jobs[name]
        case "PATCH", _ if path.startswith(JOBS + "/"):
            cluster.jobs[name]["metadata"] |= body["metadata"]
            return cluster.jobs[name]
        case "DELETE", _ if path.startswith(JOBS + "/"):
            if name not in cluster.jobs:
                raise RefusedError(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
            if cluster.lingers:
                cluster.jobs[name]["metadata"]["deletionTimestamp"] = cluster.stamp()
                return cluster.jobs[name]
            return cluster.jobs.pop(name)
        case "GET", _ if path == PODS:
            job = query["labelSelector"].partition("=")[2]
            return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [
                {"metadata": {"name": f"{job}-node-0-{pod['index']}-{pod['uid']}", "uid": pod["uid"],
                              "labels": {"batch.kubernetes.io/job-completion-index": str(pod["index"])}, **pod["metadata"]},
                 "spec": {"nodeName": f"machine-{pod['index']}", "containers": []}, "status": pod["status"]}
                for pod in cluster.pods.get(job, [])]}
        case "GET", _ if path.startswith(PODS) and path.endswith("/log"):
            job = path.split("/")[-2].rpartition("-node-")[0]
            return "".join(line + "\n" for line in cluster.logs[job]).encode()
        case "GET", _ if path == EVENTS:
            return {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": cluster.events}
        case "GET", _ if path == WORKLOADS:
            uid = query["labelSelector"].partition("=")[2]
            says = next((cluster.says[name] for name, job in cluster.jobs.items() if job["metadata"]["uid"] == uid), "")
            return {"items": [{"status": condition("QuotaReserved", "False", "Pending", says)}] if says else []}
    raise RefusedError(404, "the server could not find the requested resource")


VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def handle_request(self) -> None:
        cluster: Cluster = self.server.cluster  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "null")
        with cluster.lock:
            words = parts.path.partition(f"/namespaces/{NAMESPACE}/")[2].split("/")
            resource = words[0] + ("/log" if words[-1] == "log" else "")
            verb = VERBS.get(self.command) or ("get" if len(words) > 1 else "list")
            cluster.requests.append(f"{verb} {resource}")
            if cluster.away == -1:
                self.close_connection = True
                return
            try:
                if cluster.away:
                    cluster.away -= 1
                    raise RefusedError(503, "the server is currently unable to handle the request")
                if self.headers.get("Authorization") != f"Bearer {cluster.token}":
                    raise RefusedError(401, "Unauthorized")
                if (verb, resource) in cluster.forbidden:
                    raise RefusedError(403, f'{resource} is forbidden: User "system:serviceaccount:clinic:runs" cannot {verb} resource '
                                            f'"{resource}" in the namespace "{NAMESPACE}"')
                status, content = 200, answer(cluster, self.command, parts.path, query, body)
            except RefusedError as error:
                status, content = error.args[0], {"kind": "Status", "message": error.args[1], "code": error.args[0]}
            if (verb, resource) in cluster.unheard:
                cluster.unheard.remove((verb, resource))
                self.close_connection = True
                return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response_only(status)
        for key, value in {"Date": formatdate(cluster.now(), usegmt=True), "Content-Type": "application/json",
                           "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_request  # noqa: N815
    log_message = lambda *_: None  # noqa: E731


@contextmanager
def kubernetes_server(folder: Path) -> Iterator[Cluster]:
    """Serve an API server on a free port of loopback."""
    cluster = Cluster(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.cluster = cluster  # type: ignore[attr-defined]
        cluster.endpoint = f"http://127.0.0.1:{server.server_port}"
        (folder / "kubeconfig").write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": cluster.endpoint}}],
            "users": [{"name": "test", "user": {"token": cluster.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}]}))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield cluster
        server.shutdown()
