"""Objects of a Google Cloud Storage bucket, by generation and digest.

An object's generation is a number that changes with its content; a bucket without versioning forgets the former one. Objects
are kept, by generation, below `$XDG_CACHE_HOME/med42/buckets` (`~/.cache` by default). With STORAGE_EMULATOR_HOST the client
speaks to an emulator; without credentials it asks as anybody, which is enough for a public bucket.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.lineage.digest import file_digest
from med42.recipe.schema import BucketOrigin, Pin

ADVICE = {
    401: ("no valid credentials", "credentials that the service knows",
          "Log in with `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, or use workload identity."),
    403: ("credentials without this right", "the role Storage Object Viewer on the bucket, or Storage Object User to write to it",
          "Grant it, or use other credentials."),
    404: ("no such bucket or object", "one that exists", "Check the url."),
    429: ("too many requests", "a service that takes ours", "Wait a few minutes and run again; finished work is kept."),
}
PATIENCE = 60  # seconds for one request with its repetitions
CHUNK = 1 << 20


@dataclass(frozen=True)
class Listed:
    """An object as the bucket listed it: full name, generation, bytes, CRC32C in base64."""

    object: str
    generation: str
    size: int
    crc32c: str


def list_bucket(origin: BucketOrigin, key: str) -> dict[str, Listed]:
    """The objects that an origin asks for, by name after the prefix, sorted.

    Raises:
        Med42Error: no such bucket, no right to read it, or no object for one of the patterns.
    """
    with told_plainly(f"{key}: {origin.url}"):
        bucket, prefix = _place(origin)
        blobs = list(bucket.list_blobs(prefix=prefix, retry=asked_again(PATIENCE), timeout=PATIENCE))
    # Names that end with a slash stand for folders and hold nothing.
    published = {blob.name.removeprefix(prefix): Listed(blob.name, str(blob.generation), blob.size, blob.crc32c)
                 for blob in blobs if not blob.name.endswith("/")}
    if lost := [pattern for pattern in origin.files if not any(fnmatch(name, pattern) for name in published)]:
        held = f"There: {', '.join(sorted(published)[:8])}." if published else "Nothing lies below this prefix; check it."
        raise Med42Error(key, f"no object that matches {', '.join(lost)} below {origin.url}", "at least one for each pattern", held)
    return {name: listed for name, listed in sorted(published.items()) if any(fnmatch(name, pattern) for pattern in origin.files)}


def pin_bucket(origin: BucketOrigin, key: str) -> Pin:
    """Find what to pin an origin to; its objects are fetched, as the service tells no SHA-256.

    Raises:
        Med42Error: as `list_bucket` and `fetch_bucket` do.
    """
    listed = list_bucket(origin, key)
    files = fetch_bucket(origin, None, key, listed)
    return Pin(of=origin, generations={name: found.generation for name, found in listed.items()},
               files={name: file_digest(path) for name, path in files.items()})


def fetch_bucket(origin: BucketOrigin, pin: Pin | None, key: str, listed: dict[str, Listed] | None = None) -> dict[str, Path]:
    """The objects of an origin as local files: those of the pin, else those that the bucket lists now.

    Args:
        origin: bucket, prefix and patterns.
        pin: names, generations and digests, once locked.
        key: the recipe key, for errors.
        listed: what `list_bucket` told, if it was asked already.

    Raises:
        Med42Error: an object changed since it was locked or listed, or came damaged; or the service refuses. Nothing is kept of it.
    """
    with told_plainly(f"{key}: {origin.url}"):
        bucket, prefix = _place(origin)
    if pin is not None:
        wanted = {name: Listed(prefix + name, pin.generations[name], -1, "") for name in sorted(pin.files)}
    else:
        wanted = listed if listed is not None else list_bucket(origin, key)
    files = {}
    for name, found in wanted.items():
        with told_plainly(what := f"{key}: gs://{bucket.name}/{found.object}"):
            files[name] = _fetched(bucket, found, pin.files[name] if pin else None, what)
    return files


def check_bucket(origin: BucketOrigin, pin: Pin | None, key: str) -> int:
    """See, before anything is fetched, that the objects of an origin can be had; of those pinned, the same generation.

    Returns:
        How many there are.

    Raises:
        Med42Error: as `list_bucket` does; or an object changed since it was locked.
    """
    if pin is None:
        return len(list_bucket(origin, key))
    with told_plainly(f"{key}: {origin.url}"):
        bucket, prefix = _place(origin)
        for name, generation in sorted(pin.generations.items()):
            what = f"{key}: gs://{bucket.name}/{prefix}{name}"
            # Asked for by generation, which a bucket with versioning may still hold beside a newer one.
            blob = bucket.get_blob(prefix + name, generation=int(generation), retry=asked_again(PATIENCE), timeout=PATIENCE)
            if blob is None or str(blob.generation) != generation:
                now = _generation(bucket, prefix + name)
                raise _changed(Listed(prefix + name, generation, -1, ""), f"generation {now}" if now else "no such object any more", what)
    return len(pin.generations)


def _fetched(bucket: Any, found: Listed, pinned: str | None, what: str) -> Path:
    """One object in the cache, under a name that tells its place and generation."""
    place = hashlib.sha256(f"gs://{bucket.name}/{found.object}".encode()).hexdigest()[:16]
    # The end of its name is kept for the reader's errors; a whole one may be longer than a file system takes.
    path = _cache() / bucket.name / f"{place}-{found.generation}-{found.object.rpartition('/')[2][-60:]}"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as handle:
        draft = Path(handle.name)
        try:
            _download(bucket, found, handle, what)
            handle.close()
            _check(bucket, found, draft, pinned, what)
            draft.chmod(0o644)
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
    return path


def _download(bucket: Any, found: Listed, handle: Any, what: str) -> None:
    from google.api_core.exceptions import NotFound

    blob = bucket.blob(found.object, generation=int(found.generation))
    try:
        # As it lies there: left alone, the client unpacks what is stored with Content-Encoding gzip. Checked below.
        blob.download_to_file(handle, raw_download=True, checksum=None, retry=asked_again(PATIENCE), timeout=PATIENCE)
    except NotFound:
        if (now := _generation(bucket, found.object)) == found.generation:
            raise
        raise _changed(found, f"generation {now}" if now else "no such object any more", what) from None


def _check(bucket: Any, found: Listed, draft: Path, pinned: str | None, what: str) -> None:
    """Compare what came with the pin, or with the size and checksum of the list."""
    if pinned:
        came, right = f"SHA-256 {file_digest(draft)}", f"SHA-256 {pinned}"
    else:
        came, right = f"{draft.stat().st_size} bytes, CRC32C {_crc32c(draft)}", f"{found.size} bytes, CRC32C {found.crc32c}"
    if came == right:
        return
    if (now := _generation(bucket, found.object)) != found.generation:
        raise _changed(found, f"generation {now} ({came} instead of {right})", what)
    raise Med42Error(what, came, right, "It came damaged: run again."
                     + " If these bytes are right, run `med42 lock` again." * bool(pinned))


def _changed(found: Listed, now: str, what: str) -> Med42Error:
    if found.size < 0:  # pinned: no list was asked for
        return Med42Error(what, now, f"generation {found.generation}, as when the recipe was locked",
                          "The object changed since: restore that generation, or run `med42 lock` again.")
    return Med42Error(what, now, f"generation {found.generation}, as listed a moment ago",
                      "The object changed while it was being read: wait until whoever writes it has finished, and run again.")


def _generation(bucket: Any, name: str) -> str | None:
    """The generation that an object has now; None if there is no such object."""
    blob = bucket.get_blob(name, retry=asked_again(PATIENCE), timeout=PATIENCE)
    return None if blob is None else str(blob.generation)


def _crc32c(path: Path) -> str:
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()


def _place(origin: BucketOrigin) -> tuple[Any, str]:
    """The client's bucket, and what the names of the objects begin with."""
    bucket, _, prefix = origin.url.removeprefix("gs://").partition("/")
    return client().bucket(bucket), f"{prefix.strip('/')}/" if prefix.strip("/") else ""


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "med42" / "buckets"


