import hashlib
import random
import time
import tracemalloc

import numpy
import pytest

from med42.data.seen import Seen


def digest(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def plain(batches: list[list[bytes]]) -> list[list[bool]]:
    """What a set would answer."""
    seen: set[bytes] = set()
    answers = []
    for batch in batches:
        answers.append([])
        for one in batch:
            answers[-1].append(one not in seen)
            seen.add(one)
    return answers


@pytest.mark.parametrize("seed", range(10))
def test_as_a_plain_set_answers(seed):
    draw = random.Random(seed)
    names = range(draw.choice([3, 50, 5_000]))
    batches = [[digest(draw.choice(names)) for _ in range(draw.choice([0, 1, 7, 400]))] for _ in range(60)]
    seen = Seen()
    assert [seen.add(batch).tolist() for batch in batches] == plain(batches)
    assert len(seen) == len({one for batch in batches for one in batch})


def test_the_first_of_equal_ones_in_a_batch_is_new():
    assert Seen().add([digest(1), digest(2), digest(1), digest(1), digest(2)]).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("pair", [
    (b"\x00" * 32, b"\x00" * 15 + b"\x01" + b"\x00" * 16),
    (b"a" * 8 + b"\x00" * 24, b"a" * 9 + b"\x00" * 23),
    (b"\xff" * 32, b"\xff" * 15 + b"\xfe" + b"\xff" * 16),
    (b"same 8 b" + b"\xff" * 24, b"same 8 b" + b"\x00" * 24),
], ids=range(4))
def test_zero_bytes_and_shared_beginnings_are_told_apart(pair):
    first, second = pair
    assert Seen().add([first, second, first]).tolist() == [True, True, False]
    seen = Seen()
    assert [seen.add([one]).tolist() for one in (second, first, first, second)] == [[True], [True], [False], [False]]


def test_many_that_share_their_first_8_bytes():
    digests = [b"same 8 b" + digest(number)[:24] for number in range(500)]
    seen = Seen()
    assert seen.add(digests[::2]).all()
    assert seen.add(digests).tolist() == [number % 2 == 1 for number in range(500)]
    assert not seen.add(digests[::-1]).any()


def test_an_array_of_bytes_is_taken_too():
    digests = [digest(number % 7) for number in range(20)]
    table = numpy.frombuffer(b"".join(digests), dtype=numpy.uint8).reshape(-1, 32)
    assert Seen().add(table).tolist() == Seen().add(digests).tolist() == [number < 7 for number in range(20)]
    assert Seen().add([]).tolist() == []


def test_a_million_rows_fit_in_a_few_bytes_each():
    table = numpy.random.default_rng(0).integers(0, 256, (1_000_000, 32), dtype=numpy.uint8)
    seen, started = Seen(), time.process_time()
    tracemalloc.start()
    for start in range(0, len(table), 2_000):
        assert seen.add(table[start : start + 2_000]).all()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(seen) == 1_000_000
    assert held < 17 * len(table)
    assert peak < 72 * len(table)  # while two runs are merged
    assert not seen.add(table[::1000]).any()
    assert time.process_time() - started < 30
