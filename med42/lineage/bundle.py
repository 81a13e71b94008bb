"""The audit bundle: one file that holds the records of a release, from the sources on, and checks itself.

A bundle is a ZIP file whose entries are stored uncompressed, in name order, with one fixed date, so that the same
records give the same bytes:

    bundle.json              what it is about, and the SHA-256 of every other entry
    recipe.json              the resolved recipe, canonical JSON
    records/<digest>.json    one record an artifact
    report.html              the same for people

`verify` writes the file again from its own entries and compares: no byte is outside what is checked. Entries that
were all changed to fit one another are caught by a signature, not here.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.lineage.digest import canonical
from med42.lineage.record import ANCESTRY, RECORD, Record, ancestry_bytes, differing_files, parse_record, record_text

INDEX, RECIPE, REPORT, RECORDS = "bundle.json", "recipe.json", "report.html", "records/"
SCHEMA = "med42.bundle/1"
LARGEST = 1 << 30


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds."""

    index: dict[str, Any]
    recipe: bytes
    records: dict[str, Record]
    report: str

    @property
    def subject(self) -> Record:
        """The record that the bundle is about."""
        return self.records[self.index["subject"]]


def pack(recipe_name: str, recipe: bytes, subject: str, records: dict[str, Record], report: str) -> bytes:
    """The bytes of a bundle."""
    entries = {RECIPE: recipe, REPORT: report.encode("ascii")}
    entries |= {f"{RECORDS}{digest}.json": canonical(record.model_dump(mode="json")) for digest, record in records.items()}
    index = {
        "schema": SCHEMA, "recipe": recipe_name, "recipe_digest": hashlib.sha256(recipe).hexdigest(), "subject": subject,
        "entries": {name: hashlib.sha256(content).hexdigest() for name, content in entries.items()},
    }
    return _zip({INDEX: canonical(index), **entries})


def unpack(content: bytes, where: object) -> Bundle:
    """Read a bundle and check it against itself.

    Raises:
        Med42Error: naming the entry that is missing, added, changed or not what its digest says.
    """
    entries = _unzip(content, where)
    try:
        index = json.loads(entries[INDEX])
        listed: dict[str, str] = index["entries"]
        told = {key: index[key] for key in ("schema", "recipe", "recipe_digest", "subject")}
        if not isinstance(listed, dict) or not {RECIPE, REPORT} <= listed.keys() or {type(value) for value in told.values()} != {str}:
            raise ValueError("without the recipe, the report or a name")
    except (KeyError, ValueError, TypeError) as error:
        raise Med42Error(f"{where}, {INDEX}", f"an unreadable index ({error!r})", "the index that was sealed",
                         "The bundle was changed.") from error
    for name in sorted(listed.keys() | entries.keys() - {INDEX}):
        found = hashlib.sha256(entries[name]).hexdigest() if name in entries else "nothing"
        if found != listed.get(name):
            raise Med42Error(f"{where}, {name}", f"sha256 {found[:16]}", f"{str(listed.get(name, 'no such entry'))[:16]}",
                             "The bundle was changed after it was sealed.")
    fits = told["schema"] == SCHEMA and told["recipe_digest"] == listed[RECIPE] and index.keys() == {"entries", *told}
    if not fits or canonical(index) != entries[INDEX]:
        raise Med42Error(f"{where}, {INDEX}", "an index that does not fit the entries", f"schema {SCHEMA} and the recipe's digest",
                         "The bundle was changed.")
    records = {}
    for name in sorted(listed):
        if name.startswith(RECORDS):
            record = parse_record(entries[name], f"{where}, {name}")
            if name != f"{RECORDS}{record.digest}.json":
                raise Med42Error(f"{where}, {name}", f"a record with digest {record.digest[:16]}", "the digest in its name",
                                 "The record was changed.")
            records[record.digest] = record
    if told["subject"] not in records or _recipe_name(entries[RECIPE]) != told["recipe"] or not entries[REPORT].isascii():
        raise Med42Error(f"{where}, {INDEX}", f"recipe '{told['recipe']}', subject {str(told['subject'])[:16]}",
                         "a recipe and a record that the bundle holds, and a report in ASCII", "The bundle was changed.")
    if (sealed := _zip(entries)) != content:
        place = next((place for place, (a, b) in enumerate(zip(sealed, content, strict=False)) if a != b), min(len(sealed), len(content)))
        raise Med42Error(f"{where}, byte {place} (between its entries)", "bytes that sealing does not write", "the file as it was sealed",
                         "The bundle was changed.")
    return Bundle(index, entries[RECIPE], records, entries[REPORT].decode("ascii"))


