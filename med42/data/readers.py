"""Reading rows where they lie: files by name, a hub repository by revision, or the invented world."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med42.data.invented import rows as invented_rows
from med42.data.row import Row
from med42.errors import Med42Error
from med42.lineage.digest import file_digest
from med42.recipe.schema import FileOrigin, HubOrigin, InventedOrigin


@dataclass(frozen=True)
class Located:
    """An origin that has been found: files to read, with the digests that pin their content."""

    origin: FileOrigin | HubOrigin | InventedOrigin
    files: dict[str, Path]
    seed: int

    @property
    def pinned(self) -> dict[str, Any]:
        """What identifies the rows: file digests, or the part and seed of the invented world."""
        if isinstance(self.origin, InventedOrigin):
            return {"part": self.origin.part, "seed": self.seed}
        return {name: file_digest(path) for name, path in self.files.items()}

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Every row with its place, as `file.jsonl.gz:17`."""
        if isinstance(self.origin, InventedOrigin):
            for number, row in enumerate(invented_rows(self.origin.part, self.seed), 1):
                yield f"{self.origin.part}:{number}", row
        for name, path in self.files.items():
            yield from read_rows(path, name)


def locate(origin: FileOrigin | HubOrigin | InventedOrigin, data_root: Path | None, seed: int, key: str) -> Located:
    """Find an origin's files; a hub's are downloaded.

    Args:
        origin: the recipe's origin.
        data_root: folder in which file origins are looked up.
        seed: the recipe's seed, for the invented world.
        key: the recipe key, for errors.
    """
    if isinstance(origin, InventedOrigin):
        return Located(origin, {}, seed)
    if isinstance(origin, HubOrigin):
        return Located(origin, _download(origin, key), seed)
    if data_root is None:
        raise Med42Error(key, f"files {', '.join(origin.files)}", "a folder to look them up in", "Give --data-root DIR.")
    files = {name: data_root / name for name in origin.files}
    for name, path in files.items():
        if not path.is_file():
            raise Med42Error(path, "no such file", f"the file '{name}' of {key}", "Put it there or give another --data-root.")
    return Located(origin, files, seed)


def read_rows(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    """Rows of one file with their places; the format follows from the name.

    Raises:
        Med42Error: torn gzip, invalid UTF-8, bad JSON, a row that is no mapping, no rows at all.
    """
    plain = name.removesuffix(".gz").removesuffix(".zst")
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, ".json": _json}
    reader = readers.get(Path(plain).suffix)
    if reader is None:
        raise Med42Error(path, f"the suffix '{Path(plain).suffix}'", "one of .jsonl, .json, .csv, .parquet (texts also .gz, .zst)",
                         "Convert the file.")
    row_number = 0
    try:
        for row_number, row in enumerate(reader(path), 1):
            if not isinstance(row, dict):
                raise Med42Error(f"{path}:{row_number}", f"a row of type {type(row).__name__}", "a mapping of columns",
                                 "Mend or remove the row.")
            yield f"{name}:{row_number}", row
    except UnicodeDecodeError as error:
        raise Med42Error(f"{path}, after row {row_number}", f"byte 0x{error.object[error.start]:02x} that is not UTF-8", "UTF-8 text",
                         "Convert the file to UTF-8.") from error
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the file system's, as no right to read
            raise
        raise Med42Error(path, f"compressed data that breaks off after row {row_number} ({error})", "a whole compressed file",
                         "Fetch the file again.") from error
    except (ValueError, RecursionError) as error:
        # Besides bad JSON, numbers of thousands of digits and lists within lists within lists.
        raise Med42Error(f"{path}:{row_number + 1}", f"text that is not JSON ({error})", "one JSON object a row",
                         "Mend or remove the row.") from error
    except csv.Error as error:
        raise Med42Error(f"{path}:{row_number + 1}", f"text that is not CSV ({error})", "comma-separated values with a header",
                         "Mend the row.") from error
    if row_number == 0:
        raise Med42Error(path, "no rows", "at least one row", "The file is empty; fetch it again.")


def _jsonl(path: Path) -> Iterator[Any]:
    with _opened(path) as handle:
        for line in handle:
            if line.strip():
                yield json.loads(line)


def _json(path: Path) -> Iterator[Any]:
    with _opened(path) as handle:
        values = json.load(handle)
    if not isinstance(values, list):
        raise Med42Error(path, f"a JSON {type(values).__name__}", "a JSON list of rows", "Use .jsonl for one object a line.")
    yield from values


def _csv(path: Path) -> Iterator[Any]:
    with _opened(path) as handle:
        reader = csv.DictReader(handle, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise Med42Error(f"{path}:{reader.line_num}", "a row with another number of columns than the header",
                                 f"{len(reader.fieldnames or [])} columns", "Mend the row; a field with commas needs quotes.")
            yield row


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise Med42Error(path, f"a file that is not Parquet ({error})", "a whole Parquet file", "Fetch the file again.") from error


def _opened(path: Path) -> io.TextIOWrapper:
    if path.suffix == ".zst":
        import pyarrow

        return io.TextIOWrapper(io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd")), encoding="utf-8-sig", newline="")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _download(origin: HubOrigin, key: str) -> dict[str, Path]:
    from fnmatch import fnmatch

    from huggingface_hub import hf_hub_download, list_repo_files

    from med42.data.hub import told_plainly

    with told_plainly(f"{key}: dataset {origin.repo}@{origin.revision}"):
        published = sorted(list_repo_files(origin.repo, repo_type="dataset", revision=origin.revision))
        wanted = [name for name in published if any(fnmatch(name, pattern) for pattern in origin.files)]
        if lost := [pattern for pattern in origin.files if not any(fnmatch(name, pattern) for name in published)]:
            raise Med42Error(key, f"no file that matches {', '.join(lost)} in {origin.repo}", "at least one for each pattern",
                             f"The repository holds: {', '.join(published[:8])}.")
        return {name: Path(hf_hub_download(origin.repo, name, repo_type="dataset", revision=origin.revision)) for name in wanted}
