"""Taking typed values out of a publisher's row."""

from __future__ import annotations

import math
import re
from typing import Any

Row = dict[str, Any]

WHOLE = re.compile(r"-?[0-9]{1,18}")

# JSON can write one ("\ud83d" alone); UTF-8, and so every digest and file of ours, cannot.
HALF_PAIR = re.compile("[\ud800-\udfff]")
# What broken conversions leave in texts: NUL, backspace, escape ... They say nothing, some end a string in other software, and a
# tokenizer has no use for them; the text around them is whole. So they go and the row stays. Vertical tab and form feed end a line.
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
LINE_END = re.compile("\r\n|[\r\x0b\x0c]")
ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # any of these, in one look

LONGEST_SHOWN = 80  # characters of a wrong value in an error


class ColumnError(Exception):
    """A row that lacks a column or holds another type: the file is not what the recipe says."""

    def __init__(self, column: str, found: str, expected: str) -> None:
        self.column, self.found, self.expected = column, found, expected
        super().__init__(f"{column}: {found}, expected {expected}")


def text(row: Row, column: str) -> str:
    """A text column, without control characters and with line feeds for line ends; null reads as empty."""
    found = value(row, column)
    if found is not None and not isinstance(found, str):
        raise ColumnError(column, f"a value of type {type(found).__name__}", "text")
    if found and ODD.search(found):
        if HALF_PAIR.search(found):
            raise ColumnError(column, "half of a surrogate pair", "text that can be written as UTF-8")
        return without_controls(found)
    return found or ""


def without_controls(text: str) -> str:
    """A text without the control characters of ASCII other than tab and line feed, which also stands for the other line ends."""
    return CONTROL.sub("", LINE_END.sub("\n", text))


def integer(row: Row, column: str) -> int:
    """A whole-number column, also where it is written as text."""
    found = value(row, column)
    if isinstance(found, str) and WHOLE.fullmatch(found.strip()):
        return int(found)
    if isinstance(found, bool) or not isinstance(found, int):
        raise ColumnError(column, _shown(found), "a whole number")
    return found


def floating(row: Row, column: str) -> float:
    """A column of finite numbers."""
    found = value(row, column)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise ColumnError(column, _shown(found), "a number")
    return float(found)


def floatings(row: Row, column: str) -> list[float]:
    """A column that holds a list of finite numbers."""
    found = value(row, column)
    if not isinstance(found, list):
        raise ColumnError(column, f"a value of type {type(found).__name__}", "a list of numbers")
    return [floating({column: item}, column) for item in found]


def texts(row: Row, column: str) -> list[str]:
    """A column that holds a list of texts."""
    found = value(row, column)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ColumnError(column, f"a value of type {type(found).__name__}", "a list of texts")
    return [text({column: item}, column) for item in found]


def records(row: Row, column: str, *keys: str) -> list[Row]:
    """A column that holds a list of records with these keys."""
    found = value(row, column)
    if not isinstance(found, list) or not all(isinstance(item, dict) and set(keys) <= item.keys() for item in found):
        raise ColumnError(column, f"a value of type {type(found).__name__}", f"a list of records with {', '.join(keys)}")
    return found


def value(row: Row, column: str) -> Any:
    """A column of any type."""
    if column not in row:
        raise ColumnError(column, f"columns {', '.join(sorted(map(str, row)))}", f"a column '{column}'")
    return row[column]


def _shown(found: Any) -> str:
    """A wrong value, its beginning where it is long."""
    shown = repr(found[: LONGEST_SHOWN + 1] if isinstance(found, (str, bytes, list)) else found)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]} ..."
