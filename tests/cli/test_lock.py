"""`med42 lock` as people run it, against the project's own hub, and what preflight says of pins."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from bucket_server import bucket_server
from hub_server import Hub, hub_server, use_hub

from med42.data.buckets import pin_bucket
from med42.lineage.journal import Job
from med42.preflight import Verdict, verdicts_on
from med42.recipe import load_recipe
from med42.recipe.derived import shape_of
from med42.recipe.lock import lockable, read_lock
from med42.recipe.schema import Pin

MED42 = Path(sys.executable).with_name("med42")
LINES = b'{"question": "What is asthma?", "answer": "A disease of the airways."}\n'
WEIGHTS = b"\0" * 2_000_000
BASE = {"config.json": b"{}", "model.safetensors": WEIGHTS}
RECIPE = """
extends: tiny
name: my
base: {kind: hub, repo: acme/base, license: llama3}
sources:
  quad: {domain: medical, family: medquad, license: MIT, rows: 1, origin: {kind: hub, repo: acme/rows, files: ["*.jsonl"]}}
  quad-again: {domain: medical, family: medquad, license: MIT, rows: 1, origin: {kind: hub, repo: acme/rows, files: ["*.jsonl"]}}
  local: {domain: medical, family: medquad, license: MIT, rows: 1, origin: {kind: file, files: [local.jsonl]}}
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as served:
        served.add("acme/rows", {"train.jsonl": LINES}, "dataset")
        served.add("acme/base", {**BASE, "pytorch_model.bin": WEIGHTS}, "model")
        yield served


