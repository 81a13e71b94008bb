import pytest

from med42.lineage import strict_json
from med42.lineage.digest import canonical
from med42.lineage.strict_json import read_canonical

VALUE = {"a": [1, 2.5, True, None, "é\n"], "b": {"c": []}}


def test_what_is_canonical_is_read():
    assert read_canonical(canonical(VALUE), "here") == VALUE
    assert read_canonical(memoryview(canonical(VALUE)), "here") == VALUE


@pytest.mark.parametrize("text", [
    b"", b"{", b"nul", b"\xff", b'{"a":1,"a":2}', b'{"b":1,"a":2}', b'{"a": 1}', b"[1]\n", b"1.0", b"1e2", b"-0", b"1E400", b"0.1e1",
    b"NaN", b"[Infinity]", b"-Infinity", b"9007199254740993", b"1" * 30, b"1" * 100_000, b"0." + b"1" * 100_000, b'"\\u0041"', b'"\\ud800"',
    b"\xef\xbb\xbf{}", b"{'a':1}", b'"\\/"', b"01",
], ids=lambda text: repr(text[:20]))
def test_every_trick_is_refused(text, refusal):
    assert refusal(lambda: read_canonical(text, "here")).startswith("here: found ")


@pytest.mark.parametrize("deep", [65, 1_000, 100_000])
def test_depth_is_bounded(deep, refusal):
    assert "here: found" in refusal(lambda: read_canonical(b"[" * deep + b"]" * deep, "here"))
    read_canonical(b"[" * 60 + b"]" * 60, "here")


def test_values_and_bytes_are_counted_before_they_are_made(monkeypatch, refusal):
    assert "values" in refusal(lambda: read_canonical(b"[" + b"{}," * 500_000 + b"{}]", "here"))
    monkeypatch.setattr(strict_json, "LARGEST", 10)
    assert "more than 10 bytes" in refusal(lambda: read_canonical(b'"01234567890"', "here"))
