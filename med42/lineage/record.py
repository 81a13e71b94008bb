"""The record that travels with every artifact: what it is, what it was made of, how, and by which run.

A record has two halves. Its *identity* (stage, parameters, inputs, code, files, measurements) is what
the digest is taken of, so two runs that made the same thing have the same digest. The other half,
`made`, holds the circumstances: run, time, machine.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from med42.errors import Med42Error
from med42.lineage.digest import canonical, file_digest, folder_files, value_digest
from med42.lineage.row_set import LEFT_OUT, ROWS

RECORD = "record.json"
ANCESTRY = "ancestry.json"
CARRIED = "ancestry"  # folder of the row sets of what an artifact descends from


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    bytes: int


class Made(BaseModel):
    """The circumstances under which an artifact was made; no part of its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    run: str
    started: str
    seconds: float
    python: str
    machine: str
    processors: int
    commit: str
    dirty: bool
    image: str
    accelerators: list[str] = []
    observed: dict[str, Any] = {}


class Record(BaseModel):
    """What an artifact is and where it comes from.

    Attributes:
        stage: the stage that made it, as `train_dpo`.
        name: what this one is called, as `train_dpo-2`.
        kind: the artifact kind of DESIGN's data flow, as `model`.
        parameters: the part of the recipe that this stage used, resolved.
        inputs: digest of each input's record, by input name.
        code: digest of the source of the stage's layer and of the layers below it.
        packages: versions of the libraries that its result depends on.
        files: every file but the record and the ancestry.
        measured: counts, scores, decisions; deterministic.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal["med42.record/1"] = "med42.record/1"
    stage: str
    name: str
    kind: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    code: str
    packages: dict[str, str]
    files: dict[str, FileEntry]
    measured: dict[str, Any]
    made: Made

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the identity half."""
        # Not in mode "json", which would turn NaN into null and a set into a list instead of leaving them to be refused.
        return value_digest(self.model_dump(exclude={"made"}))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the result; equal fingerprints need not be computed twice."""
        return fingerprint(self.stage, self.name, self.parameters, self.inputs, self.code, self.packages)


def fingerprint(stage: str, name: str, parameters: dict[str, Any], inputs: dict[str, str], code: str,
                packages: dict[str, str]) -> str:
    """SHA-256 over what decides an artifact's content before it is made."""
    return value_digest({"stage": stage, "name": name, "parameters": parameters, "inputs": inputs,
                         "code": code, "packages": packages})


def read_record(artifact: Path) -> Record:
    """Read the record of an artifact folder.

    Raises:
        Med42Error: there is none (the artifact is incomplete), or it does not fit the schema.
    """
    return parse_record(_read(artifact / RECORD, "an artifact with its record"), artifact / RECORD)


def parse_record(text: bytes | str, where: object) -> Record:
    """Read a record from JSON; where it tells its own digest, that must be right."""
    try:
        told = dict[str, Any](json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise Med42Error(where, f"text that is not a JSON mapping ({error})", "a record", "Make the artifact again.") from error
    digest = told.pop("digest", None)
    record = record_of(told, where)
    if digest is not None and digest != record.digest:
        raise Med42Error(where, f"a record of '{record.name}' with digest {record.digest[:12]}", f"{str(digest)[:12]}, as it says",
                         "The record was changed; make the artifact again.")
    return record


def record_of(told: Any, where: object) -> Record:
    """A record from what its JSON tells.

    Raises:
        Med42Error: naming the key that does not fit the schema.
    """
    try:
        return Record.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise Med42Error(where, f"'{'.'.join(map(str, first['loc']))}': {first['msg'].lower()}"[:400], "a record of schema med42.record/1",
                         "Make the artifact again with this version.") from error


def read_ancestry(artifact: Path) -> dict[str, Record]:
    """All records that an artifact descends from, by digest, its own not included."""
    where = artifact / ANCESTRY
    try:
        texts = dict[str, Any](json.loads(_read(where, "an artifact with its ancestry")))
    except (ValueError, TypeError) as error:
        raise Med42Error(where, f"text that is not a JSON mapping ({error})", "a mapping of records", "Make the artifact again.") from error
    ancestry = {digest: parse_record(json.dumps(value), where) for digest, value in texts.items()}
    for digest, record in ancestry.items():
        if record.digest != digest:
            raise Med42Error(where, f"record '{record.name}' with digest {record.digest[:12]}", digest[:12],
                             "The ancestry was changed; make the artifact again.")
    return ancestry


def write_record(artifact: Path, record: Record, ancestry: dict[str, Record]) -> None:
    """Write ancestry and, last of all, the record: its presence says that the artifact is complete."""
    (artifact / ANCESTRY).write_bytes(ancestry_bytes(ancestry))
    (artifact / RECORD).write_text(record_text(record))


def ancestry_bytes(ancestry: dict[str, Record]) -> bytes:
    """An ancestry as it is written beside its artifact."""
    return canonical({digest: ancestor.model_dump(mode="json") for digest, ancestor in ancestry.items()})


def record_text(record: Record) -> str:
    """A record as it is written beside its artifact, with its own digest, by which a change of it is noticed."""
    return json.dumps({"digest": record.digest, **record.model_dump(mode="json")}, indent=1, sort_keys=True) + "\n"


def describe_files(artifact: Path) -> dict[str, FileEntry]:
    """Digest and size of every file of an artifact but its record, its ancestry and the row sets that it carries."""
    return {
        name: FileEntry(sha256=file_digest(artifact / name), bytes=(artifact / name).stat().st_size)
        for name in folder_files(artifact) if name not in (RECORD, ANCESTRY) and not name.startswith(f"{CARRIED}/")
    }


def row_sets(ancestry: dict[str, Record]) -> dict[str, FileEntry]:
    """The row sets among the files of some records, by the names under which artifacts carry them and bundles hold them."""
    return {f"{digest}.{name}": record.files[name] for digest, record in ancestry.items()
            for name in (ROWS, LEFT_OUT) if name in record.files}


def differing_row_sets(artifact: Path, ancestry: dict[str, Record]) -> list[str]:
    """Names of row sets that an artifact lacks, carries besides, or carries with other content."""
    folder, expected = artifact / CARRIED, row_sets(ancestry)
    found = {name: file_digest(folder / name) for name in folder_files(folder)} if folder.is_dir() else {}
    return sorted(name for name in found.keys() | expected.keys() if name not in expected or found.get(name) != expected[name].sha256)


def differing_files(artifact: Path, record: Record) -> list[str]:
    """Names of files that are missing, changed or added since the record was written; row sets that are carried left out."""
    found = describe_files(artifact)
    return sorted(name for name in found.keys() | record.files.keys() if found.get(name) != record.files.get(name))


def _read(path: Path, expected: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Med42Error(path, error.strerror or str(error), expected, "Run the stage that makes it first.") from error
