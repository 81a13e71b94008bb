"""Publishing a folder to a hub so that nobody ever sees half of it.

The files go to a branch of their own first and are compared there with what was sent; only then does one commit put them
on `main`, which fails if somebody else wrote to it in between. A tag names that commit for good. What a failed push
leaves is the branch, which the next push of the same release uses again: what is uploaded need not be sent twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from med42.data.hub import PASSING, hub_status, told_plainly
from med42.errors import Med42Error
from med42.lineage.journal import Job
from med42.lineage.signature import MODEL_SIGNATURE
from med42.recipe.schema import Push

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Weights of an earlier release under other names would be loaded with, or instead of, the new ones.
STALE = ["*.safetensors", "*.safetensors.index.json"]

# The client tries most requests again by itself, but neither the commit nor the making of a repository.
ATTEMPTS = 4
FIRST_DELAY = 1.0  # seconds, doubled each time: 1 + 2 + 4

MOVED = 412  # main is not where it was

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Pushed:
    """Where a release now is: the commit on main, and the tag that names it."""

    commit: str
    tag: str


def push_folder(folder: Path, repo: str, settings: Push, tag: str, message: str, job: Job) -> Pushed:
    """Put a folder's files on a repository's main branch and tag it.

    Args:
        folder: what to publish; links are followed.
        repo: owner/name.
        settings: whether it is private or gated.
        tag: names the commit; one that is there already stays, and must hold the same files.
        message: of the commit.
        job: for telling of waits.

    Raises:
        Med42Error: a hub that refuses, a public repository where a private one is asked for, content that reads back
            otherwise, somebody else's commit in between, a tag with other content. `main` is then as it was, but for the last.
    """
    from huggingface_hub import HfApi

    api, what = HfApi(), f"push to {repo}"
    _persist(what, job, lambda: api.create_repo(repo, private=settings.private, exist_ok=True))
    start = _persist(what, job, lambda: api.model_info(repo))
    if settings.private and start.private is False:
        raise Med42Error(what, "a public repository", "a private one, as push.private asks",
                         "Make it private, choose another, or set push.private to false.")
    if settings.gated:
        _persist(what, job, lambda: api.update_repo_settings(repo, gated=settings.gated))
    if commit := _tagged(api, repo, tag, what, job):
        return Pushed(_checked(api, repo, commit, folder, what, job, f"tag {tag}, which is never moved", but=MODEL_SIGNATURE), tag)
    branch = f"push-{tag}"
    _persist(what, job, lambda: api.create_branch(repo, branch=branch, revision=start.sha, exist_ok=True))
    aside = _commit(api, repo, branch, None, folder, message, what, job)
    _checked(api, repo, aside, folder, what, job, f"branch {branch}; main was not touched")
    commit = _commit(api, repo, "main", start.sha, folder, message, what, job)
    _checked(api, repo, commit, folder, what, job, "main")
    _tag(api, repo, tag, commit, what, job)
    _persist(what, job, lambda: api.delete_branch(repo, branch=branch))
    return Pushed(commit, tag)


def _commit(api: HfApi, repo: str, branch: str, parent: str | None, folder: Path, message: str, what: str, job: Job) -> str:
    """Upload a folder as one commit on a branch that must still stand at `parent`; returns the commit."""
    try:
        return str(_persist(what, job, lambda: api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=message, revision=branch, parent_commit=parent, delete_patterns=STALE)).oid)
    except Med42Error as error:
        if hub_status(error.__cause__) != MOVED:
            raise
        # Either somebody else's commit came in between, or ours did and its answer was lost.
        head = str(_persist(what, job, lambda: api.model_info(repo, revision=branch)).sha)
        if not _differing(api, repo, head, folder, what, job):
            return head
        raise Med42Error(what, f"a commit of somebody else on {branch} ({head[:12]})", f"{branch} at {str(parent)[:12]}, as it was",
                         "Look at what they wrote, then push again; nothing of theirs was overwritten.") from error


def _checked(api: HfApi, repo: str, commit: str, folder: Path, what: str, job: Job, place: str, but: str = "") -> str:
    """Compare what the hub holds at a commit with a folder, file by file but one, by the digests that the hub reckons."""
    if wrong := [name for name in _differing(api, repo, commit, folder, what, job) if name != but]:
        raise Med42Error(f"{repo}@{commit}", f"other content than was sent ({', '.join(wrong[:3])}) on {place}",
                         "the files of the model's record", "Push again; if it stays so, ask those who run the hub.")
    return commit


def _differing(api: HfApi, repo: str, commit: str, folder: Path, what: str, job: Job) -> list[str]:
    seen = _persist(what, job, lambda: api.verify_repo_checksums(repo, revision=commit, local_dir=folder))
    return sorted([mismatch["path"] for mismatch in seen.mismatches] + seen.extra_paths)


def _tagged(api: HfApi, repo: str, tag: str, what: str, job: Job) -> str:
    """The commit that a tag names; empty where there is no such tag."""
    refs = _persist(what, job, lambda: api.list_repo_refs(repo))
    return next((str(ref.target_commit) for ref in refs.tags if ref.name == tag), "")


def _tag(api: HfApi, repo: str, tag: str, commit: str, what: str, job: Job) -> None:
    """Name a commit for good; a tag that appeared in between must name the same one."""
    try:
        _persist(what, job, lambda: api.create_tag(repo, tag=tag, revision=commit))
    except Med42Error as error:
        if hub_status(error.__cause__) != 409 or _tagged(api, repo, tag, what, job) != commit:
            raise


def _persist(what: str, job: Job, ask: Callable[[], Answer]) -> Answer:
    """Ask the hub, and again where the failure may pass: trouble of the service, a connection that broke."""
    for attempt in range(1, ATTEMPTS):
        try:
            with told_plainly(what):
                return ask()
        except Med42Error as error:
            if hub_status(error.__cause__) not in PASSING:
                raise
            delay = FIRST_DELAY * 2 ** (attempt - 1)
            job.tell("push_model", "waiting", seconds=delay, after=error.found)
            time.sleep(delay)
    with told_plainly(f"{what}, attempt {ATTEMPTS}"):
        return ask()
