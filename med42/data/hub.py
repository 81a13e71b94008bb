"""Files of a hub's repositories by commit and digest, and the hub's refusals in words that say what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from med42.errors import Med42Error
from med42.lineage.digest import file_digest
from med42.recipe.schema import HubOrigin, Pin

DOWNLOADS = 4  # at once

ADVICE = {
    400: ("a request that it refuses", "a request in its form", "Mend what it names."),
    401: ("no valid token", "a token that the hub knows",
          "Log in with `hf auth login` or set HF_TOKEN; make a new token if it has expired. A hub also answers so where "
          "there is no such repository: check the name."),
    403: ("a token without this right", "a token that may do this",
          "Accept the repository's terms on its page, or use a token with the right scope."),
    404: ("no such repository, revision or file", "one that exists and that the token may see",
          "Check the name and the revision; private ones need a token."),
    412: ("somebody else's commit", "a branch that is as it was", "Look at what they wrote, then run again."),
    409: ("a conflicting change", "an unchanged repository", "Somebody else wrote to it; run again."),
    429: ("too many requests", "a hub that takes ours", "Wait a few minutes and run again; finished work is kept."),
}
TROUBLE = ("an error of the hub itself", "a hub that answers", "Its service is in trouble; run again later, finished work is kept.")

# Besides HTTP statuses: a connection that broke before an answer, and none that could be (offline mode, no hub at that address).
BROKEN, UNREACHABLE = 0, -1
PASSING = (BROKEN, 408, 429, 500, 502, 503, 504)


@contextmanager
def told_plainly(what: str) -> Iterator[None]:
    """Turn a hub client's errors into one that names what was asked and what to do."""
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except HFValidationError as error:
        raise Med42Error(what, f"a name that no hub can hold ({_first_line(error)})", "owner/name", "Correct the name.") from error
    except Exception as error:
        status = hub_status(error)
        if status is None:
            raise
        if status <= 0:
            last = _causes(error)[-1]
            raise Med42Error(what, f"no connection to a hub ({_first_line(last) or type(last).__name__})", "a hub that can be reached",
                             "Check the network and HF_ENDPOINT, or use files with --data-root.") from error
        found, expected, remedy = ADVICE.get(status, TROUBLE)
        said = _first_line(next(filter(None, (getattr(cause, "server_message", None) for cause in _causes(error))), ""))
        raise Med42Error(what, f"{found} (HTTP {status}{said and ': '}{said})", expected, remedy) from error


def hub_status(error: BaseException | None) -> int | None:
    """The HTTP status behind a client's error, or BROKEN or UNREACHABLE; None for an error of another kind.

    The client wraps errors in others: a part of an upload that fails in a RuntimeError, a download that the hub
    refuses in one that says the file is not in the cache.
    """
    import httpx2
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return cause.response.status_code
        if isinstance(cause, (OfflineModeIsEnabled, FileMetadataError, httpx2.UnsupportedProtocol)):
            return UNREACHABLE
    # A gateway's HTML where JSON belongs is a broken answer; a bare RuntimeError is how the chunk storage fails.
    broken = (httpx2.TransportError, ConnectionError, TimeoutError, json.JSONDecodeError, RuntimeError)
    return BROKEN if any(isinstance(cause, broken) for cause in causes) else None


def _causes(error: BaseException | None) -> list[BaseException]:
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__
    return causes


def _first_line(text: object) -> str:
    return (str(text).strip().splitlines() or [""])[0][:200]


# --- what an origin is on the hub: a commit, files, their bytes ------------------------------------


def resolve(origin: HubOrigin, key: str, kind: str = "dataset") -> tuple[str, dict[str, str | None]]:
    """The commit that a revision now names, and its files that the origin asks for, by name, with the SHA-256 that the hub tells.

    Args:
        origin: repository, revision, patterns. Of a dataset, each pattern must match; of a model, those at the top that do are taken.
        key: the recipe key, for errors.
        kind: `dataset` or `model`.

    Raises:
        Med42Error: the hub refuses, or holds no such file.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with told_plainly(f"{key}: {kind} {origin.repo}@{origin.revision}"):
        api = HfApi()
        commit = api.repo_info(origin.repo, revision=origin.revision, repo_type=kind).sha
        tree = api.list_repo_tree(origin.repo, recursive=kind == "dataset", revision=commit, repo_type=kind)
        # Only large files are kept by their SHA-256; of the others the hub tells git's own digest.
        published = {file.path: file.lfs.sha256 if file.lfs else None for file in tree if isinstance(file, RepoFile)
                     and (kind == "dataset" or "/" not in file.path)}
    lost = [pattern for pattern in origin.files if not any(fnmatch(name, pattern) for name in published)]
    if kind == "dataset" and lost:
        raise Med42Error(key, f"no file that matches {', '.join(lost)} in {origin.repo}@{origin.revision}", "at least one for each pattern",
                         f"The repository holds: {', '.join(sorted(published)[:8])}.")
    wanted = {name: digest for name, digest in sorted(published.items()) if any(fnmatch(name, pattern) for pattern in origin.files)}
    if not wanted or commit is None:
        raise Med42Error(key, f"none of {', '.join(origin.files)} in {origin.repo}@{origin.revision}", "the files of a model",
                         f"The repository holds: {', '.join(sorted(published)[:8])}.")
    return commit, wanted


def pin_hub(origin: HubOrigin, key: str, kind: str = "dataset") -> Pin:
    """Find what to pin an origin to; files whose SHA-256 the hub does not tell, all of them small, are fetched.

    Raises:
        Med42Error: as `resolve` does.
    """
    commit, files = resolve(origin, key, kind)
    small = fetch_hub(origin, commit, [name for name, digest in files.items() if digest is None], key, kind)
    return Pin(of=origin, revision=commit, files={name: digest or file_digest(small[name]) for name, digest in files.items()})


def fetch_hub(origin: HubOrigin, commit: str, names: list[str], key: str, kind: str = "dataset") -> dict[str, Path]:
    """Files of a repository at a commit, fetched into the hub client's own cache, or found there.

    Raises:
        Med42Error: the hub refuses.
    """
    from huggingface_hub import hf_hub_download

    def fetch(name: str) -> Path:
        return Path(hf_hub_download(origin.repo, name, revision=commit, repo_type=kind))

    revision = origin.revision if origin.revision == commit else f"{origin.revision} at commit {commit[:12]}"
    with told_plainly(f"{key}: {kind} {origin.repo}@{revision}"), ThreadPoolExecutor(DOWNLOADS) as pool:
        return dict(zip(names, pool.map(fetch, names), strict=True))


def check_digests(files: dict[str, Path], pin: Pin | None, key: str) -> dict[str, str]:
    """SHA-256 of each file, which must be the pinned one.

    Raises:
        Med42Error: a file holds other bytes, or is not pinned.
    """
    digests = {name: file_digest(path) for name, path in files.items()}
    for name, pinned in pin.files.items() if pin else ():
        if digests.get(name) != pinned:
            raise Med42Error(f"{key}: {name}", f"SHA-256 {digests.get(name)} in {files.get(name)}", f"the pinned {pinned}",
                             "The bytes changed since the recipe was locked, or on the way here: remove the file and fetch it again; "
                             "if they are right, run `med42 lock` again.")
    return digests