@pytest.fixture
def here(hub: Hub, tmp_path: Path) -> SimpleNamespace:
    """A folder with a recipe, and the command in it."""
    (tmp_path / "my.yaml").write_text(RECIPE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "local.jsonl").write_bytes(LINES)
    without = ("FORCE_COLOR", "GITHUB_ACTIONS", "PYTHONPATH", "HF_TOKEN")
    environment = {key: value for key, value in os.environ.items() if key not in without}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", "NO_COLOR": "1",
                    "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def med42(*arguments: str) -> Any:
        return subprocess.run([MED42, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return SimpleNamespace(folder=tmp_path, lock=tmp_path / "my.lock", med42=med42)


def test_lock_writes_commits_and_digests_beside_the_recipe(here, hub):
    done = here.med42("lock", "my.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "my.lock written; origins: 3, files: 4, changes: 3" in done.stdout
    assert "not locked, as they are files: sources.local (give --data-root DIR)" in done.stdout
    pins = read_lock(here.lock)
    assert list(pins) == ["base", "sources.quad", "sources.quad-again"] and pins["sources.quad"] == pins["sources.quad-again"]
    assert pins["base"].files == {name: hashlib.sha256(data).hexdigest() for name, data in BASE.items()}
    assert pins["base"].revision == hub.find("acme/base")[0]
    # Large files are pinned by what the hub tells of them; a set that two sources share is asked for once.
    assert not any("safetensors" in request for request in hub.requests)
    assert sum("/tree/" in request for request in hub.requests) == 2
    resolved = json.loads(here.med42("check", "my.yaml", "--json").stdout)
    assert sorted(resolved["pins"]) == list(pins) and resolved["unlocked"] == "refuse"


def test_lock_takes_files_too_and_keeps_their_pins(here):
    assert here.med42("lock", "my.yaml", "--data-root", "data").returncode == 0
    first = here.lock.read_bytes()
    assert read_lock(here.lock)["sources.local"].files == {"local.jsonl": hashlib.sha256(LINES).hexdigest()}
    again = here.med42("lock", "my.yaml")
    assert "my.lock unchanged; origins: 4" in again.stdout and here.lock.read_bytes() == first
    missing = here.med42("lock", "my.yaml", "--data-root", "absent")
    assert missing.returncode == 1 and "no such file" in missing.stderr and here.lock.read_bytes() == first


def test_check_tells_what_moved_and_writes_nothing(here, hub):
    nothing_yet = here.med42("lock", "my.yaml", "--check")
    assert nothing_yet.returncode == 1 and "my.lock differs; origins: 3" in nothing_yet.stdout and not here.lock.exists()
    here.med42("lock", "my.yaml")
    first = here.lock.read_bytes()
    assert here.med42("lock", "my.yaml", "--check").returncode == 0
    before, after = hashlib.sha256(LINES).hexdigest()[:12], hashlib.sha256(LINES * 2).hexdigest()[:12]
    commit = hub.add("acme/rows", {"train.jsonl": LINES * 2}, "dataset")
    moved = here.med42("lock", "my.yaml", "--check")
    assert moved.returncode == 1 and here.lock.read_bytes() == first
    assert any(line.split() == ["sources.quad:", "train.jsonl", before, after] for line in moved.stdout.splitlines())
    assert f"acme/rows@main {commit[:12]}" in moved.stdout
    assert here.med42("lock", "my.yaml").returncode == 0
    assert yaml.safe_load(here.lock.read_text())["pins"]["sources.quad"]["revision"] == commit


@pytest.mark.parametrize(("step", "status"), [("info", 404), ("tree", 403), ("resolve", 401)])
def test_a_refusal_leaves_the_old_lock_as_it_was(here, hub, step, status):
    here.med42("lock", "my.yaml")
    first = here.lock.read_bytes()
    hub.add("acme/rows", {"train.jsonl": LINES * 2}, "dataset")
    hub.fail(step, status)
    refused = here.med42("lock", "my.yaml")
    assert refused.returncode == 1 and f"HTTP {status}" in refused.stderr and refused.stderr.startswith("error ")
    assert "Traceback" not in refused.stdout + refused.stderr
    assert here.lock.read_bytes() == first and not list(here.folder.glob(".my.lock*"))


def test_lock_under_changes_belongs_to_these_changes(here, hub):
    hub.add("acme/rows", {"train.jsonl": LINES * 3}, "dataset", branch="v2")
    changes = ("--set", "sources.quad.origin.revision=v2")
    assert here.med42("lock", "my.yaml", *changes, "-o", "other/v2.lock").returncode == 0
    assert read_lock(here.folder / "other/v2.lock")["sources.quad"].of.revision == "v2" and not here.lock.exists()
    here.med42("lock", "my.yaml")
    for command in ("check", "run"):
        refused = here.med42(command, "my.yaml", *changes)
        assert refused.returncode == 1 and "Run `med42 lock` again, with the same --set." in refused.stderr
    assert not (here.folder / "work").exists()


# --- preflight ------------------------------------------------------------------------------------


def verdicts(path: Path, changes: list[str], pins: dict[str, Pin] | None = None) -> dict[str, Verdict]:
    recipe = load_recipe(path, changes)
    recipe = recipe.model_copy(update={"pins": recipe.pins | (pins or {})})
    return {verdict.check: verdict for verdict in verdicts_on(recipe, shape_of(recipe), Job("test"), path)}


def test_preflight_names_what_has_no_pin(here, hub, monkeypatch):
    use_hub(hub, monkeypatch, here.folder / "cache")
    found = verdicts(here.folder / "my.yaml", [])["lock"]
    assert not found.passed and found.found.startswith("base, sources.quad, sources.quad-again: found 3 of 3 without a pin")
    assert "--allow-unlocked" in found.found and "med42 lock" in found.found
    allowed = verdicts(here.folder / "my.yaml", ["unlocked=allow"])["lock"]
    assert allowed.passed and allowed.found == "0 of 3 pinned; allowed without: base, sources.quad, sources.quad-again"
    here.med42("lock", "my.yaml")
    assert verdicts(here.folder / "my.yaml", [])["lock"] == Verdict("lock", True, "3 of 3 pinned")


@pytest.mark.parametrize("name", ["tiny", "open-small"])
def test_recipes_that_fetch_nothing_need_no_lock(name):
    recipe = load_recipe(name)
    found = {verdict.check: verdict for verdict in verdicts_on(recipe, shape_of(recipe), Job("test"), Path.cwd())}
    assert found["lock"] == Verdict("lock", True, "nothing is fetched")


def test_preflight_looks_into_buckets(tmp_path, monkeypatch):
    path = tmp_path / "my.yaml"
    path.write_text(RECIPE.replace("base: {kind: hub, repo: acme/base, license: llama3}\n", "").replace(
        '{kind: hub, repo: acme/rows, files: ["*.jsonl"]}', '{kind: bucket, url: "gs://clinic/set", files: ["*.jsonl"]}'))
    with bucket_server("clinic", tmp_path / "cache", monkeypatch) as bucket:
        bucket.put({"set/a.jsonl": LINES})
        origin = lockable(load_recipe(path))["sources.quad"]
        pins = {key: pin_bucket(origin, key) for key in ("sources.quad", "sources.quad-again")}
        found = verdicts(path, [], pins)
        assert found["lock"].found == "2 of 2 pinned" and "hub" not in found
        assert found["bucket of sources.quad"] == Verdict("bucket of sources.quad", True, "1 objects below gs://clinic/set")
        bucket.put({"set/a.jsonl": LINES * 2})
        changed = verdicts(path, [], pins)["bucket of sources.quad"]
        assert not changed.passed and "as when the recipe was locked" in changed.found
