"""A small Kubeflow Pipelines API on loopback, for tests: what `kfp.Client` 2.17 asks of one (v2beta1), with faults on demand.

It keeps pipelines, versions, experiments (no two of one name) and runs in memory.

    with pipelines_server(token="...") as server:
        server.add_pipeline("med42-tiny", "med42-tiny-0123")
        server.fail("create_run", 503, times=2)
"""

from __future__ import annotations

import email
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1"
Values = dict[str, Any]


@dataclass
class Server:
    """The server's state, for a test to set up and to look at.

    Attributes:
        token: what requests must bear; "" for an open server.
        steps: for each request its key in ROUTES.
        faults: by step: the statuses of the next answers; 0 hangs up without an answer, -1 does what is asked for and then hangs up.
        slow: by step: seconds that it takes.
        clock: seconds by which the server's clock is ahead.
        script: states that a run goes through, one a look.
    """

    endpoint: str = ""
    token: str = ""
    pipelines: list[Values] = field(default_factory=list)
    versions: list[Values] = field(default_factory=list)
    experiments: list[Values] = field(default_factory=list)
    runs: list[Values] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    faults: dict[str, list[int]] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    clock: float = 0.0
    page: int = 100
    script: list[Values] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)

    def fail(self, step: str, status: int, times: int = 1) -> None:
        self.faults[step] = [status] * times

    def now(self) -> str:
        self.clock += 1e-3  # no two things at one time
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + self.clock)) + f".{time.monotonic_ns() // 1000 % 10**6:06d}Z"

    def add_pipeline(self, name: str, *versions: str) -> Values:
        pipeline = {"pipeline_id": str(uuid.uuid4()), "name": name, "display_name": name, "created_at": self.now()}
        self.pipelines.append(pipeline)
        for version in versions:
            self.add_version(pipeline["pipeline_id"], version)
        return pipeline

    def add_version(self, pipeline: str, name: str) -> Values:
        if any((one["pipeline_id"], one["name"]) == (pipeline, name) for one in self.versions):
            raise RefusedError(409, f"Failed to create a pipeline version: Already exist. The name {name} exists")
        version = {"pipeline_id": pipeline, "pipeline_version_id": str(uuid.uuid4()), "name": name, "display_name": name,
                   "created_at": self.now()}
        self.versions.append(version)
        return version


class RefusedError(Exception):
    """Ends a request with a status and a message."""


def listed(server: Server, values: list[Values], part: str, query: Values) -> Values:
    """A page of what fits the filter."""
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        assert predicate["operation"] == "EQUALS"
        values = [one for one in values if one[predicate["key"]] == predicate["stringValue"]]
    start, size = int(query.get("page_token") or 0), min(server.page, int(query.get("page_size") or 10))
    more = str(start + size) if start + size < len(values) else ""
    return {part: values[start : start + size], "total_size": len(values), "next_page_token": more}


def create_experiment(server: Server, part: Values, query: Values, body: Any) -> Values:
    if any(one["display_name"] == body["display_name"] for one in server.experiments):
        raise RefusedError(409, f"Failed to create a new experiment. The name {body['display_name']} already exists.")
    made = {**body, "experiment_id": str(uuid.uuid4()), "created_at": server.now()}
    server.experiments.append(made)
    return made


def create_run(server: Server, part: Values, query: Values, body: Any) -> Values:
    wanted = body["pipeline_version_reference"]["pipeline_version_id"]
    if not any(version["pipeline_version_id"] == wanted for version in server.versions):
        raise RefusedError(404, "pipeline version not found")
    made = {**body, "run_id": str(uuid.uuid4()), "state": "PENDING", "created_at": server.now(), "storage_state": "AVAILABLE"}
    server.runs.append(made)
    return made


def get_run(server: Server, part: Values, query: Values, body: Any) -> Values:
    run = next((one for one in server.runs if one["run_id"] == part["id"]), None)
    if run is None:
        raise RefusedError(404, "run not found")
    if server.script:
        run |= server.script.pop(0)
    return run


