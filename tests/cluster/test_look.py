"""Preflight's look at a cluster, through the real Kubernetes client, against an API server of ours on loopback."""

import datetime
import json
import re
import threading
from collections.abc import Iterator
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from signing import make_key

from med42 import preflight
from med42.cluster import look
from med42.cluster.profile import PROFILE_VARIABLE, PUBLIC_KEY_VARIABLE, Profile, load_profile
from med42.errors import Med42Error
from med42.lineage.journal import Job
from med42.recipe import load_recipe
from med42.recipe.derived import shape_of

GKE, KUEUE = load_profile("gke"), load_profile("onprem-kueue")
PAPER = load_recipe("llama3-70b")
NAMESPACE = "med42"


def claim(name: str, phase: str, storage_class: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "status": {"phase": phase},
            "spec": {"storageClassName": storage_class, "resources": {"requests": {"storage": "10Ti"}}}}


class Server:
    """What the API server has and allows; a test takes away what it is about."""

    def __init__(self) -> None:
        self.skew, self.status, self.denied = 0.0, 0, set[str]()
        self.groups = {"trainer.kubeflow.org": ["v1alpha1"], "kueue.x-k8s.io": ["v1beta1", "v1beta2"]}
        self.objects: dict[str, Any] = {
            f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/med42-work": claim("med42-work", "Bound", "med42-filestore"),
            "/apis/storage.k8s.io/v1/storageclasses/med42-filestore": {
                "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "med42-filestore"}, "provisioner": "x"},
            "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/med42-torch": {"metadata": {"name": "med42-torch"}},
            f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{NAMESPACE}/localqueues/med42": {"spec": {"clusterQueue": "team"}},
        }
        self.nodes = {"med42.io/pool=general": 2, "med42.io/pool=h100": 0, "med42.io/pool=h100-spot": 0}
        self.asked: list[str] = []

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if self.status:
            return self.status, {"kind": "Status", "message": "no"}
        if path == "/version/":
            return 200, {"major": "1", "minor": "33", "gitVersion": "v1.33.1", "gitCommit": "", "gitTreeState": "", "buildDate": "",
                         "goVersion": "", "compiler": "", "platform": ""}
        if path == "/apis/":
            return 200, {"kind": "APIGroupList", "groups": [
                {"name": name, "versions": [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]}
                for name, versions in self.groups.items()]}
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            told = body["spec"]["resourceAttributes"]
            asked = f"{told['verb']} {told['resource']}" + (f"/{told['subresource']}" if "subresource" in told else "")
            return 201, {**body, "status": {"allowed": asked not in self.denied and told["namespace"] == NAMESPACE}}
        if path == "/api/v1/nodes":
            if "list nodes" in self.denied:
                return 403, {"kind": "Status", "message": "forbidden"}
            count = self.nodes.get(query["labelSelector"][0], 0)
            return 200, {"kind": "NodeList", "items": [{"metadata": {"name": f"node-{number}"}} for number in range(count)]}
        found = self.objects.get(path)
        return (200, found) if found else (404, {"kind": "Status", "message": "not found"})


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    from kubernetes import client as kubernetes

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, told = server.answer(self.command, asked.path, parse_qs(asked.query), body)
            content = json.dumps(told).encode()
            self.send_response_only(status)
            now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=server.skew)
            self.send_header("Date", format_datetime(now, usegmt=True))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        configuration = kubernetes.Configuration(host=f"http://127.0.0.1:{listening.server_address[1]}")
        configuration.retries = False
        yield kubernetes.ApiClient(configuration)
        listening.shutdown()


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    """All secrets of the profile are there."""
    for secret in GKE.secrets:
        monkeypatch.setenv(secret.seen_as, "x")


def looked(client: Any, profile: Profile = GKE, recipe: Any = PAPER, pushes: bool = True) -> dict[str, str | Med42Error]:
    """What every check found, or the error it ended in."""
    found: dict[str, str | Med42Error] = {}
    for check, look_at in look.checks_on(recipe, profile, pushes, client, NAMESPACE):
        try:
            found[check] = look_at()
        except Med42Error as error:
            found[check] = error
    return found


