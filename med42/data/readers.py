"""Reading rows where they lie: files by name, a hub repository or a bucket by pinned content, or the invented world."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med42.data.buckets import fetch_bucket
from med42.data.hub import check_digests, fetch_hub, resolve
from med42.data.invented import rows as invented_rows
from med42.data.row import Row
from med42.errors import Med42Error
from med42.recipe import Recipe
from med42.recipe.lock import pin_of
from med42.recipe.schema import BucketOrigin, FileOrigin, HubOrigin, InventedOrigin, Origin

ROWS_PER_BLOCK = 2000
# A block of long rows ends sooner, so that memory does not grow with the length of rows; a row that is longer is a block of its own.
BLOCK_BYTES = 8 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_FIELD = 1 << 30  # of a CSV file, characters; the library's own limit is 131,072, which clinical notes go beyond


@dataclass(frozen=True)
class Block:
    """Rows that follow one another in a file, as they stand there: cheap to make, and to send to a process that parses them.

    Attributes:
        name: the file, as its origin calls it; or the part of the invented world.
        path: where it lies, for errors.
        first: the number of the first row, from 1.
        content: JSON lines without empty ones, as bytes; or rows of Parquet, as an Arrow stream; or rows already parsed.
    """

    name: str
    path: str
    first: int
    content: bytes | ArrowStream | list[Any]

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Every row with its place, as `file.jsonl.gz:17`.

        Raises:
            Med42Error: bad JSON, invalid UTF-8, a row that is no mapping; with file and row.
        """
        for number, row in enumerate(self._parsed(), self.first):
            if not isinstance(row, dict):
                raise Med42Error(f"{self.path}:{number}", f"a row of type {type(row).__name__}", "a mapping of columns",
                                 "Mend or remove the row.")
            yield f"{self.name}:{number}", row

    def _parsed(self) -> Iterator[Any]:
        if isinstance(self.content, list):
            yield from self.content
        elif isinstance(self.content, ArrowStream):
            yield from self.content.rows(self.path, self.first)
        else:
            for number, line in enumerate(self.content.removesuffix(b"\n").split(b"\n"), self.first):
                yield _json_row(line, f"{self.path}:{number}")


@dataclass(frozen=True)
class ArrowStream:
    """A batch of rows as an Arrow stream, which holds no more than them; a pickled slice holds the whole table."""

    stream: bytes

    def rows(self, path: str, first: int) -> Iterator[Any]:
        """The rows as mappings."""
        import pyarrow

        with pyarrow.ipc.open_stream(self.stream) as reader:
            batch = reader.read_next_batch()
        try:
            yield from batch.to_pylist()
        except (ValueError, OverflowError) as error:  # of the whole batch, before a row was given
            for number in range(batch.num_rows):
                try:
                    batch.slice(number, 1).to_pylist()
                except UnicodeDecodeError as wrong:
                    raise _not_utf8(f"{path}:{first + number}", wrong) from wrong
                except (ValueError, OverflowError) as wrong:
                    raise Med42Error(f"{path}:{first + number}", f"a value that cannot be held ({wrong})",
                                     "numbers, texts, lists, mappings", "Mend or remove the row.") from wrong
            raise error


