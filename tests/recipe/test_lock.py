"""The lock file: where it lies, what it does to a recipe, and what it refuses."""

from pathlib import Path

import pytest
import yaml

from med42.errors import Med42Error
from med42.recipe import dump_recipe, load_recipe, parse_recipe, recipe_digest
from med42.recipe.lock import check_pins, lock_path, lockable, pin_of, read_lock, write_lock
from med42.recipe.schema import BucketOrigin, FileOrigin, HubOrigin, Pin

HUB = HubOrigin(kind="hub", repo="acme/rows", files=["*.jsonl"])
BUCKET = BucketOrigin(kind="bucket", url="gs://clinic/set", files=["*.jsonl"])
FILE = FileOrigin(kind="file", files=["exam.jsonl"])
COMMIT, BYTES = "a" * 40, "b" * 64
PIN = Pin(of=HUB, revision=COMMIT, files={"train.jsonl": BYTES})
RECIPE = """
extends: tiny
name: my
sources:
  quad: {domain: medical, family: medquad, license: MIT, rows: 1, origin: {kind: hub, repo: acme/rows, files: ["*.jsonl"]}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "my.yaml").write_text(RECIPE)
    return tmp_path / "my.yaml"


def locked(path: Path, pins: dict[str, Pin]) -> Path:
    write_lock(path.with_suffix(".lock"), "my", pins)
    return path


# --- the file -------------------------------------------------------------------------------------


def test_it_lies_beside_a_file_and_here_for_a_shipped_name(tmp_path):
    assert lock_path(tmp_path / "my.yaml") == tmp_path / "my.lock"
    assert lock_path("a/my.yml") == Path("a/my.lock")
    assert lock_path("llama3.1-8b") == Path("llama3.1-8b.lock")


def test_it_is_the_same_bytes_for_the_same_pins_and_reads_back(tmp_path):
    bucket = Pin(of=BUCKET, generations={"a.jsonl": "1760000000000000"}, files={"a.jsonl": "0" * 64})
    write_lock(tmp_path / "one.lock", "my", {"sources.b": PIN, "base": bucket})
    write_lock(tmp_path / "two.lock", "my", {"base": bucket, "sources.b": PIN})
    assert (tmp_path / "one.lock").read_bytes() == (tmp_path / "two.lock").read_bytes()
    assert read_lock(tmp_path / "one.lock") == {"base": bucket, "sources.b": PIN}
    assert f"      train.jsonl: {BYTES}\n" in (tmp_path / "one.lock").read_text()  # a line a file, to be compared by eye
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.lock", "two.lock"]


def test_no_file_is_no_pins(tmp_path):
    assert read_lock(tmp_path / "absent.lock") == {}


@pytest.mark.parametrize("text", [
    "", "pins: {}", "schema: 2\npins: {}", "- a", "schema: 1\npins: [", "schema: 1\npins: {base: {files: {}}}",
    f"schema: 1\npins: {{x: {{of: {{kind: hub, repo: a/b, files: [x]}}, files: {{x: {BYTES}}}}}}}", "\xff",
])
def test_what_is_no_lock_file(tmp_path, text, refusal):
    (tmp_path / "my.lock").write_bytes(text.encode("latin-1"))
    told = refusal(lambda: read_lock(tmp_path / "my.lock"))
    assert str(tmp_path / "my.lock") in told and "lock file of schema 1" in told


def test_a_failed_write_leaves_the_old_one_and_nothing_else(tmp_path, refusal):
    (tmp_path / "my.lock").mkdir()
    assert "-o FILE" in refusal(lambda: write_lock(tmp_path / "my.lock", "my", {"base": PIN}))
    assert [path.name for path in tmp_path.iterdir()] == ["my.lock"] and not list((tmp_path / "my.lock").iterdir())


@pytest.mark.parametrize("wrong", [
    {"of": HUB, "files": {"a": BYTES}}, {"of": HUB, "revision": "main", "files": {"a": BYTES}},
    {"of": HUB, "revision": COMMIT, "files": {}}, {"of": BUCKET, "files": {"a": BYTES}},
    {"of": BUCKET, "files": {"a": BYTES}, "generations": {"b": "1"}},
    {"of": FILE, "revision": COMMIT, "files": {"a": BYTES}}, {"of": FILE, "files": {"a": "short"}},
])
def test_a_pin_holds_what_its_kind_needs(wrong):
    with pytest.raises(ValueError):
        Pin(**wrong)


# --- in a recipe ----------------------------------------------------------------------------------


def test_what_can_be_locked():
    recipe = load_recipe("llama3-8b")
    keys = lockable(recipe)
    assert keys["base"] == HubOrigin(kind="hub", repo=recipe.base.repo, files=keys["base"].files)
    assert keys["sources.slimorca-t0.labels"] == recipe.sources["slimorca-t0"].labels
    assert keys["preferences.snorkel-1"] == recipe.preferences["snorkel-1"].origin
    assert keys["evaluation.benchmarks.medqa"] == recipe.evaluation.benchmarks["medqa"].origin
    assert lockable(load_recipe("tiny")) == {}


def test_the_digest_covers_the_pins_and_they_travel(path):
    loose = load_recipe(path)
    with_pin = load_recipe(locked(path, {"sources.quad": PIN}))
    assert with_pin.pins == {"sources.quad": PIN} and recipe_digest(with_pin) != recipe_digest(loose)
    assert parse_recipe(dump_recipe(with_pin)) == with_pin
    assert load_recipe(path, locked=False) == loose


def test_a_shipped_recipe_takes_the_lock_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pin = Pin(of=lockable(load_recipe("llama3-8b"))["sources.sciq"], revision=COMMIT, files={"a": BYTES})
    write_lock(Path("llama3-8b.lock"), "llama3-8b", {"sources.sciq": pin})
    assert load_recipe("llama3-8b").pins == {"sources.sciq": pin}
    assert load_recipe("llama3.1-8b").pins == {}  # another recipe, though it extends this one


@pytest.mark.parametrize("change", [
    ".repo=acme/other", ".revision=v2", ".files=['*.parquet']", "={kind: file, files: [a.jsonl]}",
])
def test_another_origin_than_was_locked(path, change, refusal):
    locked(path, {"sources.quad": PIN})
    told = refusal(lambda: load_recipe(path, [f"sources.quad.origin{change}"]))
    assert "pins.sources.quad: found a pin of acme/rows@main (*.jsonl)" in told and "Run `med42 lock` again" in told


def test_other_keys_of_a_locked_source_may_change(path):
    recipe = load_recipe(locked(path, {"sources.quad": PIN}), ["sources.quad.rows=2", "seed=5"])
    assert recipe.pins["sources.quad"] == PIN


def test_a_pin_of_what_the_recipe_no_longer_names(path, refusal):
    locked(path, {"sources.quad": PIN, "sources.gone": PIN})
    told = refusal(lambda: load_recipe(path))
    assert f"{path}: pins.sources.gone: found a pin of acme/rows@main" in told and "Run `med42 lock` again" in told
    with pytest.raises(Med42Error, match="again"):
        check_pins(load_recipe(path, locked=False).model_copy(update={"pins": {"base": PIN}}), "recipe")


def test_a_recipe_may_hold_its_pins_itself(path):
    path.write_text(RECIPE + yaml.safe_dump({"pins": {"sources.quad": PIN.model_dump(mode="json")}}))
    assert load_recipe(path).pins == {"sources.quad": PIN}
    newer = PIN.model_copy(update={"revision": "c" * 40})
    assert load_recipe(locked(path, {"sources.quad": newer})).pins == {"sources.quad": PIN}


def test_what_is_fetched_needs_a_pin_unless_the_recipe_allows_it(path, refusal):
    recipe = load_recipe(path)
    for key, origin in (("sources.quad.origin", HUB), ("sources.quad", BUCKET)):
        told = refusal(lambda key=key, origin=origin: pin_of(recipe, key, origin))
        assert told.startswith("sources.quad: found ") and "without a pin" in told and "--allow-unlocked" in told
        assert pin_of(load_recipe(path, ["unlocked=allow"]), key, origin) is None
    assert pin_of(recipe, "sources.quad", FILE) is None
    assert pin_of(load_recipe(locked(path, {"sources.quad": PIN})), "sources.quad.origin", HUB) == PIN
