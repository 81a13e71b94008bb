"""The audit bundle: one file that holds the records of a release, from the sources on, and checks itself.

A bundle is an archive (`med42.lineage.archive`) that any ZIP program opens:

    bundle.json                       what it is about, and the SHA-256 of every other entry
    recipe.json                       the resolved recipe, canonical JSON
    records/<digest>.json             one record an artifact
    rows/<digest>.rows.bin            the digests of what that artifact holds to train on
    rows/<digest>.left_out.bin        and of what was left out, with the reasons
    statements/<name>-<digest8>.<...>.json   in-toto statements: provenance of each artifact, verdicts of each decision
    ml-bom.cdx.json                   CycloneDX bill of materials
    report.html                       the same for people
    signer.pem, signature.json        where it was signed: by which key, and its signature of all the others; keyless: the latter alone

The same records give the same bytes, and no byte is outside what is checked. Entries that were all changed to fit one
another are caught by a signature of a key that whoever checks knows, not here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from med42 import __version__
from med42.errors import Med42Error
from med42.lineage.archive import read_archive, write_archive
from med42.lineage.digest import canonical
from med42.lineage.keyless import Identity, KeylessSigner
from med42.lineage.record import (
    ANCESTRY,
    CARRIED,
    RECORD,
    Record,
    ancestry_bytes,
    differing_files,
    differing_row_sets,
    parse_record,
    record_of,
    record_text,
    row_sets,
)
from med42.lineage.row_set import ROWS, RowSet, read_row_set
from med42.lineage.signature import Signer, check_signature, sign_entries
from med42.lineage.strict_json import MOST_VALUES, read_canonical, values_in

INDEX, RECIPE, REPORT, BILL, RECORDS, ROW_SETS, STATEMENTS = (
    "bundle.json", "recipe.json", "report.html", "ml-bom.cdx.json", "records/", "rows/", "statements/")
SIGNER, SIGNATURE = "signer.pem", "signature.json"
SCHEMA = "med42.bundle/2"
LARGEST_TEXTS, MOST_RECORDS = 32 << 20, 2_000  # all but the row sets; a release of 100 sources has some 150 records
KNOWN = re.compile(r"bundle\.json|recipe\.json|report\.html|ml-bom\.cdx\.json|signer\.pem|signature\.json|records/[0-9a-f]{64}\.json|"
                   r"rows/[0-9a-f]{64}\.(rows|left_out)\.bin|statements/[A-Za-z0-9._-]{1,120}\.json")


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds.

    Attributes:
        index: the content of bundle.json.
        recipe: the resolved recipe, canonical JSON.
        records: by digest.
        report: the page for people.
        rows: row sets by the digest of their record and the name of the file, as `<digest>.rows.bin`.
        statements: in-toto statements by name, JSON.
        bill: the CycloneDX document, JSON; empty where there is none.
        entries: all of it, as it lies in the file.
    """

    index: dict[str, Any]
    recipe: bytes
    records: dict[str, Record]
    report: str
    rows: dict[str, RowSet] = field(default_factory=dict)
    statements: dict[str, bytes] = field(default_factory=dict)
    bill: bytes = b""
    entries: Mapping[str, memoryview] = field(default_factory=dict)

    @property
    def subject(self) -> Record:
        """The record that the bundle is about."""
        return self.records[self.index["subject"]]

    def of_stage(self, stage: str) -> list[Record]:
        """The records of a stage, by name."""
        found = [record for record in self.records.values() if record.stage == stage]
        return sorted(found, key=lambda record: (record.name, record.digest))


def pack(recipe_name: str, recipe: bytes, subject: str, records: dict[str, Record], report: str,
         more: Mapping[str, bytes] | None = None, signer: Signer | KeylessSigner | None = None) -> bytes:
    """The bytes of a bundle.

    Args:
        recipe_name: the recipe's name.
        recipe: the resolved recipe, canonical JSON.
        subject: digest of the record that it is about.
        records: by digest.
        report: the page for people, ASCII.
        more: row sets, statements and the bill of materials, by entry.
        signer: who signs it, last of all; None to leave it unsigned.
    """
    entries = {RECIPE: recipe, REPORT: report.encode("ascii"), **(more or {})}
    entries |= {f"{RECORDS}{digest}.json": canonical(record.model_dump(mode="json")) for digest, record in records.items()}
    if signer and signer.public:
        entries[SIGNER] = signer.public
    entries[INDEX] = canonical({
        "schema": SCHEMA, "version": __version__, "recipe": recipe_name, "recipe_digest": hashlib.sha256(recipe).hexdigest(),
        "subject": subject, "entries": {name: hashlib.sha256(content).hexdigest() for name, content in entries.items()},
    })
    if signer:
        entries[SIGNATURE] = sign_entries(entries, recipe_name, signer)
    return write_archive(entries)


