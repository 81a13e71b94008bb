"""The hub's refusals, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from med42.errors import Med42Error

ADVICE = {
    401: ("no valid token", "a token that the hub knows", "Log in with `hf auth login` or set HF_TOKEN; make a new token if it has expired."),
    403: ("a token without this right", "a token that may do this", "Accept the repository's terms on its page, or use a token with the right scope."),
    404: ("no such repository, revision or file", "one that exists and that the token may see", "Check the name and the revision; private ones need a token."),
    409: ("a conflicting change", "an unchanged repository", "Somebody else wrote to it; run again."),
    429: ("too many requests", "a hub that takes ours", "Wait a few minutes and run again; finished work is kept."),
}


@contextmanager
def told_plainly(what: str) -> Iterator[None]:
    """Turn a hub client's errors into one that names what was asked and what to do."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        found, expected, remedy = ADVICE.get(
            status, ("an error of the hub itself", "a hub that answers", "Its service is in trouble; run again later, finished work is kept.")
        )
        raise Med42Error(what, f"{found} (HTTP {status})", expected, remedy) from error
    except (OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise Med42Error(what, f"no connection ({error})", "a hub that can be reached",
                         "Check the network and HF_ENDPOINT, or use files with --data-root.") from error
