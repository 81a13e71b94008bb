"""Near duplicates: rows that ask nearly the same and answer nearly the same, found without comparing every row with every other.

A row is two sets of pairs of neighbouring words, without case, accents and punctuation: of its answer (the last turn), and of
all that stands before it. Two sets are as similar as the share of pairs they have in common (Jaccard), and two rows are near
where both of their sets are so similar. So the same sentences said of two diseases stay two facts, and a dialogue that is to be
summarised and filed stays two tasks.

A row's signature is a sketch of each set: 128 numbers, of which two sets have about the same share in common, with a standard
error of at most sqrt(s (1 - s) / 128) = 0.035 at a similarity s of 0.8.

Why no library: over pairs of rows with 5% of their words changed, the error of the estimated similarity is 0.028 here, 0.028 with
rensa 0.5 (0.23 with its faster "rho" sketch) and 0.035 with datasketch 2.0 (sets of runs of 5 words). One core made 36,000 such
sketches a second, 4,000 with datasketch and 50,000 with rensa, in which the sketch itself is a fifth of the work: of the whole look
at a row rensa would save a tenth, for a compiled dependency with whose next version the mix might be another.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy

from med42.data.decontaminate import batches, spaced
from med42.recipe.schema import Dedup

NUMBERS = 128  # of a sketch
WIDTH = 2 * NUMBERS  # of a signature: numbers of the question and of the answer, in turn, so that a band holds both
BATCH = 400_000  # characters whose runs are hashed at once
BLOCK = 8_192  # signatures in memory at once: 4 MiB
LEADERS = 32  # rows of a bucket that the others are compared with, before what is left of it is let be
BASE = numpy.uint64(0x9E3779B97F4A7C15)
NOTHING = 0xFFFF  # all numbers of the sketch of an empty set; exact digests alone tell of a row that has one


def signatures(rows: Sequence[Sequence[str]]) -> numpy.ndarray:
    """Sketches of some rows.

    "Fast similarity sketching" (Dahlgaard, Knudsen and Thorup 2017, arXiv 1704.04370): in one round each element falls in one
    of the 128 bins with a random value, and a bin keeps its least. Bins still empty are filled by further rounds, of which a
    set of 300 pairs needs three; MinHash takes 128 whatever the length.

    Args:
        rows: the texts of each row's turns; of a turn, the first 400,000 characters count.

    Returns:
        uint16 [rows, 256].
    """
    made = [_sketches(*_pairs(batch), 2 * len(batch)) for batch in batches(rows, BATCH)]
    sketches = numpy.concatenate(made) if made else numpy.zeros((0, NUMBERS), dtype=numpy.uint16)
    return sketches.reshape(-1, 2, NUMBERS).transpose(0, 2, 1).reshape(-1, WIDTH)


def duplicates_of(path: Path, rows: numpy.ndarray, keys: numpy.ndarray, sizes: numpy.ndarray, settings: Dedup) -> numpy.ndarray:
    """Which row each row is a near duplicate of.

    No two rows that are kept were found to be near, and each row that is not kept is near to the one named for it. Rows are
    compared where a band of their signatures is the same, one band at a time, each row with the first ones of its bucket:
    memory is some 30 bytes a row, and a boilerplate text that a million rows share costs a million comparisons and not their
    square. What comes out depends on the rows and their keys, not on the order in which they are given.

    Args:
        path: the file of all signatures, uint16 [rows of the file, 256].
        rows: the rows to compare, int64, ascending.
        keys: the order of rows, by row of the file, uint64, all different.
        sizes: lengths of the rows, by row of the file.
        settings: how near is near, and which row is kept.

    Returns:
        For each of `rows`, the place in `rows` of the one that is kept in its stead, or -1; int64 [len(rows)].
    """
    ordered = numpy.lexsort((keys[rows], -sizes[rows].astype(numpy.int64)) if settings.keep == "longest" else (keys[rows],))
    ordered = ordered.astype(numpy.int32)  # place in `rows` by rank: rank 0 is kept whatever comes
    rank = numpy.empty_like(ordered)
    rank[ordered] = numpy.arange(len(rows), dtype=numpy.int32)
    kept, free = numpy.zeros(0, dtype=numpy.int32), numpy.arange(len(rows), dtype=numpy.int32)
    of = numpy.full(len(rows), -1, dtype=numpy.int32)  # by rank
    with _Signatures(path, rows, ordered) as known, ThreadPoolExecutor(1) as ahead:
        while len(free):
            # A row may be linked to one that is itself linked to a third: it is looked at once more, beside those that are kept.
            of[free] = -1
            for hashes in _one_ahead(ahead, functools.partial(known.hashes, rank), _bands(settings.similarity)):
                _link(known, hashes, kept, free[of[free] < 0], of, settings.similarity)
            kept = numpy.sort(numpy.concatenate([kept, free[of[free] < 0]]))
            linked = free[of[free] >= 0]
            free = linked[of[of[linked]] >= 0]
    places = numpy.full(len(rows), -1, dtype=numpy.int64)
    gone = numpy.flatnonzero(of >= 0)
    places[ordered[gone]] = ordered[of[gone]]
    return places


def _bands(similarity: float) -> list[slice]:
    """As few numbers of a signature as can stand for it: pieces as wide as leave 99% of the pairs of this similarity one in common."""
    width = max(width for width in range(1, WIDTH + 1) if 1 - (1 - similarity**width) ** (WIDTH // width) >= 0.99)
    return [slice(start, start + width) for start in range(0, WIDTH - width + 1, width)]


def _one_ahead(ahead: ThreadPoolExecutor, hashes: Callable[[slice], numpy.ndarray], bands: list[slice]) -> Iterator[numpy.ndarray]:
    """Hashes of each band, those of the next one being made while one is in use."""
    made = ahead.submit(hashes, bands[0])
    for band in bands[1:]:
        done, made = made.result(), ahead.submit(hashes, band)
        yield done
    yield made.result()


class _Signatures:
    """Signatures on the disk, read a block or a few rows at a time; a memory map would count as memory of this process."""

    def __init__(self, path: Path, rows: numpy.ndarray, ordered: numpy.ndarray) -> None:
        self.rows, self.ordered = rows, ordered
        self._file = path.open("rb")

    def __enter__(self) -> _Signatures:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def hashes(self, rank: numpy.ndarray, band: slice) -> numpy.ndarray:
        """Hashes of a band, uint32 by rank; 0 for rows with an empty set."""
        found = numpy.zeros(len(self.rows), dtype=numpy.uint32)
        for start in range(0, len(self.rows), BLOCK):
            rows = self.rows[start : start + BLOCK]
            first, last = int(rows[0]), int(rows[-1])
            self._file.seek(2 * WIDTH * first)
            table = numpy.fromfile(self._file, numpy.uint16, WIDTH * (last + 1 - first)).reshape(-1, WIDTH)[rows - first]
            value = numpy.zeros(len(rows), dtype=numpy.uint64)
            for number in range(band.start, band.stop):
                value = value * BASE + table[:, number]
            value = (_mixed(value) >> numpy.uint64(32)) | numpy.uint64(1)
            # Four numbers tell an empty set from others: those have NOTHING as often as in 2**64 rows in all four.
            empty = (table[:, 0:8:2] == NOTHING).all(axis=1) | (table[:, 1:8:2] == NOTHING).all(axis=1)
            found[rank[start : start + BLOCK]] = numpy.where(empty, 0, value)
        return found

    def similar(self, first: numpy.ndarray, second: numpy.ndarray, similarity: float) -> numpy.ndarray:
        """Whether pairs of rows, given by rank, have so large a share of the numbers of both sketches in common."""
        near = numpy.zeros(len(first), dtype=bool)
        for start in range(0, len(first), BLOCK):
            here = slice(start, start + BLOCK)
            ranks, places = numpy.unique(numpy.concatenate([first[here], second[here]]), return_inverse=True)
            table = self._read(self.rows[self.ordered[ranks]])
            one, other = numpy.split(places, 2)
            same = (table[one] == table[other]).reshape(-1, NUMBERS, 2).sum(axis=1)
            near[here] = (same >= similarity * NUMBERS).all(axis=1)
        return near

    def _read(self, rows: numpy.ndarray) -> numpy.ndarray:
        size, handle = 2 * WIDTH, self._file.fileno()
        return numpy.frombuffer(b"".join([os.pread(handle, size, size * row) for row in rows.tolist()]), numpy.uint16).reshape(-1, WIDTH)


def _link(
    known: _Signatures, hashes: numpy.ndarray, kept: numpy.ndarray, free: numpy.ndarray, of: numpy.ndarray, similarity: float
) -> None:
    """Link free rows to the first row of their bucket that they are near to: to one that is kept, if there is one."""
    ranks = numpy.concatenate([kept, free])
    is_free = numpy.arange(len(ranks)) >= len(kept)
    order = numpy.argsort(hashes[ranks], kind="stable")
    bucket = hashes[ranks[order]]
    order = order[(bucket != 0) & _crowded(bucket)]
    ranks, is_free, bucket = ranks[order], is_free[order], hashes[ranks[order]]
    for _ in range(LEADERS):
        leads = numpy.concatenate([[True], bucket[1:] != bucket[:-1]]) if len(bucket) else numpy.zeros(0, dtype=bool)
        if leads.all():
            return
        leader = ranks[numpy.flatnonzero(leads)[numpy.cumsum(leads) - 1]]
        asked = numpy.flatnonzero(is_free & ~leads)
        near = asked[known.similar(leader[asked], ranks[asked], similarity)]
        of[ranks[near]] = leader[near]
        leads[near] = True
        ranks, is_free, bucket = ranks[~leads], is_free[~leads], bucket[~leads]


def _crowded(bucket: numpy.ndarray) -> numpy.ndarray:
    """Which places of some sorted hashes hold one that stands there more than once."""
    same = bucket[1:] == bucket[:-1]
    return numpy.concatenate([same, [False]]) | numpy.concatenate([[False], same]) if len(bucket) else numpy.zeros(0, dtype=bool)


def _pairs(rows: Sequence[Sequence[str]]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Hashes of the pairs of neighbouring words of the rows' two sets, and the set of each: 2 x row, and 1 more for answers.

    The first word of a turn also stands in a pair with nothing before it, the last with nothing after it.
    """
    hashes, turn = _words([spaced(text[:BATCH]) for row in rows for text in row])
    sizes = numpy.array([len(row) for row in rows], dtype=numpy.int64)
    sets = numpy.repeat(2 * numpy.arange(len(rows)), sizes)
    sets[(numpy.cumsum(sizes) - 1)[sizes > 0]] += 1
    follows = numpy.zeros(len(hashes), dtype=bool)
    follows[1:] = turn[1:] == turn[:-1]
    before = numpy.where(follows, numpy.roll(hashes, 1), numpy.uint64(0))
    last = numpy.flatnonzero(~numpy.append(follows[1:], False)) if len(hashes) else numpy.zeros(0, dtype=numpy.int64)
    pairs = numpy.concatenate([_mixed(before) + hashes, _mixed(hashes[last])])
    return _mixed(pairs), sets[numpy.concatenate([turn, turn[last]])]


