"""The scripts of the cluster on this machine, as far as they go without one."""

import importlib.util
import io
import json
import os
import subprocess
import tarfile
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from med42.cluster.profile import load_profile
from med42.lineage.artifact import Outcome, Plan, produce
from med42.lineage.journal import Job

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("kind_run", ROOT / "kind" / "run.py")
kind_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kind_run)


@pytest.fixture
def bare_path(tmp_path):
    """A PATH with what a shell script itself needs, and none of the tools of a cluster."""
    for tool in ("bash", "sed", "dirname", "grep"):
        place = next(Path(folder) / tool for folder in os.environ["PATH"].split(":") if (Path(folder) / tool).exists())
        (tmp_path / tool).symlink_to(place)
    return tmp_path


@pytest.mark.parametrize(("script", "tools"), [
    ("up", ["docker", "kind", "kubectl", "helm", "git"]), ("run", ["docker", "kind", "kubectl", "curl"]), ("down", ["docker", "kind"]),
])
def test_missing_tools_are_all_named_before_anything_is_begun(bare_path, script, tools):
    told = subprocess.run([ROOT / "kind" / script], capture_output=True, text=True, env={"PATH": str(bare_path)}, check=False)
    assert told.returncode == 1 and told.stdout == ""
    for tool in tools:
        assert f"{tool}: not on the PATH; needed" in told.stderr
    assert "nothing was begun" in told.stderr


def tool(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_small_engine_and_missing_images_are_named(bare_path):
    for name in ("kind", "kubectl", "helm", "git"):
        tool(bare_path, name, "echo touched >&2; exit 1")
    tool(bare_path, "docker", 'case $1 in info) echo 4000000000;; *) exit 1;; esac')
    told = subprocess.run([ROOT / "kind" / "up"], capture_output=True, text=True, env={"PATH": str(bare_path)}, check=False)
    assert told.returncode == 1 and "touched" not in told.stderr
    assert "docker: 4 GB of memory for its containers; expected 12 or more" in told.stderr
    for name in ("data", "train", "evaluate", "release"):
        assert f"med42-{name}:0.1.0: no such image; run `make images VARIANT=cpu` first" in told.stderr


def test_down_twice_is_well(bare_path):
    tool(bare_path, "docker", "exit 0")
    tool(bare_path, "kind", 'test "$1" = get && exit 0; echo removed; exit 1')
    told = subprocess.run([ROOT / "kind" / "down"], capture_output=True, text=True, env={"PATH": str(bare_path)}, check=False)
    assert (told.returncode, told.stdout) == (0, "med42: no such cluster; nothing to take away\n")


def test_the_clusters_nodes_are_the_profiles_pools():
    nodes = yaml.safe_load((ROOT / "kind" / "cluster.yaml").read_text())["nodes"]
    labelled = [node["labels"] for node in nodes if "labels" in node]
    for pool in load_profile("kind").pools.values():
        assert any(pool.selector.items() <= labels.items() for labels in labelled), pool.selector
    [taint] = [yaml.safe_load(patch)["nodeRegistration"]["taints"][0] for node in nodes for patch in node.get("kubeadmConfigPatches", [])]
    [toleration] = load_profile("kind").pools["gpu"].tolerations
    assert (toleration.key, toleration.effect) == (taint["key"], taint["effect"])


def test_the_bundle_of_the_run_is_found_by_its_digest(tmp_path):
    """Two runs sealed a bundle on the volume; the younger file is the other run's."""
    digests = {}
    for name in ("ours", "other"):
        def build(draft: Path, name: str = name) -> Outcome:
            (draft / f"{name}.med42").write_text(name)
            return Outcome()

        out = tmp_path / "store" / "seal_audit" / name
        digests[name] = produce(Plan("seal_audit", "bundle", {"recipe": name}, {}, "release"), out, Job(name), build).digest
    journal = "".join(json.dumps(event) + "\n" for event in (
        {"name": "preflight", "event": "finished"}, {"name": "seal_audit", "event": "started"},
        {"name": "seal_audit", "event": "finished", "digest": digests["ours"]}))
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        archive.add(tmp_path / "store" / "seal_audit", arcname=".")
    found = kind_run.bundle_of(kind_run.sealed_digest(journal), written.getvalue(), tmp_path / "out")
    assert found.read_text() == "ours"


def test_a_run_without_a_bundle_is_told(tmp_path, refusal):
    told = refusal(lambda: kind_run.sealed_digest('{"name": "preflight", "event": "failed"}\n'))
    assert "1 events, none of a sealed bundle" in told
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    assert "no bundle of this run" in refusal(lambda: kind_run.bundle_of("0" * 64, empty.getvalue(), tmp_path))


class Registry(BaseHTTPRequestHandler):
    """The calls of Kubeflow Pipelines' API by which pipelines and versions are found and uploaded."""

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        parts = path.removeprefix("/apis/v2beta1/").split("/")
        if self.command == "POST":
            self.rfile.read(int(self.headers["Content-Length"]))
            name = query["name"][0]
            self.server.uploads.append(name)
            if parts == ["pipelines", "upload"]:
                self.server.versions["p1"] = [name]
                return self.answer({"pipeline_id": "p1", "display_name": name})
            self.server.versions[query["pipelineid"][0]].append(name)
            return self.answer({"pipeline_id": "p1", "pipeline_version_id": f"v-{name}", "display_name": name})
        if parts == ["pipelines"]:
            [asked] = json.loads(query["filter"][0])["predicates"]
            there = [{"pipeline_id": key, "display_name": asked["stringValue"]} for key in self.server.versions]
            return self.answer({"pipelines": there} if there else {})
        if parts == ["pipelines", "p1", "versions"]:
            return self.answer({"pipeline_versions": [
                {"pipeline_id": "p1", "pipeline_version_id": f"v-{name}", "display_name": name} for name in self.server.versions["p1"]]})
        return self.answer({"multi_user": False})

    do_POST = do_GET  # noqa: N815

    def answer(self, told: dict) -> None:
        content = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_a_version_is_uploaded_once(tmp_path):
    """Through Kubeflow's own client: pipeline and version are registered, then found; another content is a new version."""
    warnings.filterwarnings("ignore")
    from kfp import Client

    (tmp_path / "pipeline.yaml").write_text("pipelineInfo: {name: med42-tiny}\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        server.uploads, server.versions = [], {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = Client(host=f"http://127.0.0.1:{server.server_address[1]}")
        found = [kind_run.version_on_cluster(client, "med42-tiny", version, tmp_path / "pipeline.yaml")
                 for version in ("med42-tiny-a", "med42-tiny-a", "med42-tiny-b")]
        server.shutdown()
    assert found == [("p1", "v-med42-tiny-a"), ("p1", "v-med42-tiny-a"), ("p1", "v-med42-tiny-b")]
    assert server.uploads == ["med42-tiny", "med42-tiny-a", "med42-tiny-b"]
