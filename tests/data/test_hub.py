"""Data sets of a hub by pin: the project's own hub on loopback, asked by the real client."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, hub_server, use_hub

from med42.data.hub import pin_hub
from med42.data.prepare_source import prepare_source
from med42.data.readers import locate
from med42.errors import Med42Error
from med42.lineage.journal import Job
from med42.lineage.record import read_record
from med42.recipe import Recipe, load_recipe
from med42.recipe.schema import HubOrigin, Pin

ROWS = [{"question": f"What is disease {number}?", "answer": f"It is the {number}th."} for number in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
LARGE = LINES + b" " * 1_000_001  # kept by its SHA-256, as on a hub
ORIGIN = HubOrigin(kind="hub", repo="acme/rows", files=["data/*.jsonl"])
KEY = "sources.quad.origin"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as served:
        use_hub(served, monkeypatch, tmp_path / "cache")
        yield served


def recipe(pins: dict[str, Pin] | None = None, **sources: str) -> Recipe:
    """tiny with sources of the family medquad, each of a repository, and pins."""
    changes = [f"sources.{name}={{domain: medical, family: medquad, license: MIT, rows: 1, origin: {{kind: hub, repo: {repo}, "
               "files: ['data/*']}}" for name, repo in sources.items()]
    return load_recipe("tiny", changes).model_copy(update={"pins": pins or {}})


def test_only_what_the_hub_tells_no_digest_of_is_fetched_to_be_locked(hub):
    commit = hub.add("acme/rows", {"data/a.jsonl": LARGE, "data/b.jsonl": LINES, "README.md": b""}, "dataset")
    pin = pin_hub(ORIGIN, "sources.quad")
    assert pin == Pin(of=ORIGIN, revision=commit, files={"data/a.jsonl": sha256(LARGE), "data/b.jsonl": sha256(LINES)})
    assert {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request} == {"b.jsonl"}


def test_a_pinned_set_is_read_as_it_was_whatever_its_branch_does(hub, tmp_path):
    hub.add("acme/rows", {"data/a.jsonl": LINES}, "dataset")
    pinned = recipe({"sources.quad": pin_hub(ORIGIN, "sources.quad")})
    hub.add("acme/rows", {"data/a.jsonl": LINES * 2, "data/b.jsonl": LINES}, "dataset")
    shutil.rmtree(tmp_path / "cache")
    located = locate(pinned, KEY, ORIGIN, None)
    assert [row for _, row in located.rows()] == ROWS and located.pinned == {"data/a.jsonl": sha256(LINES)}
    seen = len(hub.requests)
    hub.fail("resolve", 503)
    assert [row for _, row in locate(pinned, KEY, ORIGIN, None).rows()] == ROWS
    assert hub.requests[seen:] == []  # by commit, from the client's cache


def test_bytes_that_differ_from_the_pin_are_refused_with_both_digests(hub, tmp_path, refusal):
    commit = hub.add("acme/rows", {"data/a.jsonl": LARGE}, "dataset")
    pinned = recipe({"sources.quad": pin_hub(ORIGIN, "sources.quad")})
    other = LARGE + b" "
    hub.repositories["dataset", "acme/rows"].commits[commit] = {"data/a.jsonl": other}
    told = refusal(lambda: locate(pinned, KEY, ORIGIN, None))
    assert "sources.quad.origin: data/a.jsonl" in told and f"SHA-256 {sha256(other)}" in told
    assert f"the pinned {sha256(LARGE)}" in told and "run `med42 lock` again" in told
    assert str(tmp_path / "cache") in told  # where the wrong bytes lie


def test_a_commit_that_is_gone(hub, refusal):
    hub.add("acme/rows", {"data/a.jsonl": LARGE}, "dataset")
    pinned = recipe({"sources.quad": pin_hub(ORIGIN, "sources.quad")})
    hub.repositories["dataset", "acme/rows"].commits.clear()
    commit = pinned.pins["sources.quad"].revision
    told = refusal(lambda: locate(pinned, KEY, ORIGIN, None))
    assert f"sources.quad.origin: dataset acme/rows@main at commit {commit[:12]}: found no such repository, revision or file" in told


def test_a_set_without_a_pin_is_refused_before_the_hub_is_asked(hub, refusal):
    told = refusal(lambda: locate(recipe(), KEY, ORIGIN, None))
    assert "sources.quad: found acme/rows@main (data/*.jsonl) without a pin" in told and hub.requests == []


@pytest.mark.parametrize(("revision", "files"), [("v9", ["data/*"]), ("main", ["data/*.parquet"]), ("main", ["data/*", "test/*"])])
def test_what_cannot_be_locked(hub, refusal, revision, files):
    hub.add("acme/rows", {"data/a.jsonl": LINES}, "dataset")
    told = refusal(lambda: pin_hub(HubOrigin(kind="hub", repo="acme/rows", revision=revision, files=files), "sources.quad"))
    assert "no such repository, revision or file" in told if revision == "v9" else f"no file that matches {files[-1]}" in told


@pytest.mark.parametrize("status", [401, 404, 503])
@pytest.mark.parametrize("step", ["info", "tree", "resolve"])
def test_a_hub_that_refuses_to_be_locked(hub, refusal, step, status):
    hub.add("acme/rows", {"data/a.jsonl": LINES}, "dataset")
    hub.fail(step, status)
    told = refusal(lambda: pin_hub(ORIGIN, "sources.quad"))
    assert told.startswith("sources.quad: dataset acme/rows@main") and f"HTTP {status}" in told


# --- in the stage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "told"), [
    (gzip.compress(LINES * 50)[:-40], "compressed data that breaks off after row "),
    (gzip.compress(LINES + b"{\n"), ":21: found text that is not JSON"),
    (gzip.compress(LINES + b'{"question": "\xe9"}\n'), ":21: found byte 0xe9 that is not UTF-8"),
    (gzip.compress(LINES + b'{"instruction": "i", "output": "o"}\n'), "data/a.jsonl.gz:21, column "),
], ids=["torn", "no JSON", "no UTF-8", "mixed schemas"])
def test_a_file_that_is_not_whole_leaves_nothing_behind(hub, tmp_path, refusal, content, told):
    hub.add("acme/rows", {"data/a.jsonl.gz": content}, "dataset")
    loose = recipe(quad="acme/rows")
    pinned = loose.model_copy(update={"pins": {"sources.quad": pin_hub(loose.sources["quad"].origin, "sources.quad")}})
    (tmp_path / "out").mkdir()
    message = refusal(lambda: prepare_source(pinned, "quad", tmp_path / "out" / "quad", Job("test", tmp_path / "store")))
    assert told in message and "a.jsonl.gz" in message
    assert list((tmp_path / "out").iterdir()) == [] and not list((tmp_path / "store" / "prepare_source").glob("*"))


def test_a_new_pin_makes_its_own_source_again_and_no_other(hub, tmp_path):
    hub.add("acme/rows", {"data/a.jsonl": LINES}, "dataset")
    hub.add("acme/more", {"data/a.jsonl": LINES}, "dataset")
    loose = recipe(quad="acme/rows", more="acme/more")

    def made(run: str) -> dict[str, str]:
        pins = {f"sources.{name}": pin_hub(loose.sources[name].origin, f"sources.{name}") for name in ("quad", "more")}
        records = {}
        for name in ("quad", "more"):
            out = tmp_path / run / name
            prepare_source(loose.model_copy(update={"pins": pins}), name, out, Job(run, tmp_path / "store"))
            records[name] = read_record(out).made.run
        return records

    assert made("one") == {"quad": "one", "more": "one"}
    hub.add("acme/more", {"data/a.jsonl": LINES, "README.md": b"the same files, another commit"}, "dataset")
    assert made("two") == {"quad": "one", "more": "one"}
    hub.add("acme/more", {"data/a.jsonl": LINES + LINES.replace(b"disease", b"syndrome")}, "dataset")
    assert made("three") == {"quad": "one", "more": "three"}


def test_a_stage_refuses_a_source_without_a_pin(hub, tmp_path):
    hub.add("acme/rows", {"data/a.jsonl": LINES}, "dataset")
    with pytest.raises(Med42Error, match="without a pin"):
        prepare_source(recipe(quad="acme/rows"), "quad", tmp_path / "quad", Job("test"))
    assert not (tmp_path / "quad").exists()
