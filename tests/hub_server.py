"""A small hub on loopback, for tests: what `huggingface_hub` 2.4 asks of one, with faults on demand.

It keeps model and data set repositories in memory (whole commits; branches and tags as names of commits) and speaks
the plain HTTP side of the protocol. The newer chunk storage ("xet") is not spoken: clients need HF_HUB_DISABLE_XET=1.

    with hub_server(token="...") as hub:
        hub.add("acme/rows", {"train.jsonl": b"..."}, kind="dataset")
        hub.fail("commit", status=503, times=1)
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

Files = dict[str, bytes]


@dataclass
class Hub:
    """The server's state, for a test to set up and to look at.

    Attributes:
        token: what requests must bear, but for uploads to a link and the check of a card; "" for an open hub.
        repositories: by kind and id: `private`; `commits`, whole, by id; `refs`, the commit of each branch or tag.
        requests: every request seen, as `POST /api/repos/create`.
        steps: for each of them its key in ROUTES.
        garbled: paths whose content is stored changed, as by a faulty disk.
        meanwhile: what happens, once, just before a step is answered.
        lost: how many commits are made but answered with 503.
    """

    endpoint: str
    token: str
    repositories: dict[tuple[str, str], SimpleNamespace] = field(default_factory=dict)
    blobs: Files = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    garbled: set[str] = field(default_factory=set)
    faults: dict[str, list[int]] = field(default_factory=dict)
    meanwhile: dict[str, Callable[[], object]] = field(default_factory=dict)
    lost: int = 0

    def add(self, repo: str, files: Files, kind: str = "model", private: bool = False, branch: str = "main") -> str:
        """Make a commit, and the repository if need be; returns the commit's id."""
        repository = self.repositories.setdefault((kind, repo), SimpleNamespace(private=private, commits={}, refs={}, tags={}))
        content = f"{len(repository.commits)} {sorted((path, file_id(data)) for path, data in files.items())}"
        commit = hashlib.sha1(content.encode()).hexdigest()
        repository.commits[commit], repository.refs[branch] = files, commit
        return commit

    def find(self, repo: str, kind: str = "model", revision: str = "main") -> tuple[str, Files]:
        """Commit id and files at a branch, tag or commit."""
        repository = self.repositories.get((kind, repo)) or refuse(404, "Repository not found", "RepoNotFound")
        commit = repository.refs.get(revision, revision)
        return commit, repository.commits[commit] if commit in repository.commits else refuse(404, "no such revision", "RevisionNotFound")

    def fail(self, step: str, status: int, times: int = 100) -> None:
        """Answer the next requests of a step (a key of ROUTES) with a status; 0 hangs up without an answer."""
        self.faults[step] = [status] * times


class RefusedError(Exception):
    """Ends a request: HTTP status, words, the hub's own code."""


def refuse(status: int, words: str, code: str = "") -> Any:
    raise RefusedError(status, words, code)


def is_large(data: bytes) -> bool:
    """Whether content is kept as a large file (LFS): binary, or more than a megabyte."""
    return b"\0" in data[:512] or len(data) > 1_000_000


def file_id(data: bytes) -> str:
    """What the hub calls content by: its SHA-256 if large, else git's name for it."""
    return hashlib.sha256(data).hexdigest() if is_large(data) else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


# --- what each request does: the hub, the named parts of the path, the body -> an answer ---------