def delete_run(server: Server, part: Values, query: Values, body: Any) -> Values:
    server.runs = [one for one in server.runs if one["run_id"] != part["id"]]
    return {}


def upload(server: Server, part: Values, query: Values, body: Any) -> Values:
    if any(one["name"] == query["name"] for one in server.pipelines):
        raise RefusedError(409, f"Failed to create a pipeline: Already exist. The name {query['name']} exists")
    return server.add_pipeline(query["name"], query["name"])  # its first version is called as it is


def upload_version(server: Server, part: Values, query: Values, body: Any) -> Values:
    return server.add_version(query["pipelineid"], query["name"]) | {"spec_bytes": len(body)}


def versions_of(server: Server, part: Values, query: Values, body: Any) -> Values:
    found = [one for one in server.versions if one["pipeline_id"] == part["id"]]
    if query.get("sort_by") == "created_at desc":
        found.sort(key=lambda one: one["created_at"], reverse=True)
    return listed(server, found, "pipeline_versions", query)


def runs_of(server: Server, part: Values, query: Values, body: Any) -> Values:
    return listed(server, [one for one in server.runs if query.get("experiment_id") in (None, one["experiment_id"])], "runs", query)


ROUTES: dict[str, tuple[str, Callable[[Server, Values, Values, Any], Values]]] = {
    "healthz": (f"GET {API}/healthz", lambda *_: {"multi_user": False}),
    "list_pipelines": (f"GET {API}/pipelines", lambda server, part, query, body: listed(server, server.pipelines, "pipelines", query)),
    "list_versions": (f"GET {API}/pipelines/(?P<id>[^/]+)/versions", versions_of),
    "upload": (f"POST {API}/pipelines/upload", upload),
    "upload_version": (f"POST {API}/pipelines/upload_version", upload_version),
    "list_experiments": (f"GET {API}/experiments",
                         lambda server, part, query, body: listed(server, server.experiments, "experiments", query)),
    "create_experiment": (f"POST {API}/experiments", create_experiment),
    "list_runs": (f"GET {API}/runs", runs_of),
    "create_run": (f"POST {API}/runs", create_run),
    "get_run": (f"GET {API}/runs/(?P<id>[^/]+)", get_run),
    "delete_run": (f"DELETE {API}/runs/(?P<id>[^/]+)", delete_run),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def handle_request(self) -> None:
        server: Server = self.server.state  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = f"{self.command} {parts.path}"
        step, match = next(((step, found) for step in ROUTES if (found := re.fullmatch(ROUTES[step][0], request))), ("", None))
        time.sleep(server.slow.get(step, 0.0))
        with server.lock:
            server.steps.append(step)
            fault = server.faults[step].pop() if server.faults.get(step) else 200
            try:
                if fault == 0:
                    self.close_connection = True
                    return
                if fault not in (200, -1):
                    raise RefusedError(fault, f"no {step} today")
                if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
                    raise RefusedError(401, "Request header error: there is no user identity header.")
                if match is None:
                    raise RefusedError(404, f"no route {request}")
                status, content = 200, ROUTES[step][1](server, match.groupdict(), query, self.body_of(raw))
                if fault == -1:
                    self.close_connection = True
                    return
            except RefusedError as error:
                status, content = error.args[0], {"error": error.args[1], "code": 7, "message": error.args[1]}
        data = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def body_of(self, raw: bytes) -> Any:
        """JSON, or the file of an upload."""
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/"):
            return json.loads(raw or b"null")
        message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + raw)
        return next(part.get_payload(decode=True) for part in message.walk() if part.get_filename())

    do_GET = do_POST = do_DELETE = handle_request  # noqa: N815
    log_message = lambda *_: None  # noqa: E731


@contextmanager
def pipelines_server(token: str = "") -> Iterator[Server]:
    """Serve the API on a free port of loopback."""
    state = Server(token=token)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.state = state  # type: ignore[attr-defined]
        state.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        server.shutdown()
