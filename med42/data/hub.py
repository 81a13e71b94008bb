"""The hub's refusals, in words that say what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from med42.errors import Med42Error

ADVICE = {
    400: ("a request that it refuses", "a request in its form", "Mend what it names."),
    401: ("no valid token", "a token that the hub knows",
          "Log in with `hf auth login` or set HF_TOKEN; make a new token if it has expired. A hub also answers so where "
          "there is no such repository: check the name."),
    403: ("a token without this right", "a token that may do this",
          "Accept the repository's terms on its page, or use a token with the right scope."),
    404: ("no such repository, revision or file", "one that exists and that the token may see",
          "Check the name and the revision; private ones need a token."),
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