def create(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    asked = json.loads(body)
    kind, repo = asked.get("type") or "model", f"{asked.get('organization') or 'tester'}/{asked['name']}"
    if new := (kind, repo) not in hub.repositories:
        hub.add(repo, {".gitattributes": b"*.safetensors filter=lfs\n"}, kind, asked.get("visibility") == "private")
    return 200 if new else 409, {"url": f"{hub.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo}"}, {}


def check_card(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.S)
    values = yaml.safe_load(front[1]) if front else {}
    return {"warnings": []} if values.get("license") else (400, {"errors": [{"message": "license is missing"}]}, {})


def preupload(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    present = hub.find(part.repo, part.kind, part.revision)[1]
    return {"files": [
        {"path": file["path"], "oid": file_id(present[file["path"]]) if file["path"] in present else None, "shouldIgnore": False,
         "uploadMode": "lfs" if file["size"] > 1_000_000 or is_large(base64.b64decode(file["sample"])) else "regular"}
        for file in json.loads(body)["files"]
    ]}


def lfs(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    hub.find(part.repo, part.kind)
    objects = json.loads(body)["objects"]
    for wanted in objects:
        if wanted["oid"] not in hub.blobs:
            wanted["actions"] = {"upload": {"href": f"{hub.endpoint}/upload/{wanted['oid']}"}}
    return {"transfer": "basic", "objects": objects}


def upload(hub: Hub, part: SimpleNamespace, body: bytes) -> None:
    hub.blobs[part.oid] = body if hashlib.sha256(body).hexdigest() == part.oid else refuse(400, "content that is not its sha256's")


def commit(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    head, present = hub.find(part.repo, part.kind, part.revision)
    files = dict(present)
    for line in map(json.loads, body.splitlines()):
        value, path = line["value"], line["value"].get("path")
        if line["key"] == "header" and value.get("parentCommit") not in (None, head):
            refuse(412, "A commit has happened since. Please refresh and try again.")
        if line["key"] == "file":
            files[path] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[path] = hub.blobs[value["oid"]] if value["oid"] in hub.blobs else refuse(400, f"{path} was not uploaded")
        elif line["key"] == "deletedFile":
            del files[path]
        if path in hub.garbled:
            files[path] += b" "
    made = hub.add(part.repo, files, part.kind, branch=part.revision)
    if hub.lost:
        hub.lost -= 1
        refuse(503, "the answer was lost, the commit was not")
    return {"success": True, "commitOid": made, "commitUrl": f"{hub.endpoint}/{part.repo}/commit/{made}", "hookOutput": ""}


def branch(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    refs = hub.repositories[part.kind, part.repo].refs
    if part.name in refs:
        return 409, {"error": "Reference already exists"}, {}
    refs[part.name] = hub.find(part.repo, part.kind, json.loads(body).get("startingPoint", "main"))[0]
    return {}


def leave_branch(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    del hub.repositories[part.kind, part.repo].refs[part.name]
    return {}


def tag(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    repository, name = hub.repositories[part.kind, part.repo], json.loads(body)["tag"]
    if name in repository.tags:
        return 409, {"error": "Tag already exists"}, {}
    repository.tags[name] = repository.refs[name] = hub.find(part.repo, part.kind, part.revision)[0]
    return {}


def refs(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    repository = hub.repositories.get((part.kind, part.repo)) or refuse(404, "Repository not found", "RepoNotFound")
    heads = {name: commit for name, commit in repository.refs.items() if name not in repository.tags}
    return {"converts": [], "branches": [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": at} for name, at in heads.items()],
            "tags": [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": at} for name, at in repository.tags.items()]}


def settings(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    vars(hub.repositories[part.kind, part.repo]).update(json.loads(body))
    return {}


def info(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    made, files = hub.find(part.repo, part.kind, part.revision or "main")
    siblings = [{"rfilename": path} for path in sorted(files)]
    return {"id": part.repo, "sha": made, "private": hub.repositories[part.kind, part.repo].private, "tags": [], "siblings": siblings}


def tree(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    return [
        {"type": "file", "path": path, "size": len(data), "oid": file_id(data)}
        | ({"lfs": {"oid": file_id(data), "size": len(data), "pointerSize": 134}} if is_large(data) else {})
        for path, data in sorted(hub.find(part.repo, part.kind, part.revision)[1].items())
    ]


def resolve(hub: Hub, part: SimpleNamespace, body: bytes) -> Any:
    made, files = hub.find(part.repo, part.kind, part.revision)
    data = files[part.path] if part.path in files else refuse(404, "Entry not found", "EntryNotFound")
    return 200, data, {"ETag": f'"{file_id(data)}"', "X-Repo-Commit": made}


API = r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)"
PLAIN = r"/(?:(?P<kind>dataset)s/)?(?P<repo>[^/]+/[^/]+?)"
ROUTES: dict[str, tuple[str, Callable[[Hub, SimpleNamespace, bytes], Any]]] = {
    "whoami": ("GET /api/whoami-v2", lambda hub, part, body: {"type": "user", "name": "tester", "orgs": [{"name": "acme"}]}),
    "create": ("POST /api/repos/create", create),
    "card": ("POST /api/validate-yaml", check_card),
    "preupload": (f"POST {API}/preupload/(?P<revision>[^/]+)", preupload),
    "lfs": (rf"POST {PLAIN}\.git/info/lfs/objects/batch", lfs),
    "upload": ("PUT /upload/(?P<oid>[0-9a-f]{64})", upload),
    "branch": (f"POST {API}/branch/(?P<name>[^/]+)", branch),
    "leave_branch": (f"DELETE {API}/branch/(?P<name>[^/]+)", leave_branch),
    "tag": (f"POST {API}/tag/(?P<revision>[^/]+)", tag),
    "refs": (f"GET {API}/refs", refs),
    "settings": (f"PUT {API}/settings", settings),
    "commit": (f"POST {API}/commit/(?P<revision>[^/]+)", commit),
    "tree": (f"GET {API}/tree/(?P<revision>[^/]+)", tree),
    "info": (f"GET {API}(?:/revision/(?P<revision>[^/]+))?", info),
    "resolve": (f"(?:GET|HEAD) {PLAIN}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one packet: head and body apart wait for one another, 40 ms each time

    def handle_request(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = f"{self.command} {unquote(urlsplit(self.path).path)}"
        step, match = next(((step, found) for step in ROUTES if (found := re.fullmatch(ROUTES[step][0], request))), ("", None))
        hub.requests.append(request)
        hub.steps.append(step)
        if happens := hub.meanwhile.pop(step, None):
            happens()
        status = hub.faults[step].pop() if hub.faults.get(step) else 200
        if status == 0:
            self.close_connection = True
            return
        try:
            if match is None or status != 200:
                refuse(status if match else 404, f"no {step or request} today")
            if hub.token and step not in ("upload", "card") and self.headers.get("Authorization") != f"Bearer {hub.token}":
                refuse(401, "Invalid username or password.")
            part = match.groupdict()
            answer = ROUTES[step][1](hub, SimpleNamespace(**part | {"kind": part.get("kind") or "model"}), body)
        except RefusedError as error:
            status, words, code = error.args
            answer = status, {"error": words}, {"X-Error-Code": code} if code else {}
        status, content, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815
    log_message = lambda *_: None  # noqa: E731


@contextmanager
def hub_server(token: str = "") -> Iterator[Hub]:
    """Serve a hub on a free port of loopback."""
    hub = Hub("", token)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.hub = hub  # type: ignore[attr-defined]
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        server.shutdown()


def use_hub(hub: Hub, monkeypatch: Any, cache: Path) -> None:
    """Point this process's client at a hub, with its token and an empty cache; its own retries do not wait.

    The client reads its environment when first imported, in a run of many tests long ago, so what it read is
    replaced. A new process is told by HF_ENDPOINT, HF_HUB_DISABLE_XET, HF_HOME and HF_TOKEN.
    """
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils import _http

    read = {"ENDPOINT": hub.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(cache), "HF_TOKEN_PATH": str(cache / "token")}
    for name, value in read.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    _http.close_session()