def check_chain(bundle: Bundle, where: object) -> None:
    """Follow every input of every record back to the sources.

    Raises:
        Med42Error: a gap, a record that belongs to nothing, a push against the decision, another recipe.
    """
    reached: set[str] = set()
    waiting = [bundle.index["subject"]]
    while waiting:
        digest = waiting.pop()
        if digest in reached:
            continue
        if digest not in bundle.records:
            raise Med42Error(f"{where}, the chain of records", f"no record {digest[:16]}", "a record for every input",
                             "The bundle has a gap; seal it again.")
        reached.add(digest)
        waiting += bundle.records[digest].inputs.values()
    if stray := sorted(bundle.records[digest].name for digest in bundle.records.keys() - reached):
        raise Med42Error(f"{where}, the chain of records", f"records that lead nowhere: {', '.join(stray)}",
                         "only what the subject was made of", "Seal it again.")
    for record in bundle.records.values():
        if record.stage in ("decide_release", "push_model") and record.parameters.get("recipe") != bundle.index["recipe_digest"]:
            raise Med42Error(f"{where}, record {record.name}", "another recipe's digest", bundle.index["recipe_digest"][:16],
                             "The parts belong to different runs.")
        decision = bundle.records.get(record.inputs.get("decision", ""))
        if record.stage == "push_model" and not (
            decision and decision.stage == "decide_release" and decision.measured.get("approved") is True
            and record.inputs.get("model") in _ancestors(bundle, decision)
        ):
            raise Med42Error(f"{where}, record {record.name}", "a push", "none, as no decision about its model was for it",
                             "Withdraw the release.")


def check_artifacts(bundle: Bundle, folder: Path) -> list[str]:
    """Compare every artifact below a folder with the bundle's records, byte by byte.

    Returns:
        One line a problem, naming the file; empty where every record has its artifact and all are unchanged.
    """
    problems: list[str] = []
    found: set[str] = set()
    names = {record.name: record for record in bundle.records.values()}
    for path in sorted(folder.rglob(RECORD)):
        try:
            record = parse_record(path.read_bytes(), path)
        except (Med42Error, UnicodeDecodeError) as error:
            problems.append(f"{path}: {error}")
            continue
        sealed = bundle.records.get(record.digest)
        if sealed is None or sealed != record or path.read_bytes() != record_text(sealed).encode():
            if record.name in names and (sealed is not None or record.fingerprint == names[record.name].fingerprint):
                problems.append(f"{path}: is not the record of {record.name} that was sealed")
            continue
        found.add(record.digest)
        problems += [f"{path.parent / name}: differs from the record of {record.name}" for name in differing_files(path.parent, record)]
        ancestry = path.parent / ANCESTRY
        if not ancestry.is_file() or ancestry.read_bytes() != ancestry_bytes(_ancestors(bundle, record)):
            problems.append(f"{ancestry}: is not the ancestry of {record.name} that was sealed")
    problems += [f"{folder}: holds no unchanged artifact of {bundle.records[digest].name} ({digest[:16]})"
                 for digest in sorted(bundle.records.keys() - found)]
    return problems


def _recipe_name(recipe: bytes) -> object:
    try:
        return json.loads(recipe)["name"]
    except (ValueError, KeyError, TypeError):
        return None


def _ancestors(bundle: Bundle, record: Record) -> dict[str, Record]:
    """All records that one descends from, by digest."""
    ancestors: dict[str, Record] = {}
    waiting = list(record.inputs.values())
    while waiting:
        digest = waiting.pop()
        if digest not in ancestors:
            ancestors[digest] = bundle.records[digest]
            waiting += bundle.records[digest].inputs.values()
    return ancestors


def _zip(entries: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, entries[name])
    return held.getvalue()


def _unzip(content: bytes, where: object) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries: dict[str, bytes] = {}
            for entry in archive.infolist():
                named = entry.filename in (INDEX, RECIPE, REPORT)
                allowed = named or (entry.filename.startswith(RECORDS) and entry.filename.endswith(".json"))
                if not allowed or entry.filename in entries or entry.compress_type != zipfile.ZIP_STORED or entry.file_size > LARGEST:
                    raise Med42Error(f"{where}, {entry.filename!r}", "an entry that no bundle has",
                                     "stored entries of known names, once each", "The bundle was changed.")
                try:
                    entries[entry.filename] = archive.read(entry)
                except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
                    raise Med42Error(f"{where}, {entry.filename}", f"unreadable ({error})", "the entry that was sealed",
                                     "The bundle was changed.") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
        raise Med42Error(where, f"a file that is no bundle ({error})", "a bundle as it was sealed",
                         "It was cut short, changed, or is another kind of file.") from error
    return entries
