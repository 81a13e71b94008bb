"""Which documents share a chunk: best-fit decreasing, planned on lengths alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


def best_fit_decreasing(lengths: Sequence[int], chunk: int) -> list[list[int]]:
    """Indices of the documents of each chunk, longest first, none over `chunk` tokens.

    A document goes to the chunk with the least free space that still holds it. The free spaces that exist
    are bits of one integer: shifting right by the length and taking the lowest set bit finds the best fit.
    """
    bins: list[list[int]] = []
    with_free: dict[int, list[int]] = defaultdict(list)
    spaces = 0
    for index in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        length = lengths[index]
        if length > chunk:
            raise ValueError(f"document {index} has {length} tokens, more than the chunk's {chunk}")
        fitting = spaces >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            place = with_free[free].pop()
            if not with_free[free]:
                spaces &= ~(1 << free)
            bins[place].append(index)
        else:
            free, place = chunk, len(bins)
            bins.append([index])
        left = free - length
        with_free[left].append(place)
        spaces |= 1 << left
    return bins
