"""Reading a bucket of gcp-storage-emulator: what is there, what changed, what is refused."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_server import Bucket, bucket_server, refusing_service, use_service

from med42.data import buckets
from med42.data.buckets import check_bucket, fetch_bucket, list_bucket, pin_bucket
from med42.data.readers import locate
from med42.recipe import Recipe, load_recipe
from med42.recipe.schema import BucketOrigin, Pin

ROWS = [{"question": f"q{number}", "answer": "é" * 1000} for number in range(50)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
KEY = "sources.notes"
FILES = {"set/v1/a.jsonl": LINES, "set/v1/deep/b.jsonl.gz": gzip.compress(LINES), "set/v1/": b"", "set/v1/README.md": b"x",
         "set/v10.jsonl": b"x"}


def origin(*files: str, url: str = "gs://clinic/set/v1") -> BucketOrigin:
    return BucketOrigin(kind="bucket", url=url, files=list(files) or ["*.jsonl*"])


def kept(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def recipe(pin: Pin | None = None, unlocked: str = "refuse") -> Recipe:
    return load_recipe("tiny").model_copy(update={"pins": {KEY: pin} if pin else {}, "unlocked": unlocked})


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket_server("clinic", tmp_path / "cache", monkeypatch) as served:
        served.put(FILES)
        yield served


def test_objects_below_the_prefix_are_found_by_pattern(bucket):
    assert list(list_bucket(origin(), KEY)) == ["a.jsonl", "deep/b.jsonl.gz"]
    assert list(list_bucket(origin(url="gs://clinic/set/v1/"), KEY)) == ["a.jsonl", "deep/b.jsonl.gz"]
    assert list(list_bucket(origin("set/v10*", url="gs://clinic"), KEY)) == ["set/v10.jsonl"]


def test_rows_come_with_their_places_and_are_kept_by_generation(bucket, tmp_path, monkeypatch):
    located = locate(recipe(unlocked="allow"), f"{KEY}.origin", origin(), None)
    rows = list(located.rows())
    assert [row for _, row in rows] == ROWS * 2
    assert rows[0][0] == "a.jsonl:1" and rows[-1][0] == "deep/b.jsonl.gz:50"
    assert len(kept(tmp_path / "cache")) == 2
    bucket.put({"set/v1/a.jsonl": LINES * 2})
    assert len(list(locate(recipe(unlocked="allow"), f"{KEY}.origin", origin(), None).rows())) == 150
    assert len(kept(tmp_path / "cache")) == 3


def test_a_pin_holds_generations_and_digests_and_needs_no_service_once_fetched(bucket, tmp_path, monkeypatch):
    pin = pin_bucket(origin(), KEY)
    assert pin.of == origin() and set(pin.files) == set(pin.generations) == {"a.jsonl", "deep/b.jsonl.gz"}
    use_service("http://127.0.0.1:1", tmp_path / "cache", monkeypatch)
    assert locate(recipe(pin), f"{KEY}.origin", origin(), None).pinned == pin.files


def test_a_pinned_object_is_fetched_by_name_not_by_pattern(bucket, tmp_path, monkeypatch):
    pin = pin_bucket(origin(), KEY)
    bucket.put({"set/v1/c.jsonl": LINES})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert list(locate(recipe(pin), KEY, origin(), None).files) == ["a.jsonl", "deep/b.jsonl.gz"]
    assert check_bucket(origin(), pin, KEY) == 2 and check_bucket(origin(), None, KEY) == 3


# --- what changed ---------------------------------------------------------------------------------


def test_an_object_that_changes_between_list_and_read(bucket, tmp_path, refusal):
    listed = list_bucket(origin(), KEY)
    bucket.put({"set/v1/a.jsonl": LINES + b"{}\n"})
    now = list_bucket(origin(), KEY)["a.jsonl"].generation
    told = refusal(lambda: fetch_bucket(origin(), None, KEY, listed))
    assert f"sources.notes: gs://clinic/set/v1/a.jsonl: found generation {now} ({len(LINES) + 3} bytes" in told
    assert f"expected generation {listed['a.jsonl'].generation}, as listed a moment ago" in told
    assert "while it was being read" in told and kept(tmp_path / "cache") == []


def test_an_object_that_is_removed_between_list_and_read(bucket, tmp_path, refusal):
    listed = list_bucket(origin("deep/*"), KEY)
    bucket.remove("set/v1/deep/b.jsonl.gz")
    told = refusal(lambda: fetch_bucket(origin("deep/*"), None, KEY, listed))
    assert "gs://clinic/set/v1/deep/b.jsonl.gz: found no such object any more" in told
    assert kept(tmp_path / "cache") == []


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_an_object_that_changed_since_it_was_locked(bucket, tmp_path, monkeypatch, refusal, change):
    pin = pin_bucket(origin(), KEY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    if change == "replaced":
        bucket.put({"set/v1/a.jsonl": LINES[:-1]})
        now = f"generation {list_bucket(origin(), KEY)['a.jsonl'].generation}"
    else:
        bucket.remove("set/v1/a.jsonl")
        now = "no such object any more"
    wanted = f"expected generation {pin.generations['a.jsonl']}, as when the recipe was locked"
    for look in (lambda: check_bucket(origin(), pin, KEY), lambda: locate(recipe(pin), f"{KEY}.origin", origin(), None)):
        told = refusal(look)
        assert f"gs://clinic/set/v1/a.jsonl: found {now}" in told and wanted in told and "run `med42 lock` again" in told
    assert change == "removed" or f"instead of SHA-256 {pin.files['a.jsonl']}" in told
    assert kept(tmp_path / "other") == []


def test_bytes_that_differ_from_the_pin_are_refused_with_both_digests(bucket, tmp_path, refusal):
    pin = pin_bucket(origin("a.jsonl"), KEY)
    [path] = [path for path in (tmp_path / "cache").rglob("*a.jsonl") if path.is_file()]
    path.write_bytes(LINES[:-1])
    told = refusal(lambda: locate(recipe(pin), KEY, origin("a.jsonl"), None))
    assert str(path) in told and pin.files["a.jsonl"] in told and "sources.notes: a.jsonl: found SHA-256" in told
    path.unlink()
    wrong = pin.model_copy(update={"files": {"a.jsonl": "0" * 64}})
    told = refusal(lambda: locate(recipe(wrong), KEY, origin("a.jsonl"), None))
    assert f"found SHA-256 {pin.files['a.jsonl']}; expected SHA-256 {'0' * 64}" in told and kept(tmp_path / "cache") == []


# --- what is refused ------------------------------------------------------------------------------


def test_a_bucket_or_object_that_is_not_there(bucket, refusal):
    assert "gs://nowhere: found no such bucket or object (HTTP 404" in refusal(lambda: list_bucket(origin(url="gs://nowhere"), KEY))
    told = refusal(lambda: list_bucket(origin("*.parquet", "a.jsonl"), KEY))
    assert "sources.notes: found no object that matches *.parquet below gs://clinic/set/v1" in told
    assert "There: README.md, a.jsonl, deep/b.jsonl.gz." in told
    assert "Nothing lies below this prefix" in refusal(lambda: list_bucket(origin(url="gs://clinic/sett"), KEY))


@pytest.mark.parametrize(("status", "found"), [
    (401, "no valid credentials ("), (403, "credentials without this right (HTTP 403: "), (429, "too many requests (HTTP 429: "),
    (503, "an error of the service itself (HTTP 503: "),
])
def test_a_service_that_refuses(tmp_path, monkeypatch, refusal, status, found):
    monkeypatch.setattr(buckets, "PATIENCE", 1)  # the client asks again, as it should, where that may help
    with refusing_service(status, tmp_path, monkeypatch):
        told = refusal(lambda: list_bucket(origin(), KEY))
        assert f"sources.notes: gs://clinic/set/v1: found {found}" in told
        # The client answers a 401 by asking for new credentials, and nobody has none to give.
        assert ("cannot be refreshed" if status == 401 else "refused by the test") in told
        pin = Pin(of=origin(), generations={"a.jsonl": "1"}, files={"a.jsonl": "0" * 64})
        assert found in refusal(lambda: fetch_bucket(origin(), pin, KEY))
    assert kept(tmp_path) == []


def test_no_service_at_all(tmp_path, monkeypatch, refusal):
    monkeypatch.setattr(buckets, "PATIENCE", 1)
    use_service("http://127.0.0.1:1", tmp_path, monkeypatch)
    assert "found no connection to the service" in refusal(lambda: list_bucket(origin(), KEY))


def test_a_cache_that_cannot_be_written(bucket, tmp_path, monkeypatch, refusal):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    told = refusal(lambda: fetch_bucket(origin(), None, KEY))
    assert str(tmp_path / "file") in told and "Set XDG_CACHE_HOME" in told


def test_a_bucket_without_a_pin_is_refused_before_it_is_asked(refusal):
    told = refusal(lambda: locate(recipe(), f"{KEY}.origin", origin(), None))
    assert "sources.notes: found gs://clinic/set/v1 (*.jsonl*) without a pin" in told
    assert "--allow-unlocked" in told and "med42 lock" in told


@pytest.mark.parametrize("url", ["clinic/set", "gs://", "s3://clinic", "gs://Clinic"])
def test_what_is_no_url_of_a_bucket(url):
    with pytest.raises(ValueError, match="url"):
        origin(url=url)