def bad(found: dict[str, str | Med42Error]) -> dict[str, str]:
    return {check: str(told) for check, told in found.items() if isinstance(told, Med42Error)}


def test_all_is_there(client):
    found = looked(client)
    assert bad(found) == {}
    assert list(found) == ["secret med42-hub-read", "secret med42-hub-write", "clock", "volume med42-work", "Kubeflow Trainer",
                           "permissions", "pool general", "pool h100", "pool h100-spot"]
    assert found["volume med42-work"] == "Bound, 10Ti, class med42-filestore"
    assert "v1.33.1" in found["clock"]
    assert found["pool h100"] == "0 nodes with med42.io/pool=h100, more when they are asked for"


def test_only_what_the_recipe_needs_is_looked_at(client, server):
    found = looked(client, load_profile("kind"), load_recipe("tiny"), pushes=False)
    assert list(found) == ["clock", "volume med42-work", "pool general"]
    assert bad(found) == {}


def test_a_missing_secret_is_named(client, monkeypatch):
    monkeypatch.delenv("MED42_HAS_MED42_HUB_WRITE")
    monkeypatch.delenv("MED42_HAS_MED42_HUB_READ")
    found = looked(client)
    assert list(bad(found)) == ["secret med42-hub-write"]
    assert "kubectl create secret generic med42-hub-write --from-literal=token=" in bad(found)["secret med42-hub-write"]
    assert found["secret med42-hub-read"] == "not there; only what is public can be fetched"
    assert bad(looked(client, pushes=False)) == {}


def test_a_missing_signing_key_is_named_where_the_recipe_asks_for_one(client, monkeypatch, tmp_path):
    signs = load_recipe("llama3-70b", ["audit.signed=true"])
    monkeypatch.delenv(PUBLIC_KEY_VARIABLE, raising=False)
    told = bad(looked(client, recipe=signs))
    assert list(told) == ["secret med42-signing"]
    assert "expected one with key.pem, key.pub for push_model and seal_audit" in told["secret med42-signing"]
    assert "generic med42-signing --from-file=key.pem --from-file=key.pub" in told["secret med42-signing"]
    certified = Profile.model_validate(GKE.model_dump() | {"signing": {"certificate": "certificate.pem"}})
    assert "--from-file=certificate.pem" in bad(looked(client, certified, signs))["secret med42-signing"]

    public = make_key(tmp_path).with_suffix(".pub").read_text()
    monkeypatch.setenv(PUBLIC_KEY_VARIABLE, public)
    assert re.fullmatch(r"there, for key [0-9a-f]{16}", str(looked(client, recipe=signs)["secret med42-signing"]))
    monkeypatch.setenv(PUBLIC_KEY_VARIABLE, "nothing")
    assert "secret med42-signing, key.pub: found no key" in bad(looked(client, recipe=signs))["secret med42-signing"]
    for recipe in (PAPER, load_recipe("llama3-70b", ["audit.signed=sigstore"])):
        assert "secret med42-signing" not in looked(client, recipe=recipe)


