import hashlib
import random
import time
import tracemalloc
from pathlib import Path

import pytest

from med42.errors import Med42Error
from med42.lineage.digest import canonical, file_digest, folder_files, merkle_root, value_digest


def rows(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def rfc_6962(leaves: list[bytes]) -> bytes:
    """Section 2.1, word for word: split at the largest power of two below n."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + rfc_6962(leaves[:split]) + rfc_6962(leaves[split:])).digest()


@pytest.mark.parametrize("count", range(21))
def test_merkle_root_is_that_of_the_rfc(count):
    assert merkle_root(rows(count)) == rfc_6962([bytes.fromhex(row) for row in sorted(rows(count))]).hex()


def test_merkle_root_knows_neither_order_nor_repeats():
    shuffled = rows(13) + rows(4)
    random.Random(0).shuffle(shuffled)
    assert merkle_root(shuffled) == merkle_root(rows(13))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 4_095, 4_097, 9_000])
def test_a_buffer_of_digests_has_the_root_of_its_hex_digits(count):
    shuffled = rows(count) + rows(count // 3)
    random.Random(count).shuffle(shuffled)
    given = bytearray.fromhex("".join(shuffled))
    before = bytes(given)
    root = rfc_6962([bytes.fromhex(row) for row in sorted(rows(count))]).hex()
    assert merkle_root(given) == merkle_root(before) == merkle_root(shuffled) == root
    assert given == before


def test_digests_are_ordered_by_all_their_bytes():
    ends = [b"\x00" * 32, b"\x00" * 31 + b"\x01", b"\x00" * 30 + b"\x01\x00", b"\x7f" + b"\x00" * 31, b"\x80" + b"\x00" * 31, b"\xff" * 32]
    assert merkle_root(b"".join(ends[::-1] + ends)) == rfc_6962(ends).hex()


def test_the_root_of_a_million_digests_takes_seconds_and_little_memory():
    given = random.Random(0).randbytes(32_000_000)
    started = time.process_time()
    merkle_root(given)
    assert time.process_time() - started < 10
    tracemalloc.start()
    merkle_root(given[:3_200_000])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3_200_000 + 3_200_000 + 1_500_000  # the slice, one copy, and blocks of a fixed size


def test_merkle_roots_of_different_sets_differ():
    assert len({merkle_root(rows(count)) for count in range(21)}) == 21
    assert merkle_root([*rows(7)[:-1], "00" * 32]) != merkle_root(rows(7))


@pytest.mark.parametrize(("value", "text"), [
    ({"b": 1, "a": [True, None, "é"]}, '{"a":[true,null,"é"],"b":1}'),
    (1.0, "1"),
    (0.1, "0.1"),
    ((1, 2), "[1,2]"),
    (2**53 - 1, "9007199254740991"),
])
def test_canonical_json(value, text):
    assert canonical(value) == text.encode()


@pytest.mark.parametrize("value", [
    float("nan"), float("inf"), 2**53, {1: 2}, {"a": object}, {1, 2}, b"bytes", Path("/"), "\ud83d", {"\ud83d": 1},
], ids=repr)
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(Med42Error, match="cannot hold exactly"):
        canonical({"here": value})


def test_value_digest_does_not_know_the_order_of_keys():
    assert value_digest({"a": 1, "b": 2}) == value_digest({"b": 2, "a": 1}) == hashlib.sha256(b'{"a":1,"b":2}').hexdigest()
    assert value_digest([1, 2]) != value_digest([2, 1])


def test_file_digest(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert file_digest(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_folder_files_are_sorted_and_relative(tmp_path):
    for name in ("b", "a/z", "a/b/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    assert folder_files(tmp_path) == ["a/b/c", "a/z", "b"]


def test_links_are_refused(tmp_path, refusal):
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert "link: found a link or special file" in refusal(lambda: folder_files(tmp_path))
