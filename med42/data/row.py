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
    value = _value(row, column)
    if value is not None and not isinstance(value, str):
        raise ColumnError(column, f"a value of type {type(value).__name__}", "text")
    if value and HALF_PAIR.search(value):
        raise ColumnError(column, "half of a surrogate pair", "text that can be written as UTF-8")
    return value or ""


def integer(row: Row, column: str) -> int:
    """A whole-number column, also where it is written as text."""
    value = _value(row, column)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not WHOLE.fullmatch(str(value).strip()):
        raise ColumnError(column, f"{value!r}", "a whole number")
    return int(value)


def floating(row: Row, column: str) -> float:
    """A column of finite numbers."""
    value = _value(row, column)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ColumnError(column, f"{value!r}", "a number")
    return float(value)


def texts(row: Row, column: str) -> list[str]:
    """A column that holds a list of texts."""
    value = _value(row, column)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ColumnError(column, f"a value of type {type(value).__name__}", "a list of texts")
    return [text({column: item}, column) for item in value]


def turns(row: Row, column: str) -> list[Row]:
    """A column that holds a list of chat turns with `role` and `content`."""
    value = _value(row, column)
    if not isinstance(value, list) or not all(isinstance(item, dict) and {"role", "content"} <= item.keys() for item in value):
        raise ColumnError(column, f"a value of type {type(value).__name__}", "a list of turns with role and content")
    return value


def _value(row: Row, column: str) -> Any:
    if column not in row:
        raise ColumnError(column, f"columns {', '.join(sorted(row))}", f"a column '{column}'")
    return row[column]
