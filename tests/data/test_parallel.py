import functools
import os
import signal

import pytest

from med42.data import parallel
from med42.data.parallel import ordered_map
from med42.errors import Med42Error


def _times(factor):
    def work(block):
        if block == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if block == "mend me":
            raise Med42Error("file.csv:3", "a fault", "none", "Mend it.")
        return os.getpid(), block * factor

    return work


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Start worker processes after the first block."""
    monkeypatch.setattr(parallel, "ALONE_SECONDS", 0.0)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_blocks(workers):
    results = list(ordered_map(functools.partial(_times, 3), range(50), workers))
    assert [result for _, result in results] == [3 * block for block in range(50)]
    processes = {process for process, _ in results[1:]}
    assert (processes == {os.getpid()}) if workers == 1 else (os.getpid() not in processes)


def test_what_takes_a_moment_is_done_here(monkeypatch):
    monkeypatch.setattr(parallel, "ALONE_SECONDS", 60.0)
    assert {process for process, _ in ordered_map(functools.partial(_times, 1), range(100), 2)} == {os.getpid()}


def test_blocks_are_read_as_they_are_needed():
    read = []
    results = ordered_map(functools.partial(_times, 1), (read.append(block) or block for block in range(1000)), 2)
    for _ in range(10):
        next(results)
    assert len(read) <= 10 + 2 * 2 + 1
    results.close()


def test_an_error_of_the_work_comes_through_whole():
    with pytest.raises(Med42Error, match=r"file.csv:3: found a fault; expected none. Mend it.") as told:
        list(ordered_map(functools.partial(_times, 1), [1, 2, 3, 4, "mend me", 5, 6], 2))
    assert told.value.where == "file.csv:3"


def test_a_killed_worker_is_an_error_that_says_so():
    with pytest.raises(Med42Error, match="a worker process: found its sudden end"):
        list(ordered_map(functools.partial(_times, 1), [1, 2, 3, 4, "die", 5, 6], 2))
