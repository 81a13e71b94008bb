"""What leaves with the images: digests of a registry, a bill of materials, no secrets."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from components.images import DATA
from med42.cli.compile import compile_recipe
from med42.cli.containers import Containers, make_folders
from med42.cli.main import app
from med42.cluster.image_lock import load_image_lock
from med42.cluster.profile import STAGES, load_profile
from med42.lineage.provenance import stages_digest
from med42.recipe import load_recipe

ROOT = Path(__file__).parents[2]
SETS = ("data", "train", "evaluate", "release")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """The address of a container registry of our own on loopback."""
    if not (program := shutil.which("docker-registry")):
        pytest.skip("no docker-registry program (Debian package docker-registry)")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(folder / "data")}}
    (folder / "config.yml").write_text(yaml.safe_dump({"version": 0.1, "http": {"addr": address}, "storage": storage}))
    with subprocess.Popen((program, "serve", folder / "config.yml"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://{address}/v2/").close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
        server.terminate()


@pytest.fixture(scope="module")
def pushed(engine, registry, tmp_path_factory):
    """The lock file of images that were pushed: one image's content under the names of all four, as layers of torch take minutes."""
    lock = tmp_path_factory.mktemp("pushed") / "digests.lock"
    for name in SETS:
        engine.images.get(DATA).tag(f"med42-{name}", "pushed-by-a-test")
    try:
        done = push(registry, lock)
        assert done.returncode == 0, done.stderr
        yield lock
    finally:
        for name in SETS:
            engine.images.remove(f"med42-{name}:pushed-by-a-test")
            engine.images.remove(f"{registry}/med42-{name}:pushed-by-a-test")


def push(registry, lock):
    asked = {**os.environ, "VERSION": "pushed-by-a-test", "LOCK": str(lock)}
    return subprocess.run([ROOT / "images" / "push", registry], env=asked, capture_output=True, text=True, check=False)


def test_a_pushed_image_is_compiled_in_by_its_digest(pushed, registry, tmp_path):
    lock = load_image_lock(pushed, stages_digest())
    assert set(lock.images) == set(SETS)
    compile_recipe(load_recipe("tiny"), load_profile("default"), tmp_path / "tiny.yaml", lock)
    executors = next(yaml.safe_load_all((tmp_path / "tiny.yaml").read_text()))["deploymentSpec"]["executors"]
    for executor in executors.values():
        stage = executor["container"]["args"][-1]
        reference = executor["container"]["image"]
        assert reference.startswith(f"{registry}/med42-{STAGES[stage]}@sha256:")
        assert {"name": "MED42_IMAGE", "value": reference} in executor["container"]["env"]


def test_a_stage_runs_from_the_registry_by_digest_and_another_digest_is_refused(engine, pushed, tmp_path, refusal):
    make_folders(tmp_path / "work/runs/r")
    containers = Containers(engine, load_recipe("tiny"), load_profile("default"), tmp_path / "work", tmp_path / "work/runs/r", None, "")
    reference = load_image_lock(pushed, stages_digest()).images["data"]
    engine.images.remove(reference)
    containers.check([reference])
    name, _, digest = reference.partition("@sha256:")
    told = refusal(lambda: containers.check([f"{name}@sha256:{digest[::-1]}"]))
    assert "the registry refuses" in told and "images/digests.lock" in told


def test_a_registry_that_refuses_leaves_the_old_lock(engine, pushed, tmp_path):
    (tmp_path / "digests.lock").write_text("before")
    for name in SETS:
        engine.images.get(DATA).tag(f"med42-{name}", "pushed-by-a-test")
    refused = push("127.0.0.1:9", tmp_path / "digests.lock")
    assert refused.returncode == 1
    assert "127.0.0.1:9/med42-data:pushed-by-a-test: the registry refuses" in refused.stderr
    assert (tmp_path / "digests.lock").read_text() == "before"


def test_compiling_wants_digests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, ["compile", "tiny", "-o", "tiny.yaml"])
    assert refused.exit_code == 1 and not Path("tiny.yaml").exists()
    assert CliRunner().invoke(app, ["compile", "tiny", "-o", "tiny.yaml", "--allow-tags"]).exit_code == 0


@pytest.mark.parametrize(("content", "words"), [
    ({"code": "0" * 64, "images": {}}, "images of other code (000000000000)"),
    ({"code": "short", "images": {}}, "what make push writes"),
    ({"code": "0" * 64, "images": {"gpu": "x"}}, "what make push writes"),
])
def test_a_lock_of_other_code_or_shape_is_refused(tmp_path, refusal, content, words):
    (tmp_path / "digests.lock").write_text(json.dumps(content))
    assert words in refusal(lambda: load_image_lock(tmp_path / "digests.lock", stages_digest()))


def test_a_reference_by_tag_is_refused(tmp_path, refusal):
    (tmp_path / "digests.lock").write_text(json.dumps({"code": stages_digest(), "images": {"data": "registry/med42-data:1"}}))
    lock = load_image_lock(tmp_path / "digests.lock", stages_digest())
    assert "a reference by digest" in refusal(lambda: lock.pinned("data"))


def test_a_bill_of_materials_names_python_and_debian_packages(engine, tmp_path):
    done = subprocess.run([ROOT / "images/sbom/write", tmp_path, "release"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "med42-release.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    purls = {component.get("purl", "") for component in bill["components"]}
    required = (ROOT / "images/release/requirements.txt").read_text()
    for name, version in (("pyarrow", "26"), ("google-cloud-storage", "3.17.1")):
        assert f"{name}==" in required and any(purl.startswith(f"pkg:pypi/{name}@{version}") for purl in purls)
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in purls)


def test_no_layer_holds_a_secret_and_a_planted_one_is_found(engine):
    def scan(image):
        return subprocess.run([ROOT / "images/scan", image], capture_output=True, text=True, check=False)

    assert (clean := scan(DATA)).returncode == 0, clean.stdout
    planted = "med42-data:planted-by-a-test"
    token = "hf_" + "aB3dE6gH1j" * 3 + "kLm4"
    container = engine.containers.run(DATA, ["sh", "-c", f"echo token={token} > /opt/settings && touch /opt/.netrc"], user="0", detach=True)
    container.wait()
    container.commit("med42-data", "planted-by-a-test", changes=["ENV HUB_TOKEN=abc"])
    container.remove()
    try:
        found = scan(planted)
    finally:
        engine.images.remove(planted)
    assert found.returncode == 1
    for words in ("/opt/settings: a Hugging Face token", "/opt/.netrc: a file of that name", "settings: HUB_TOKEN"):
        assert words in found.stdout
