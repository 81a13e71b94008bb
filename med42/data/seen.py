"""Which rows were met before: a set of row digests in 16 bytes a row.

Python's own set of 32-byte strings takes some 120 bytes a row. Here digests lie in sorted runs of numpy arrays, each run
more than twice as long as the next, so a row is looked up in log2(rows) runs and merged as often.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

BYTES = 32  # of a SHA-256 digest


class Seen:
    """A set of digests that only grows.

    The first 16 of the 32 bytes are kept: among 10**9 rows, two different ones share them with a probability of
    10**18 / 2**129 = 1.5e-21.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[numpy.ndarray, numpy.ndarray]] = []  # longest first; (bytes 0-7, bytes 8-15) as uint64, sorted

    def __len__(self) -> int:
        return sum(len(high) for high, _ in self._runs)

    def add(self, digests: Sequence[bytes] | numpy.ndarray) -> numpy.ndarray:
        """Add digests.

        Args:
            digests: of 32 bytes each, in the order of the stream; or the same as an array [rows, 32] of uint8.

        Returns:
            Whether each is new, bool [rows]: met neither before nor earlier among these.
        """
        table = digests if isinstance(digests, numpy.ndarray) else numpy.frombuffer(b"".join(digests), dtype=numpy.uint8)
        # As big-endian numbers, not as numpy's strings, which lose zero bytes at their end.
        words = numpy.ascontiguousarray(table.reshape(-1, BYTES)[:, :16]).view(">u8").astype(numpy.uint64)
        order = numpy.lexsort((words[:, 1], words[:, 0]))  # stable: the earliest of equal ones comes first
        high, low = words[order, 0], words[order, 1]
        fresh = numpy.ones(len(order), dtype=bool)
        fresh[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        for run in self._runs:
            fresh &= ~_contains(run, high, low)
        if fresh.any():
            self._runs.append((high[fresh], low[fresh]))
            while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
                self._runs[-2:] = [_merged(self._runs[-2], self._runs[-1])]
        new = numpy.empty(len(order), dtype=bool)
        new[order] = fresh
        return new


def _contains(run: tuple[numpy.ndarray, numpy.ndarray], high: numpy.ndarray, low: numpy.ndarray) -> numpy.ndarray:
    place = numpy.searchsorted(run[0], high)
    found = numpy.zeros(len(high), dtype=bool)
    # One step for nearly all: digests share their first 8 bytes hardly ever.
    left = numpy.arange(len(high))
    while len(left := left[place[left] < len(run[0])]) and len(left := left[run[0][place[left]] == high[left]]):
        found[left] = run[1][place[left]] == low[left]
        left = left[~found[left]]
        place[left] += 1
    return found


def _merged(first: tuple[numpy.ndarray, numpy.ndarray], second: tuple[numpy.ndarray, numpy.ndarray]) -> tuple[numpy.ndarray, numpy.ndarray]:
    place = numpy.searchsorted(first[0], second[0], side="right")
    return numpy.insert(first[0], place, second[0]), numpy.insert(first[1], place, second[1])