def unpack(content: bytes | memoryview, where: object) -> Bundle:
    """Read a bundle and check it against itself; the signature and the rows' trees have checks of their own.

    Raises:
        Med42Error: naming the entry that is missing, added, changed or not what its digest says.
    """
    entries = read_archive(memoryview(content), where)
    if strange := next((name for name in entries if not KNOWN.fullmatch(name)), None):
        raise Med42Error(f"{where}, {strange!r}", "an entry that no bundle has", "entries of known names, once each",
                         "The bundle was changed.")
    large = sum(len(content) for name, content in entries.items() if not name.startswith(ROW_SETS))
    if large > LARGEST_TEXTS or sum(name.startswith(RECORDS) for name in entries) > MOST_RECORDS:
        raise Med42Error(where, f"{large:,} bytes of records and texts, or too many records",
                         f"at most {LARGEST_TEXTS:,} and {MOST_RECORDS:,} records", "The bundle was changed.")
    told, listed = _index(entries, where)
    for name in sorted(listed.keys() | entries.keys() - {INDEX, SIGNATURE}):
        found = hashlib.sha256(entries[name]).hexdigest() if name in entries else "nothing"
        if found != listed.get(name):
            raise Med42Error(f"{where}, {name}", f"sha256 {found[:16]}", f"{str(listed.get(name, 'no such entry'))[:16]}",
                             "The bundle was changed after it was sealed.")
    if told["schema"] != SCHEMA or told["recipe_digest"] != listed[RECIPE] or (SIGNER in entries and SIGNATURE not in entries):
        raise Med42Error(f"{where}, {INDEX}", "an index that does not fit the entries",
                         f"schema {SCHEMA}, the recipe's digest, and a signature beside its signer", "The bundle was changed.")
    if sum(values_in(entries[name]) for name in entries if name.startswith(RECORDS) or name in (RECIPE, BILL)) > MOST_VALUES:
        raise Med42Error(where, f"records of more than {MOST_VALUES:,} values", "those of one release", "The bundle was changed.")
    records = {}
    for name in sorted(listed):
        if name.startswith(RECORDS):
            record = record_of(read_canonical(entries[name], f"{where}, {name}"), f"{where}, {name}")
            if name != f"{RECORDS}{record.digest}.json":
                raise Med42Error(f"{where}, {name}", f"a record with digest {record.digest[:16]}", "the digest in its name",
                                 "The record was changed.")
            records[record.digest] = record
    recipe = read_canonical(entries[RECIPE], f"{where}, {RECIPE}")
    named = recipe.get("name") if isinstance(recipe, dict) else None
    if told["subject"] not in records or named != told["recipe"] or not bytes(entries[REPORT]).isascii():
        raise Med42Error(f"{where}, {INDEX}", f"recipe '{told['recipe']}', subject {str(told['subject'])[:16]}",
                         "a recipe and a record that the bundle holds, and a report in ASCII", "The bundle was changed.")
    rows = {name.removeprefix(ROW_SETS): read_row_set(entries[name], f"{where}, {name}") for name in listed if name.startswith(ROW_SETS)}
    statements = {name.removeprefix(STATEMENTS): bytes(entries[name]) for name in listed if name.startswith(STATEMENTS)}
    return Bundle(told | {"entries": listed}, bytes(entries[RECIPE]), records, bytes(entries[REPORT]).decode("ascii"), rows, statements,
                  bytes(entries.get(BILL, b"")), entries)


def _index(entries: Mapping[str, memoryview], where: object) -> tuple[dict[str, str], dict[str, str]]:
    """What the index tells, and the digests that it lists."""
    place = f"{where}, {INDEX}"
    if INDEX not in entries:
        raise Med42Error(place, "no index", "the index that was sealed", "The bundle was changed.")
    index = read_canonical(entries[INDEX], place)
    keys = {"schema", "version", "recipe", "recipe_digest", "subject"}
    listed = index.get("entries") if isinstance(index, dict) else None
    if not isinstance(listed, dict) or index.keys() != keys | {"entries"} or not {RECIPE, REPORT} <= listed.keys() or not all(
        isinstance(text, str) for text in (*(index[key] for key in keys), *listed.values())
    ):
        raise Med42Error(place, "an index without the recipe, the report or a name", "the index that was sealed",
                         "The bundle was changed.")
    return {key: index[key] for key in sorted(keys)}, listed