@dataclass(frozen=True)
class Located:
    """An origin that has been found: files to read, with the digests that pin their content."""

    origin: Origin
    files: dict[str, Path]
    seed: int
    digests: dict[str, str]

    @property
    def pinned(self) -> dict[str, Any]:
        """What identifies the rows: file digests, or the part and seed of the invented world."""
        return {"part": self.origin.part, "seed": self.seed} if isinstance(self.origin, InventedOrigin) else self.digests

    def blocks(self, rows_per_block: int = ROWS_PER_BLOCK) -> Iterator[Block]:
        """All rows, in blocks; the same blocks each time.

        Raises:
            Med42Error: a file is torn, is not what its name says, or holds no rows.
        """
        if isinstance(self.origin, InventedOrigin):
            yield from _blocks(invented_rows(self.origin.part, self.seed), self.origin.part, self.origin.part, rows_per_block)
        for name, path in self.files.items():
            yield from read_blocks(path, name, rows_per_block)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Every row with its place, as `file.jsonl.gz:17`."""
        for block in self.blocks():
            yield from block.rows()


def locate(recipe: Recipe, key: str, origin: Origin, data_root: Path | None) -> Located:
    """Find an origin's files, fetch those of a hub or bucket, and hold them to their pins.

    Args:
        recipe: the resolved recipe, for its seed and its pins.
        key: the recipe key of the origin, as `sources.medquad.origin`.
        origin: the recipe's origin.
        data_root: folder in which file origins are looked up.

    Raises:
        Med42Error: what is asked for is not there or not given; it has no pin and needs one; or its bytes are not the pinned ones.
    """
    if isinstance(origin, InventedOrigin):
        return Located(origin, {}, recipe.seed, {})
    pin = pin_of(recipe, key, origin)
    match origin:
        case FileOrigin():
            files = local_files(origin, data_root, key)
        case BucketOrigin():
            files = fetch_bucket(origin, pin, key)
        case HubOrigin():
            commit, names = (pin.revision, list(pin.files)) if pin and pin.revision else resolve(origin, key)
            files = fetch_hub(origin, commit, sorted(names), key)
    return Located(origin, files, recipe.seed, check_digests(files, pin, key))


def local_files(origin: FileOrigin, data_root: Path | None, key: str) -> dict[str, Path]:
    """Files by name below the data root.

    Raises:
        Med42Error: there is no data root, or a file is not there.
    """
    if data_root is None:
        raise Med42Error(key, f"files {', '.join(origin.files)}", "a folder to look them up in", "Give --data-root DIR.")
    files = {name: data_root / name for name in origin.files}
    for name, path in files.items():
        if not path.is_file():
            raise Med42Error(path, "no such file", f"the file '{name}' of {key}", "Put it there or give another --data-root.")
    return files


def read_rows(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    """Rows of one file with their places; the format follows from the name.

    Raises:
        Med42Error: torn gzip, invalid UTF-8, bad JSON, a row that is no mapping, no rows at all.
    """
    for block in read_blocks(path, name):
        yield from block.rows()


def read_blocks(path: Path, name: str, rows_per_block: int = ROWS_PER_BLOCK) -> Iterator[Block]:
    """Rows of one file in blocks; the format follows from the name.

    Raises:
        Med42Error: torn gzip, no Parquet or CSV, no rows at all. What is wrong with a row of JSON lines or of Parquet is
            told when its block is parsed.
    """
    plain = name.removesuffix(".gz").removesuffix(".zst")
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, ".json": _json}
    reader = readers.get(Path(plain).suffix)
    if reader is None:
        raise Med42Error(path, f"the suffix '{Path(plain).suffix}'", "one of .jsonl, .json, .csv, .parquet (texts also .gz, .zst)",
                         "Convert the file.")
    empty = True
    for block in reader(path, name, rows_per_block):
        empty = False
        yield block
    if empty:
        raise Med42Error(path, "no rows", "at least one row", "The file is empty; fetch it again.")


def _jsonl(path: Path, name: str, rows_per_block: int) -> Iterator[Block]:
    lines: list[bytes] = []
    done, size = 0, 0
    with _opened(path) as handle:
        try:
            for number, line in enumerate(handle):
                if number == 0:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                if not line or line.isspace():
                    continue
                if lines and (len(lines) == rows_per_block or size + len(line) > BLOCK_BYTES):
                    yield Block(name, str(path), done + 1, b"".join(lines))
                    done, lines, size = done + len(lines), [], 0
                lines.append(line)
                size += len(line)
        except (EOFError, zlib.error, OSError) as error:
            raise _torn(path, done + len(lines), error) from error
    if lines:
        yield Block(name, str(path), done + 1, b"".join(lines))


def _json_row(line: bytes, place: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _not_utf8(place, error) from error
    except (ValueError, RecursionError) as error:
        # Besides bad JSON, numbers of thousands of digits and lists within lists within lists.
        raise Med42Error(place, f"text that is not JSON ({error})", "one JSON object a row", "Mend or remove the row.") from error


def _json(path: Path, name: str, rows_per_block: int) -> Iterator[Block]:
    with _as_text(path) as handle:
        try:
            values = json.load(handle)
        except UnicodeDecodeError as error:
            raise _not_utf8(f"{path}, after row 0", error) from error
        except (EOFError, zlib.error, OSError) as error:
            raise _torn(path, 0, error) from error
        except (ValueError, RecursionError) as error:
            raise Med42Error(path, f"text that is not JSON ({error})", "a JSON list of rows",
                             "Mend the file, or fetch it again.") from error
    if not isinstance(values, list):
        raise Med42Error(path, f"a JSON {type(values).__name__}", "a JSON list of rows", "Use .jsonl for one object a line.")
    yield from _blocks(iter(values), name, str(path), rows_per_block)


def _csv(path: Path, name: str, rows_per_block: int) -> Iterator[Block]:
    csv.field_size_limit(LONGEST_FIELD)
    with _as_text(path) as handle:
        yield from _blocks(_csv_rows(path, handle), name, str(path), rows_per_block)


def _csv_rows(path: Path, handle: io.TextIOWrapper) -> Iterator[Any]:
    done = 0
    try:
        reader = csv.DictReader(handle, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise Med42Error(f"{path}:{reader.line_num}", "a row with another number of columns than the header",
                                 f"{len(reader.fieldnames or [])} columns", "Mend the row; a field with commas needs quotes.")
            yield row
            done += 1
    except UnicodeDecodeError as error:
        raise _not_utf8(f"{path}, after row {done}", error) from error
    except (EOFError, zlib.error, OSError) as error:
        raise _torn(path, done, error) from error
    except csv.Error as error:
        raise Med42Error(f"{path}:{done + 1}", f"text that is not CSV ({error})", "comma-separated values with a header",
                         "Mend the row.") from error


def _parquet(path: Path, name: str, rows_per_block: int) -> Iterator[Block]:
    import pyarrow
    import pyarrow.parquet

    done = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=rows_per_block):
                # In pieces of equal rows, each about as large as a block may be.
                pieces = max(1, batch.nbytes // BLOCK_BYTES)
                rows = -(-batch.num_rows // pieces)
                for start in range(0, batch.num_rows, rows or 1):
                    piece = batch.slice(start, rows)
                    stream = pyarrow.BufferOutputStream()
                    with pyarrow.ipc.new_stream(stream, piece.schema) as writer:
                        writer.write_batch(piece)
                    yield Block(name, str(path), done + 1, ArrowStream(stream.getvalue().to_pybytes()))
                    done += piece.num_rows
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise Med42Error(path, f"a file that is not Parquet ({error})", "a whole Parquet file", "Fetch the file again.") from error


def _blocks(rows: Iterator[Any], name: str, path: str, rows_per_block: int) -> Iterator[Block]:
    first = 1
    while taken := list(itertools.islice(rows, rows_per_block)):
        yield Block(name, path, first, taken)
        first += len(taken)


def _opened(path: Path) -> io.BufferedReader:
    if path.suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path))  # lines are cut by C, not by gzip's own Python
    return path.open("rb")


def _as_text(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="")


def _not_utf8(place: str, error: UnicodeDecodeError) -> Med42Error:
    return Med42Error(place, f"byte 0x{error.object[error.start]:02x} that is not UTF-8", "UTF-8 text", "Convert the file to UTF-8.")


def _torn(path: Path, rows: int, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno:  # the file system's, as no right to read
        return error
    return Med42Error(path, f"compressed data that breaks off after row {rows} ({error})", "a whole compressed file",
                      "Fetch the file again.")