def _words(texts: Sequence[bytes]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Hashes of the words of some spaced texts, and the text of each."""
    chars = numpy.frombuffer(b" ".join([b"", *texts, b""]), dtype=numpy.uint8)
    # A word's hash is the sum of random[char] * base**place over its characters, freed from where it stands.
    powers, inverses = _powers(max(2**19, 1 << (len(chars) - 1).bit_length()))
    sums = _random(256)[chars]
    sums *= powers[: len(chars)]
    numpy.cumsum(sums, out=sums)
    space = chars == 0x20
    edges = numpy.flatnonzero(space[1:] != space[:-1])
    starts, ends = edges[::2], edges[1::2]  # the space before a word, and its last character
    text = numpy.searchsorted(numpy.cumsum([len(text) + 1 for text in texts]), starts, side="right")
    return _mixed((sums[ends] - sums[starts]) * inverses[starts]), text


def _sketches(elements: numpy.ndarray, sets: numpy.ndarray, count: int) -> numpy.ndarray:
    least = numpy.full(count * NUMBERS, numpy.iinfo(numpy.uint64).max, dtype=numpy.uint64)
    for turn in range(2 * NUMBERS):
        if not len(elements):
            break
        values = _mixed(elements + numpy.uint64(turn * int(BASE) % 2**64))
        # 7 bits choose the bin, or in the last rounds the round does, so that none stays empty; 32 others are the value.
        place = (values >> numpy.uint64(57)).astype(numpy.int64) if turn < NUMBERS else numpy.full(len(sets), turn - NUMBERS)
        numpy.minimum.at(least, sets * NUMBERS + place, (values & numpy.uint64(2**32 - 1)) | numpy.uint64(turn << 32))
        empty = (least.reshape(count, NUMBERS) >> numpy.uint64(63)).any(axis=1)
        left = numpy.asarray(empty)[sets]
        elements, sets = elements[left], sets[left]
    return (least & numpy.uint64(0xFFFF)).astype(numpy.uint16).reshape(count, NUMBERS)


def _mixed(values: numpy.ndarray) -> numpy.ndarray:
    """SplitMix64's finaliser."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> numpy.uint64(shift))) * numpy.uint64(factor)
    return values ^ (values >> numpy.uint64(31))


@functools.cache
def _random(count: int) -> numpy.ndarray:
    return _mixed(numpy.arange(1, count + 1, dtype=numpy.uint64) * BASE)


@functools.lru_cache(1)
def _powers(count: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The first powers of the base and of its inverse, modulo 2**64."""
    powers, inverses = (
        numpy.cumprod(numpy.concatenate([[numpy.uint64(1)], numpy.full(count - 1, base, dtype=numpy.uint64)]), dtype=numpy.uint64)
        for base in (BASE, numpy.uint64(pow(int(BASE), -1, 2**64)))
    )
    return powers, inverses