def check_signed(bundle: Bundle, where: object, trusted: bytes | Identity | None = None) -> str:
    """Who signed a bundle; empty where nobody did.

    Args:
        bundle: the bundle.
        where: for errors.
        trusted: the public key or root certificates of whom it must be signed by, PEM, or their identity; None for anybody or nobody.

    Raises:
        Med42Error: the signature is missing but was asked for, by somebody else, or of something else.
    """
    if SIGNATURE not in bundle.entries:
        if trusted is not None:
            raise Med42Error(f"{where}, {SIGNATURE}", "no signature", "one by the given key or identity",
                             "It was never signed, or that was taken away.")
        return ""
    digests = {**bundle.index["entries"], INDEX: hashlib.sha256(bundle.entries[INDEX]).hexdigest()}
    return check_signature(bytes(bundle.entries[SIGNATURE]), bytes(bundle.entries.get(SIGNER, b"")), digests, f"{where}, {SIGNATURE}",
                           trusted)


def check_rows(bundle: Bundle, where: object) -> int:
    """Check every row set against its record: it is the file that the record names, and its tree has the root that it tells.

    Returns:
        How many rows there are, those left out included. A million take about a second.

    Raises:
        Med42Error: a set is missing, belongs to nothing, or is another one.
    """
    expected = row_sets(bundle.records)
    for name in sorted(expected.keys() | bundle.rows.keys()):
        listed = bundle.index["entries"].get(f"{ROW_SETS}{name}")
        if name not in expected or listed != expected[name].sha256:
            raise Med42Error(f"{where}, {ROW_SETS}{name}", f"sha256 {str(listed or 'nothing')[:16]}",
                             expected[name].sha256[:16] if name in expected else "no set, as no record has it", "The bundle was changed.")
        digest, _, kind = name.partition(".")
        if kind == ROWS and bundle.rows[name].root != bundle.records[digest].measured.get("merkle_root"):
            raise Med42Error(f"{where}, {ROW_SETS}{name}", f"rows whose tree has the root {bundle.rows[name].root[:16]}",
                             f"{str(bundle.records[digest].measured.get('merkle_root'))[:16]}, as the record tells", "The record is wrong.")
    return sum(len(rows) for rows in bundle.rows.values())


def check_chain(bundle: Bundle, where: object) -> None:
    """Follow every input of every record back to the sources, and compare every decision and push with what it rests on.

    Raises:
        Med42Error: a gap, a record that belongs to nothing, a decision against its gates, a push against the decision or of
            other files, another recipe.
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
        place = f"{where}, record {record.name}"
        if record.stage in ("decide_release", "push_model") and record.parameters.get("recipe") != bundle.index["recipe_digest"]:
            raise Med42Error(place, "another recipe's digest", bundle.index["recipe_digest"][:16], "The parts belong to different runs.")
        if record.stage == "decide_release":
            _check_decision(record, place)
        if record.stage == "push_model":
            _check_push(bundle, record, place)


def _check_decision(decision: Record, place: str) -> None:
    verdicts = decision.measured.get("verdicts", [])
    unmet = [one for one in verdicts if not isinstance(one, dict) or one.get("met") is not True] if isinstance(verdicts, list) else [{}]
    blocking = [one for one in unmet if not isinstance(one, dict) or one.get("overridden") is not True]
    if decision.measured.get("approved") is True and (blocking or (unmet and not decision.measured.get("override"))):
        raise Med42Error(place, "an approval", f"none, as {len(unmet)} of its gates were not met and no override is recorded",
                         "Withdraw the release.")


def _check_push(bundle: Bundle, push: Record, place: str) -> None:
    decision = bundle.records.get(push.inputs.get("decision", ""))
    model = bundle.records.get(push.inputs.get("model", ""))
    if not decision or not model or decision.stage != "decide_release" or decision.measured.get("approved") is not True or (
        model.digest not in ancestors(bundle.records, decision)
    ):
        raise Med42Error(place, "a push", "none, as no decision about its model was for it", "Withdraw the release.")
    files = push.measured.get("files", {})
    for name in model.files if files else ():
        if not isinstance(files, dict) or (name in files and files[name] != model.files[name].sha256):
            raise Med42Error(place, f"another '{name}' than the model's", model.files[name].sha256[:16], "Withdraw the release.")


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
        before = ancestors(bundle.records, record)
        problems += [f"{path.parent / CARRIED / name}: is not the row set that was sealed"
                     for name in differing_row_sets(path.parent, before)]
        ancestry = path.parent / ANCESTRY
        if not ancestry.is_file() or ancestry.read_bytes() != ancestry_bytes(before):
            problems.append(f"{ancestry}: is not the ancestry of {record.name} that was sealed")
    problems += [f"{folder}: holds no unchanged artifact of {bundle.records[digest].name} ({digest[:16]})"
                 for digest in sorted(bundle.records.keys() - found)]
    return problems


def ancestors(records: Mapping[str, Record], record: Record) -> dict[str, Record]:
    """All records that one descends from, by digest."""
    found: dict[str, Record] = {}
    waiting = list(record.inputs.values())
    while waiting:
        digest = waiting.pop()
        if digest not in found and digest in records:
            found[digest] = records[digest]
            waiting += records[digest].inputs.values()
    return found
