"""Reading JSON that somebody else may have written: in one form only, and of bounded size, depth and count.

What is read must be the canonical JSON (RFC 8785) of what it says. Keys that come twice, numbers that lose digits,
other spellings of the same text and white space are thereby refused, whatever they were meant for.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from med42.errors import Med42Error
from med42.lineage.digest import canonical

LARGEST = 16 << 20  # bytes
DEEPEST = 64
MOST_VALUES = 400_000  # an empty mapping takes some 100 bytes of memory for two of text
LONGEST_NUMBER = 24  # characters


def read_canonical(content: bytes | memoryview, where: object) -> Any:
    """The value of canonical JSON.

    Raises:
        Med42Error: too large, too deep, too many values, not JSON, or not in canonical form.
    """
    text = bytes(content[: LARGEST + 1])
    if len(text) > LARGEST:
        raise _refused(where, f"more than {LARGEST:,} bytes of JSON")
    if values_in(text) > MOST_VALUES:
        raise _refused(where, f"more than {MOST_VALUES:,} values of JSON")
    try:
        value = json.loads(text, parse_constant=_no_number, parse_int=_whole, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise _refused(where, f"text that is not JSON ({error})") from error
    if _deeper_than(value, DEEPEST):
        raise _refused(where, f"JSON nested deeper than {DEEPEST}")
    try:
        same = canonical(value) == text
    except Med42Error as error:
        raise _refused(where, error.found) from error
    if not same:
        raise _refused(where, "JSON that is not in canonical form (keys twice or out of order, odd numbers, white space)")
    return value


def values_in(content: bytes | memoryview) -> int:
    """At least as many as there are values in some JSON."""
    text = bytes(content)
    return sum(text.count(mark) for mark in (b",", b"{", b"["))


def _refused(where: object, found: str) -> Med42Error:
    return Med42Error(where, found, "canonical JSON as it was sealed", "The bundle was changed.")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"the number {word}")


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _number(digits: str) -> float:
    if len(digits) > 2 * LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits):,} digits")
    return float(digits)


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [inner for outer in level if isinstance(outer, (dict, list))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return False
    return any(isinstance(value, (dict, list)) for value in level)
