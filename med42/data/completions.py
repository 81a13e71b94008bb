"""A client of servers that speak OpenAI's completions, as vLLM's does: it waits, tries again, and says what was wrong."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

from med42.errors import Med42Error
from med42.recipe.schema import CompletionsServer

LONGEST_WAIT = 60.0  # seconds between two attempts

Answer = TypeVar("Answer")


def ask(server: CompletionsServer, key: str, url: str, asked: dict[str, Any] | None, read: Callable[[Any], Answer], wanted: str) -> Answer:
    """One answer of a server.

    Args:
        server: how long to wait, and how often to try.
        key: of the recipe, that names the server.
        url: what is asked.
        asked: the request's body; None to get what is there.
        read: makes the answer of what the server says, or raises ValueError where that is not what was asked for.
        wanted: what should have come, for the error.

    Raises:
        Med42Error: the server refuses the request, or does not answer it well after all attempts.
    """
    trouble = ""
    for attempt in range(server.attempts):
        if attempt:
            time.sleep(min(LONGEST_WAIT, server.wait * 2 ** (attempt - 1)))
        try:
            return read(_told(url, asked, server.timeout))
        except urllib.error.HTTPError as error:
            words = error.read(500).decode("utf-8", "replace").strip()
            trouble = f"HTTP {error.code}: {words}"
            if error.code != 429 and error.code < 500:
                raise Med42Error(url, trouble, wanted, f"Check {key}: its url, and the model that the server serves.") from error
            if (named := error.headers.get("Retry-After", "")).isdigit():
                time.sleep(min(LONGEST_WAIT, float(named)))
        # The server is not there, too slow, or closes in the middle of an answer; or what it answers is not what was asked for.
        except (OSError, http.client.HTTPException, ValueError) as error:
            trouble = f"{type(error).__name__}: {error}"
    raise Med42Error(url, f"no good answer in {server.attempts} attempts, the last: {trouble}", wanted,
                     f"Look at the server's log; raise timeout or attempts in {key}. What was answered is kept.")


def choices_of(told: Any, number: int) -> list[dict[str, Any]]:
    """The choices in a response, by their index.

    Raises:
        ValueError: there are not so many of them, or not numbered from 0 on.
    """
    choices = told.get("choices") if isinstance(told, dict) else None
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    if len(found) != number or {choice.get("index") for choice in found} != set(range(number)):
        raise ValueError(f"{len(found)} choices, for {number}")
    return sorted(found, key=lambda choice: int(choice["index"]))


def _told(url: str, asked: dict[str, Any] | None, timeout: float) -> Any:
    request = urllib.request.Request(url, None if asked is None else json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.load(response)