def test_a_missing_claim_is_named(client, server):
    del server.objects[f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/med42-work"]
    assert "volume med42-work: found no such claim in namespace med42" in bad(looked(client))["volume med42-work"]


def test_a_claim_that_waits_for_a_class_that_is_not_there(client, server):
    path = f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims/med42-work"
    server.objects[path] = claim("med42-work", "Pending", "fast")
    assert "storage class fast: found no such class" in bad(looked(client))["volume med42-work"]
    server.objects[path] = claim("med42-work", "Pending", "med42-filestore")  # bound when the first pod comes
    assert bad(looked(client)) == {}
    server.objects[path] = claim("med42-work", "Lost", "med42-filestore")
    assert "its volume is gone" in bad(looked(client))["volume med42-work"]


@pytest.mark.parametrize(("versions", "words"), [
    (None, "found no API group trainer.kubeflow.org; expected trainer.kubeflow.org/v1alpha1"),
    (["v2alpha1"], "found trainer.kubeflow.org in versions v2alpha1; expected trainer.kubeflow.org/v1alpha1"),
])
def test_a_wrong_version_of_trainer_is_told(client, server, versions, words):
    server.groups = {"trainer.kubeflow.org": versions} if versions else {}
    assert words in bad(looked(client))["Kubeflow Trainer"]


def test_a_missing_runtime_is_named(client, server):
    del server.objects["/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/med42-torch"]
    assert "kubectl apply -k manifests/trainer" in bad(looked(client))["Kubeflow Trainer"]


def test_missing_rights_name_verb_and_resource(client, server):
    server.denied = {"create trainjobs", "get pods/log"}
    told = bad(looked(client))["permissions"]
    assert "no right to create trainjobs.trainer.kubeflow.org, get pods/log in namespace med42" in told
    server.denied = {"list nodes"}
    assert "verb 'list' on 'nodes'" in bad(looked(client))["pool general"]


def test_queues_are_looked_for(client, server):
    server.nodes["med42.io/pool=h100"] = 4
    assert looked(client, KUEUE)["queue med42"] == "hands out what ClusterQueue team has"
    server.objects = {path: told for path, told in server.objects.items() if "localqueues" not in path}
    assert "queue med42: found no such LocalQueue in namespace med42" in bad(looked(client, KUEUE))["queue med42"]
    server.groups["kueue.x-k8s.io"] = ["v1beta1"]
    assert "kueue.x-k8s.io in versions v1beta1; expected kueue.x-k8s.io/v1beta2" in bad(looked(client, KUEUE))["queue med42"]


def test_a_pool_without_nodes_is_told_unless_they_come_when_asked_for(client, server):
    server.nodes = {}
    assert list(bad(looked(client))) == ["pool general"]
    assert "no node with med42.io/pool=general" in bad(looked(client))["pool general"]
    assert list(bad(looked(client, KUEUE))) == ["pool general", "pool h100"]


@pytest.mark.parametrize(("skew", "bad_clock"), [(-200, False), (900, True), (-900, True)])
def test_clocks_that_are_apart_are_told(client, server, skew, bad_clock):
    server.skew = skew
    found = looked(client)
    assert ("clock" in bad(found)) == bad_clock
    assert ("ahead of" if skew > 0 else "behind") in str(found["clock"])


def test_a_server_that_refuses_or_is_away_is_told(client, server):
    server.status = 401
    assert "the API server refuses with 401" in bad(looked(client))["clock"]
    client.configuration.host = "http://127.0.0.1:9"
    assert "no answer from the API server" in bad(looked(client))["clock"]


def test_preflight_tells_what_it_saw_and_goes_without_the_volume(client, server, monkeypatch, tmp_path):
    """The whole stage, as in a pod: the store lies on a volume that this pod does not have."""
    monkeypatch.setenv(PROFILE_VARIABLE, load_profile("kind").model_dump_json(exclude_defaults=True))
    monkeypatch.setattr(look, "connect", lambda: client)
    (tmp_path / "namespace").write_text(NAMESPACE)
    monkeypatch.setattr(look, "NAMESPACE", tmp_path / "namespace")
    tiny, job = load_recipe("tiny"), Job("run", tmp_path / "nowhere" / "store", push_to="directory:/med42/releases/tiny")
    preflight.preflight(tiny, shape_of(tiny), job, tmp_path / "told.md", tmp_path / "told.html")
    assert "| volume med42-work | ok | Bound, 10Ti, class med42-filestore |" in (tmp_path / "told.md").read_text()
    assert not (tmp_path / "nowhere").exists()
    server.nodes = {}
    with pytest.raises(Med42Error, match="pool general: pool general: found no node with"):
        preflight.preflight(tiny, shape_of(tiny), job, tmp_path / "told.md", tmp_path / "told.html")
    assert "| pool general | FAILED |" in (tmp_path / "told.md").read_text()


def test_outside_of_a_pod_preflight_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv(PROFILE_VARIABLE, load_profile("kind").model_dump_json(exclude_defaults=True))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    tiny = load_recipe("tiny")
    [verdict] = [verdict for verdict in preflight.verdicts_on(tiny, shape_of(tiny), Job("run"), tmp_path / "x") if not verdict.passed]
    assert verdict.check == "cluster" and "no service account" in verdict.found
