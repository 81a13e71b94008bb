"""Taking typed values out of a publisher's row."""

from __future__ import annotations

import math
import re
from typing import Any

Row = dict[str, Any]

WHOLE = re.compile(r"-?[0-9]{1,18}")

# JSON can write one ("\ud83d" alone); UTF-8, and so every digest and file of ours, cannot.
HALF_PAIR = re.compile("[\ud800-\udfff]")


class ColumnError(Exception):
    """A row that lacks a column or holds another type: the file is not what the recipe says."""

    def __init__(self, column: str, found: str, expected: str) -> None:
        self.column, self.found, self.expected = column, found, expected
        super().__init__(f"{column}: {found}, expected {expected}")


def text(row: Row, column: str) -> str:
    """A text column; null reads as empty."""
    found = value(row, column)
    if found is not None and not isinstance(found, str):
        raise ColumnError(column, f"a value of type {type(found).__name__}", "text")
    if found and HALF_PAIR.search(found):
        raise ColumnError(column, "half of a surrogate pair", "text that can be written as UTF-8")
    return found or ""


def integer(row: Row, column: str) -> int:
    """A whole-number column, also where it is written as text."""
    found = value(row, column)
    if isinstance(found, bool) or not isinstance(found, (int, str)) or not WHOLE.fullmatch(str(found).strip()):
        raise ColumnError(column, f"{found!r}", "a whole number")
    return int(found)


def floating(row: Row, column: str) -> float:
    """A column of finite numbers."""
    found = value(row, column)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise ColumnError(column, f"{found!r}", "a number")
    return float(found)


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
        raise ColumnError(column, f"columns {', '.join(sorted(row))}", f"a column '{column}'")
    return row[column]