def client() -> Any:
    """The service's client: with the machine's credentials, else without any; no project is needed for objects."""
    import google.auth.exceptions
    from google.cloud import storage

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        from google.auth.credentials import AnonymousCredentials

        return storage.Client(project=None, credentials=AnonymousCredentials())
    try:
        return storage.Client(project=None)
    except google.auth.exceptions.DefaultCredentialsError:
        return storage.Client.create_anonymousclient()


def asked_again(patience: float) -> Any:
    """The client's own way of asking again after passing trouble, for so many seconds."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(patience)


@contextmanager
def told_plainly(what: str) -> Iterator[None]:
    """Turn the client's errors into one that names what was asked and what to do."""
    import google.auth.exceptions
    import requests
    from google.api_core.exceptions import GoogleAPICallError, RetryError

    try:
        yield
    except RetryError as error:
        # What it gave up over: a refusal, which a download tells by the bare response; or a connection.
        cause = error.cause or error
        response = getattr(cause, "response", None)
        if response is None:
            raise _unreachable(what, cause) from error
        raise _refused(what, response.status_code, response.text) from error
    except GoogleAPICallError as error:
        raise _refused(what, int(error.code or 0), error.message) from error
    except google.auth.exceptions.TransportError as error:
        raise _unreachable(what, error) from error
    except google.auth.exceptions.GoogleAuthError as error:
        found, expected, remedy = ADVICE[401]
        raise Med42Error(what, f"{found} ({_first_line(error)})", expected, remedy) from error
    except requests.exceptions.RequestException as error:
        raise _unreachable(what, error) from error
    except OSError as error:
        raise Med42Error(error.filename or _cache(), error.strerror or str(error), f"a folder with room that we can write, for {what}",
                         "Set XDG_CACHE_HOME to another place, or free space.") from error


def _refused(what: str, status: int, said: str) -> Med42Error:
    trouble = ("an error of the service itself", "a service that answers", "It is in trouble; run again later, finished work is kept.")
    found, expected, remedy = ADVICE.get(status, trouble)
    return Med42Error(what, f"{found} (HTTP {status}: {_first_line(said)})", expected, remedy)


def _unreachable(what: str, error: object) -> Med42Error:
    return Med42Error(what, f"no connection to the service ({_first_line(error)})", "a service that can be reached",
                      "Check the network and STORAGE_EMULATOR_HOST, or use files with --data-root.")


def _first_line(text: object) -> str:
    return (str(text).strip().splitlines() or [""])[0][:200]
