"""Making an artifact: look for a finished one, else build it aside and move it into place whole."""

from __future__ import annotations

import datetime
import errno
import fcntl
import functools
import inspect
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec

from med42.errors import Med42Error
from med42.lineage.digest import canonical, file_digest, folder_files
from med42.lineage.journal import Job
from med42.lineage.provenance import accelerators, code_digest, commit, machine, package_versions, processors
from med42.lineage.record import (
    ANCESTRY,
    CARRIED,
    RECORD,
    Made,
    Record,
    ancestry_bytes,
    describe_files,
    differing_files,
    fingerprint,
    parse_record,
    read_ancestry,
    read_record,
    row_sets,
    write_record,
)
from med42.lineage.row_set import LEFT_OUT, ROWS

Parameters = ParamSpec("Parameters")


@dataclass(frozen=True)
class Outcome:
    """What a stage learned while building.

    Attributes:
        measured: deterministic facts, part of the artifact's identity.
        observed: facts of this one time (speed, memory), not part of it.
    """

    measured: dict[str, Any] = field(default_factory=dict)
    observed: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All that decides an artifact's content, known before it is made."""

    stage: str
    kind: str
    parameters: dict[str, Any]
    inputs: dict[str, Path]
    layer: str
    packages: tuple[str, ...] = ()
    name: str = ""


def stage(function: Callable[Parameters, Record]) -> Callable[Parameters, Record]:
    """Let a stage tell the run's journal when it starts, fails or finishes, and what came out.

    The stage is called by its function's name and, where it has one, its `name`, `label` or `round_number`.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def told(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Record:
        given = signature.bind(*args, **kwargs).arguments
        job: Job = given["job"]
        details = [str(given[key]) for key in ("name", "label", "round_number") if key in given]
        with job.telling("-".join([function.__name__, *details])) as facts:
            record = function(*args, **kwargs)
            facts.update(summary=str(record.measured.get("summary", "")), made_by=record.made.run, reused=record.made.run != job.run,
                         digest=record.digest, path=str(given["out"]))
        return record

    return told


def produce(plan: Plan, out: Path, job: Job, build: Callable[[Path], Outcome]) -> Record:
    """Put the planned artifact at `out`: the store's, if it holds one, else newly built.

    `build` writes into an empty draft folder. The draft is renamed into place with its record, so what exists is
    complete; on failure the draft is removed.
    """
    parents = {key: read_record(path) for key, path in plan.inputs.items()}
    identity: dict[str, Any] = {
        "stage": plan.stage, "name": plan.name or plan.stage, "parameters": plan.parameters,
        "inputs": {key: record.digest for key, record in parents.items()},
        "code": code_digest(plan.layer), "packages": package_versions(plan.packages),
    }
    key = fingerprint(**identity)
    home = job.store / plan.stage / key[:24] if job.store else out
    with _held(job.store, key), _told_plainly(home):
        ancestry = {digest: ancestor for path in plan.inputs.values() for digest, ancestor in read_ancestry(path).items()}
        ancestry |= {parent.digest: parent for parent in parents.values()}
        record = _finished(home, key) if job.store else None
        if record is None:
            record = _build(plan, identity, list(parents.values()), ancestry, home, job, build)
        else:
            _refresh(home, ancestry)
            _carry(plan.inputs.values(), parents.values(), home, ancestry)
        if home != out:
            copy_artifact(home, out)
    return record


def _build(plan: Plan, identity: dict[str, Any], parents: list[Record], ancestry: dict[str, Record], home: Path, job: Job,
           build: Callable[[Path], Outcome]) -> Record:
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    draft = home.parent / f".{home.name}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        outcome = build(draft)
        code_commit, dirty = commit()
        made = Made(
            run=job.run, started=started.isoformat(timespec="seconds"), seconds=round(time.monotonic() - clock, 3),
            python=sys.version.split()[0], machine=machine(), processors=processors(), commit=code_commit, dirty=dirty,
            image=os.environ.get("MED42_IMAGE", ""), accelerators=accelerators(), observed=outcome.observed,
        )
        record = Record(kind=plan.kind, files=describe_files(draft), measured=outcome.measured, made=made, **identity)
        # Canonical JSON writes 1.0 as 1: read back once, so that a record is the same wherever it is read from.
        record = parse_record(canonical(record.model_dump()), home)
        _carry(plan.inputs.values(), parents, draft, ancestry)
        write_record(draft, record, ancestry)
        _replace(draft, home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return record


def _carry(inputs: Iterable[Path], parents: Iterable[Record], artifact: Path, ancestry: dict[str, Record]) -> None:
    """Let an artifact carry the row sets of what it descends from, so that the last of the chain can prove its rows.

    They are no files of its own: 34 bytes a row, linked where the file system allows.
    """
    places: dict[str, Path] = {}
    for folder, parent in zip(inputs, parents, strict=True):
        places |= {f"{parent.digest}.{name}": folder / name for name in (ROWS, LEFT_OUT)}
        places |= {name: folder / CARRIED / name for name in row_sets(read_ancestry(folder))}
    for name, entry in row_sets(ancestry).items():
        target = artifact / CARRIED / name
        if target.is_file() and file_digest(target) == entry.sha256:
            continue
        if not places[name].is_file() or file_digest(places[name]) != entry.sha256:
            raise Med42Error(places[name], "no row set, or another than its record tells", f"sha256 {entry.sha256[:16]}",
                             "It was changed since it was made; make that artifact again.")
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        _link_or_copy(places[name], target)


def copy_artifact(source: Path, target: Path) -> None:
    """Copy an artifact folder, by hard links where the file system allows; whole or not at all."""
    draft = target.parent / f".{target.name}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Not by shutil.copytree, whose error does not tell a full disk from any other trouble.
        for name in folder_files(source):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(source / name, draft / name)
        _replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy one file, whole or not at all."""
    draft = target.parent / f".{target.name}.partial"
    try:
        shutil.copyfile(source, draft)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)


def _finished(home: Path, key: str) -> Record | None:
    """The record of a finished, unchanged artifact with this fingerprint."""
    if not (home / RECORD).is_file():
        return None
    try:
        record = read_record(home)
        if record.fingerprint == key and not differing_files(home, record):
            return record
    except Med42Error:
        pass
    print(f"{home}: was changed since it was made; making it again", flush=True)
    return None


def _refresh(home: Path, ancestry: dict[str, Record]) -> None:
    """Let a finished artifact tell the ancestry that its inputs tell now.

    It differs where it was changed, or where an input was made again: the same content, but in another run. The
    file is replaced, as copies of the artifact may be links to the old one.
    """
    content, draft = ancestry_bytes(ancestry), home.parent / f".{home.name}.{ANCESTRY}"
    if not (home / ANCESTRY).is_file() or (home / ANCESTRY).read_bytes() != content:
        try:
            draft.write_bytes(content)
            draft.rename(home / ANCESTRY)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def _held(store: Path | None, key: str) -> Iterator[None]:
    """Hold a fingerprint, so that two runs on one store never build the same thing at once."""
    if store is None:
        yield
        return
    with _told_plainly(store):
        (store / "locks").mkdir(parents=True, exist_ok=True)
        lock = (store / "locks" / key[:24]).open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _told_plainly(place: Path) -> Iterator[None]:
    """Turn the file system's refusals into errors that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Med42Error(place, "no space left on the disk", "room for the artifact",
                             "Free space or choose another folder; nothing half-made was kept.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise Med42Error(error.filename or place, error.strerror or str(error), "a place that this user may use",
                             "Change its owner or mode, or choose another folder.") from error
        raise


def _replace(draft: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    draft.rename(target)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
