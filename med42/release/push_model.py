"""The stage `push_model`: an approved model goes to a folder or a hub, with its card and its record, and is read back.

What is published is the model artifact without its ancestry: weights, configuration, tokenizer, chat template, page,
training log and `record.json`; and the card as `README.md`. The release artifact holds `release.json` (what went
where, every file with its digest), the card and a page.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from med42.errors import Med42Error
from med42.lineage.artifact import Outcome, Plan, produce, stage
from med42.lineage.digest import folder_files
from med42.lineage.journal import Job
from med42.lineage.keyless import KeylessSigner
from med42.lineage.record import ANCESTRY, CARRIED, RECORD, FileEntry, Record, describe_files, differing_files, read_ancestry, read_record
from med42.lineage.signature import MODEL_SIGNATURE, Signer, find_signer, sign_folder
from med42.recipe import Recipe, recipe_digest
from med42.release.hub_push import Pushed, push_folder
from med42.release.model_card import model_card
from med42.report import page

CARD = "README.md"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True)
class Target:
    """Where a release goes: an absolute folder, or owner/name on the hub."""

    kind: Literal["directory", "hub"]
    where: str

    @property
    def name(self) -> str:
        """What records may hold: no path of this machine."""
        return Path(self.where).name if self.kind == "directory" else self.where


@dataclass(frozen=True)
class Release:
    """What is published: the model artifact's files, its record, the card, and where there is a signer, the signature of all.

    `files` describes all of them but `record.json`, whose circumstances (run, time) are no part of what the model
    is; the record is told by its digest.
    """

    model: Path
    record: Record
    card: bytes
    signer: Signer | KeylessSigner | None = None

    @property
    def files(self) -> dict[str, FileEntry]:
        """Digest and size by path."""
        return {**self.record.files, CARD: FileEntry(sha256=hashlib.sha256(self.card).hexdigest(), bytes=len(self.card))}

    def lay_out(self, folder: Path, put: Callable[[Path, Path], object]) -> None:
        """Put every file into an empty folder; `put` copies or links source to target."""
        for name in folder_files(self.model):
            if name not in (ANCESTRY, CARD) and not name.startswith(f"{CARRIED}/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                put(self.model / name, folder / name)
        (folder / CARD).write_bytes(self.card)
        if self.signer:
            sign_folder(folder, folder / MODEL_SIGNATURE, self.signer)

    def differing_from(self, folder: Path) -> list[str]:
        """Paths that a folder lacks, has besides, or has with other content."""
        found, files = describe_files(folder), self.files
        found.pop(MODEL_SIGNATURE, None)  # another each time, and checked by itself
        different = [name for name in found.keys() | files.keys() if found.get(name) != files.get(name)]
        try:
            same_record = read_record(folder).digest == self.record.digest
        except Med42Error:
            same_record = False
        return sorted(different if same_record else [*different, RECORD])


@stage
def push_model(recipe: Recipe, model: Path, decision: Path, out: Path, job: Job, target: str = "") -> Record:
    """Publish a model that its decision approves.

    Args:
        recipe: the resolved recipe.
        model: the model artifact.
        decision: the decision about it.
        out: the release artifact to make.
        job: the run and its store.
        target: directory:PATH or hub:OWNER/NAME; empty for the recipe's place.

    Raises:
        Med42Error: no approval, a decision about another model, a model changed since it was made, a folder that holds
            something else, a hub that refuses, or content that reads back otherwise.
    """
    place = find_target(recipe, target)
    record, verdict, ancestry = read_record(model), read_record(decision), read_ancestry(decision)
    if verdict.measured.get("approved") is not True:
        raise Med42Error(decision, f"a decision against the release ({verdict.measured.get('summary', 'no approval')})", "an approval",
                         "See its page for the gates that were not met; nothing was pushed.")
    if record.digest not in ancestry:
        raise Med42Error(decision, "a decision about another model", f"one about {record.name} ({record.digest[:12]})",
                         "Decide on this model's scores first.")
    card = model_card(recipe, record, ancestry, verdict.measured.get("override"))
    release = Release(model, record, card.encode(), find_signer(recipe.audit.signed))
    push: dict[str, Any] = {"kind": place.kind, "where": place.name, "signer": release.signer.identity if release.signer else ""}
    if place.kind == "hub":
        push |= {"hub": _hub_host(), "private": recipe.push.private, "gated": recipe.push.gated}
    plan = Plan("push_model", "release", {"recipe": recipe_digest(recipe), "push": push}, {"model": model, "decision": decision}, "release",
                ("huggingface_hub",) if place.kind == "hub" else ())
    made = produce(plan, out, job, lambda draft: _push(recipe, release, place, draft, job))
    if place.kind == "directory":
        # An artifact taken from the store says that this was pushed once, not that it is still there.
        _push_to_directory(release, Path(place.where))
    return made


def find_target(recipe: Recipe, target: str) -> Target:
    """Where a release goes, from `target` or else the recipe.

    Raises:
        Med42Error: neither says it.
    """
    if not target and recipe.push.kind == "hub":
        target = f"hub:{recipe.push.repo}"
    kind, _, where = target.partition(":")
    if kind == "directory" and where and Path(where).resolve().name:
        return Target("directory", str(Path(where).expanduser().resolve()))
    if kind == "hub" and re.fullmatch(r"[^/\s]+/[^/\s]+", where):
        return Target("hub", where)
    raise Med42Error("the place to push to", f"'{target}'" if target else "none (the recipe's push is a directory, and it names no path)",
                     "directory:PATH or hub:OWNER/NAME", "Give one of them, for example directory:releases/tiny.")


def _push(recipe: Recipe, release: Release, place: Target, draft: Path, job: Job) -> Outcome:
    if changed := differing_files(release.model, release.record):
        raise Med42Error(release.model, f"files that differ from its record ({', '.join(changed[:3])})", "the model as it was made",
                         "It was changed since; make the model artifact again.")
    if loose := sorted(name for name in release.record.files if name.endswith(PICKLES)):
        raise Med42Error(release.model / loose[0], "a file that runs code when it is loaded", "weights as safetensors alone",
                         "Save the model as safetensors; nothing was pushed.")
    pushed = Pushed("", "")
    if place.kind == "hub":
        pushed = _push_to_hub(recipe, release, place.where, job)
    else:
        _push_to_directory(release, Path(place.where))
    signed_by = release.signer.identity if release.signer else ""
    files = release.files
    told = {"kind": place.kind, "where": place.name, "commit": pushed.commit, "tag": pushed.tag, "signed_by": signed_by,
            "record": release.record.digest,
            "files": {name: entry.model_dump() for name, entry in sorted(files.items())}}
    (draft / "release.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    (draft / CARD).write_bytes(release.card)
    lead = f"{release.record.name} was pushed to the {'hub repository' if place.kind == 'hub' else 'folder'} {place.name} and read back."
    (draft / "page.html").write_text(page.page("Release", lead, [
        page.table(("file", "bytes", "sha256"), [(name, entry.bytes, entry.sha256) for name, entry in sorted(files.items())]),
        page.paragraph(f"{RECORD} beside them is the record {release.record.digest}.", "note"),
        page.heading("Card"), page.listing(release.card.decode()),
    ]))
    measured = {
        "kind": place.kind, "where": place.name, "record": release.record.digest, "card": files[CARD].sha256,
        "files": {name: entry.sha256 for name, entry in files.items()}, "tag": pushed.tag, "signed_by": signed_by,
        "summary": f"{len(files) + 1} files to {place.kind} {place.name}",
    }
    return Outcome(measured, {"commit": pushed.commit} if pushed.commit else {"folder": place.where})


def _push_to_directory(release: Release, folder: Path) -> None:
    """Copy a release to a folder, whole or not at all; one that is there already is left alone."""
    try:
        if folder.exists() and any(folder.iterdir()):
            if different := release.differing_from(folder):
                raise Med42Error(folder, f"other content ({', '.join(different[:3])})", "nothing, or this very release",
                                 "Choose another folder, or move that one away; nothing is overwritten.")
            return
        draft = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            release.lay_out(draft, shutil.copyfile)
            if different := release.differing_from(draft):
                raise Med42Error(folder, f"a copy that differs ({', '.join(different[:3])})", "the files of the model's record",
                                 "Make the model artifact again if it was changed, or check the disk.")
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise Med42Error(error.filename or folder, error.strerror or str(error), "a place where this user may make a folder",
                         "Free space, change the owner or mode, or choose another folder; nothing half-made was kept.") from error


def _push_to_hub(recipe: Recipe, release: Release, repo: str, job: Job) -> Pushed:
    """Upload a release by way of a branch of its own; returns where it is."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, release.record.name)
        folder.mkdir()
        release.lay_out(folder, lambda source, link: link.symlink_to(source.resolve()))
        message = f"{recipe.name}, {release.record.name} {release.record.digest[:12]}"
        tag = recipe.push.tag or f"release-{release.record.digest[:12]}"
        return push_folder(folder, repo, recipe.push, tag, message, job)


def _hub_host() -> str:
    """The hub's host, without a user or password that its address may hold."""
    from huggingface_hub import constants

    return constants.ENDPOINT.partition("://")[2].rpartition("@")[2]
