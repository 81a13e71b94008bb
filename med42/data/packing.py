"""Which documents share a chunk: best fit, planned on lengths alone."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]  # tokens of each document

OPEN_CHUNKS = 64
TRIED = 64  # documents that `exact_fill` tries, longest first, with two others
GOOD_ENOUGH = 0.0005  # over the fewest chunks possible


@dataclass(frozen=True)
class ChunkPlan:
    """The documents of each chunk.

    Attributes:
        offsets: int64 [chunks + 1]; chunk i holds `members[offsets[i] : offsets[i + 1]]`.
        members: int64 [documents]; indices of documents, chunk by chunk.
    """

    offsets: NDArray[np.int64]
    members: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, chunks: Sequence[Sequence[int]]) -> ChunkPlan:
        """A plan of chunks given as lists of documents."""
        members = [document for chunk in chunks for document in chunk]
        return cls(_offsets(np.asarray([len(chunk) for chunk in chunks], np.int64)), np.asarray(members, np.int64))

    def reordered(self, order: NDArray[np.int64]) -> ChunkPlan:
        """The same chunks, in another order."""
        sizes = np.diff(self.offsets)[order]
        offsets = _offsets(sizes)
        # Where each member stood: its chunk's old start, and its place in the chunk.
        places = np.repeat(self.offsets[:-1][order] - offsets[:-1], sizes) + np.arange(len(self.members))
        return ChunkPlan(offsets, self.members[places])


def plan_chunks(lengths: Lengths, chunk: int) -> ChunkPlan:
    """The better of two plans: best-fit decreasing, and where that leaves too much room, exact fill.

    With many short documents best fit reaches the bound. With few it leaves a little room in every chunk: 0.12% on 200,000
    documents of 2,500 tokens on average, where exact fill leaves 0.03%.

    Args:
        lengths: tokens of each document.
        chunk: tokens that a chunk holds.

    Raises:
        ValueError: a document is longer than a chunk.
    """
    plan = best_fit_decreasing(lengths, chunk)
    if len(plan) <= fewest_chunks(lengths, chunk) * (1 + GOOD_ENOUGH):
        return plan
    return min(plan, exact_fill(lengths, chunk), key=len)


def fewest_chunks(lengths: Lengths, chunk: int) -> int:
    """A number of chunks that no plan can do with less of: the bound L2 of Martello and Toth (1990).

    It is ceil(tokens / chunk), or more where documents longer than half a chunk, no two of which share one, leave room that
    the shorter ones cannot use. For any k up to half a chunk: documents over chunk - k share with none of at least k; those
    from there down to half a chunk need a chunk each; those from k to half a chunk fill the room left or need more.
    """
    counts = np.bincount(lengths, minlength=chunk + 1)
    below, tokens_below = _offsets(counts), _offsets(counts * np.arange(chunk + 1))  # [x]: of documents shorter than x
    half = chunk // 2
    k = np.arange(half + 1)
    alone = below[chunk + 1] - below[chunk - k + 1]
    large = below[chunk - k + 1] - below[half + 1]
    room = large * chunk - (tokens_below[chunk - k + 1] - tokens_below[half + 1])
    small = tokens_below[half + 1] - tokens_below[k]
    return max(-(-int(tokens_below[-1]) // chunk), int((alone + large + np.maximum(0, -((room - small) // chunk))).max()))


def best_fit_decreasing(lengths: Lengths, chunk: int) -> ChunkPlan:
    """Put every document, longest first, into the chunk with the least free space that still holds it.

    Documents of one length are placed together: the m = free // length that fit one after another into each of the chunks
    with that free space, which is where one by one would put them too. So the work grows with the number of different
    lengths, at most `chunk`, and not with that of documents. The free spaces that exist are bits of one integer: shifting
    right by the length and taking the lowest set bit finds the best fit.

    Raises:
        ValueError: a document is longer than a chunk.
    """
    if len(lengths) and lengths.max() > chunk:
        place = int(lengths.argmax())
        raise ValueError(f"document {place} has {lengths[place]} tokens, more than the chunk's {chunk}")
    documents = np.argsort(-lengths, kind="stable")
    chunk_of = np.empty(len(lengths), np.int64)  # by place in `documents`
    with_free: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
    spaces, opened, done = 0, 0, 0
    counts = np.bincount(lengths, minlength=1)
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            fitting = spaces >> length
            if fitting:
                free = length + (fitting & -fitting).bit_length() - 1
                chunks = np.concatenate(with_free.pop(free))
                spaces &= ~(1 << free)
            else:
                free = chunk
                chunks = np.arange(opened, opened - (-left // (chunk // length)))
                opened += len(chunks)
            each = free // length
            full = min(len(chunks), left // each)
            rest = left - full * each if full < len(chunks) else 0  # for one chunk that gets fewer than it could hold
            part = full + (rest > 0)
            placed = full * each + rest
            chunk_of[done : done + placed] = np.repeat(chunks[:part], each)[:placed]
            for some, used in ((chunks[:full], each), (chunks[full:part], rest), (chunks[part:], 0)):
                if len(some):
                    with_free[free - used * length].append(some)
                    spaces |= 1 << (free - used * length)
            done += placed
            left -= placed
    by_chunk = np.argsort(chunk_of, kind="stable")
    return ChunkPlan(_offsets(np.bincount(chunk_of, minlength=opened)), documents[by_chunk])


def exact_fill(lengths: Lengths, chunk: int) -> ChunkPlan:
    """Fill one chunk after another, from the longest document left, without a rest where one, two or three others allow it.

    The lengths that are left are bits of one integer, and of another one mirrored, so that a pair that fills the free space
    is a bit of the two shifted over one another: bit a says that a and free - a are both there.
    """
    counts = np.bincount(lengths, minlength=chunk + 1).tolist()
    there = sum(1 << length for length, count in enumerate(counts) if count)
    mirrored = sum(1 << (chunk - length) for length, count in enumerate(counts) if count)

    def change(length: int, by: int) -> None:
        nonlocal there, mirrored
        if counts[length] == 0 or counts[length] + by == 0:
            there ^= 1 << length
            mirrored ^= 1 << (chunk - length)
        counts[length] += by

    def pair(free: int) -> tuple[int, ...]:
        both = there & (mirrored >> (chunk - free))
        if free % 2 == 0 and counts[free // 2] == 1:  # one document is no pair
            both &= ~(1 << (free // 2))
        longest = both.bit_length() - 1
        return (longest, free - longest) if both else ()

    def ending(free: int) -> tuple[int, ...]:
        """Up to three lengths that fill the free space."""
        if there >> free & 1:
            return (free,)
        fitting = there & ((1 << free) - 1)
        if 3 * (fitting.bit_length() - 1) < free:  # three of the longest would not do
            return ()
        if two := pair(free):
            return two
        for _ in range(TRIED):
            longest = fitting.bit_length() - 1
            if 3 * longest < free:
                break
            fitting ^= 1 << longest
            change(longest, -1)
            two = pair(free - longest)
            change(longest, 1)
            if two:
                return (longest, *two)
        return ()

    sizes, taken = [], []  # lengths, chunk by chunk
    while there:
        free, size = chunk, 0
        while fitting := there & ((2 << free) - 1):
            chosen = ending(free) if size else ()
            for length in chosen or (fitting.bit_length() - 1,):
                change(length, -1)
                taken.append(length)
                free, size = free - length, size + 1
        sizes.append(size)
    # The documents of each length, in their order, stand for the lengths taken, in theirs.
    members = np.empty(len(taken), np.int64)
    members[np.argsort(-np.asarray(taken, np.int64), kind="stable")] = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    return ChunkPlan(_offsets(np.asarray(sizes, np.int64)), members)


class OnlineBestFit:
    """Best fit in one pass, for sets too large to plan at once: few chunks are open, and the fullest is closed for a new one.

    A document goes to the open chunk with the least free space that still holds it. Where none does and `OPEN_CHUNKS` are
    open, the fullest is closed.
    """

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk
        self._open: list[tuple[int, int, list[int]]] = []  # free space, when it was opened, members; by free space
        self._opened = 0

    def add(self, document: int, length: int) -> list[int] | None:
        """Place a document; return the members of the chunk that was closed for it, if one was."""
        closed = None
        place = bisect.bisect_left(self._open, (length,))
        if place < len(self._open):
            free, opened, members = self._open.pop(place)
        else:
            if len(self._open) == OPEN_CHUNKS:
                closed = self._open.pop(0)[2]
            self._opened += 1
            free, opened, members = self.chunk, self._opened, []
        members.append(document)
        bisect.insort(self._open, (free - length, opened, members))
        return closed

    def rest(self) -> list[list[int]]:
        """The members of the chunks that are still open, in the order in which they were opened."""
        return [members for _, _, members in sorted(self._open, key=lambda entry: entry[1])]


def _offsets(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
