"""The archive that a bundle is: a ZIP file in one form only, written and read by the same few lines.

Entries are stored uncompressed, in the order of their names, with one fixed date and no comment. The reader walks the
file from its first byte and compares every header with the one it would have written: paths that lead elsewhere,
links, packed entries, names that come twice and bytes between entries cannot occur, and reading takes no more memory
than the file. Any ZIP program opens it.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Mapping

from med42.errors import Med42Error

LARGEST = 192 << 20  # bytes of a bundle: over 2 million rows with as many left out
MOST_ENTRIES = 10_000
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
LONGEST_NAME = 200

_VERSION, _DATE = 20, (1 << 5) | 1  # 2.0; 1980-01-01, 00:00
_UNIX, _MODE = 3, 0o100644
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")


def write_archive(entries: Mapping[str, bytes]) -> bytes:
    """The archive's bytes.

    Raises:
        Med42Error: a name that the form does not allow, or more bytes than a bundle may have.
    """
    parts: list[bytes] = []
    directory: list[bytes] = []
    start = 0
    for name in sorted(entries):
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise Med42Error("bundle", f"an entry called {name!r}", "letters, digits and ._- between slashes", "Rename it.")
        content = entries[name]
        crc = zlib.crc32(content)
        parts += [_local(name, crc, len(content)), content]
        directory.append(_central(name, crc, len(content), start))
        start += len(parts[-2]) + len(content)
    whole = b"".join([*parts, *directory, _end(len(directory), sum(map(len, directory)), start)])
    if len(whole) > LARGEST:
        raise Med42Error("bundle", f"{len(whole):,} bytes", f"at most {LARGEST:,}", "Seal fewer rows in one release.")
    return whole


def read_archive(content: memoryview, where: object) -> dict[str, memoryview]:
    """Its entries by name, as views of the same memory.

    Raises:
        Med42Error: naming the entry or the byte at which it is not what `write_archive` writes.
    """
    if len(content) > LARGEST:
        raise Med42Error(where, f"{len(content):,} bytes", f"a bundle of at most {LARGEST:,}", "It is another kind of file.")
    entries: dict[str, memoryview] = {}
    directory: list[bytes] = []
    place, last = 0, ""
    while content[place : place + 4] == b"PK\3\4":
        if place + _LOCAL.size > len(content):
            raise _changed(where, last, place, "a file that is no bundle (an entry cut short)")
        fields = _LOCAL.unpack_from(content, place)
        crc, size, length = fields[6], fields[8], fields[9]
        begin = place + _LOCAL.size + length
        name = bytes(content[place + _LOCAL.size : begin]).decode("latin-1")
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise Med42Error(f"{where}, {name[:LONGEST_NAME]!r}", "an entry that no bundle has", "entries of known names, once each",
                             "The bundle was changed.")
        if name <= last:
            raise _changed(where, name, place, "an entry out of order, or twice")
        if begin + size > len(content):
            raise _changed(where, name, place, "an entry that is cut short")
        if len(entries) == MOST_ENTRIES:
            raise _changed(where, name, place, f"more than {MOST_ENTRIES:,} entries")
        head = _local(name, crc, size)
        if content[place:begin] != head:
            raise _changed(where, name, place, "a header that sealing does not write (packed, dated or linked)")
        entries[name] = content[begin : begin + size]
        if zlib.crc32(entries[name]) != crc:
            raise _changed(where, name, begin, "content that does not fit its checksum")
        directory.append(_central(name, crc, size, place))
        place, last = begin + size, name
    if not entries:
        raise Med42Error(where, "a file that is no bundle", "a bundle as it was sealed",
                         "It was cut short, changed, or is another kind of file.")
    rest = b"".join([*directory, _end(len(directory), sum(map(len, directory)), place)])
    if content[place:] != rest:
        found = bytes(content[place:])
        differs = next((at for at, (a, b) in enumerate(zip(found, rest, strict=False)) if a != b), min(len(found), len(rest)))
        raise _changed(where, _named_at(differs, directory, entries), place + differs, "a table of contents that sealing does not write")
    return entries


def _named_at(place: int, directory: list[bytes], names: Iterable[str]) -> str:
    for name, line in zip(names, directory, strict=True):
        if place < len(line):
            return name
        place -= len(line)
    return "the end of the table of contents"


def _changed(where: object, name: str, place: int, found: str) -> Med42Error:
    return Med42Error(f"{where}, {name or 'the first entry'} (byte {place:,})", found, "the file as it was sealed",
                      "The bundle was changed.")


def _local(name: str, crc: int, size: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), 0) + name.encode("latin-1")


def _central(name: str, crc: int, size: int, start: int) -> bytes:
    return _CENTRAL.pack(b"PK\1\2", _VERSION, _UNIX, _VERSION, 0, 0, 0, 0, _DATE, crc, size, size, len(name), 0, 0, 0, 0,
                         _MODE << 16, start) + name.encode("latin-1")


def _end(count: int, size: int, start: int) -> bytes:
    return _END.pack(b"PK\5\6", 0, 0, count, count, size, start, 0)
