"""A client of servers that speak OpenAI's completions, as vLLM's does: it waits, tries again, and says what was wrong.

The prompt goes as token ids, so that the server's own chat template is not asked.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from med42.errors import Med42Error
from med42.recipe.schema import OnPolicy, ServerSampler

LONGEST_WAIT = 60.0  # seconds between two attempts


def complete(sampler: ServerSampler, settings: OnPolicy, round_number: int, prompt_ids: list[int], seed: int) -> list[str]:
    """Several answers to one prompt.

    Raises:
        Med42Error: the server refuses the request, or does not answer it well after all attempts.
    """
    url = f"{sampler.url.rstrip('/')}/completions".replace("{round}", str(round_number))
    asked = {"model": sampler.model.replace("{round}", str(round_number)), "prompt": prompt_ids, "n": settings.answers,
             "max_tokens": settings.max_tokens, "temperature": settings.temperature, "top_p": settings.top_p, "seed": seed}
    trouble = ""
    for attempt in range(sampler.attempts):
        wait = min(LONGEST_WAIT, sampler.wait * 2 ** (attempt - 1))
        if attempt:
            time.sleep(wait)
        try:
            return _texts(_post(url, asked, sampler.timeout), settings.answers)
        except urllib.error.HTTPError as error:
            words = error.read(500).decode("utf-8", "replace").strip()
            trouble = f"HTTP {error.code}: {words}"
            if error.code != 429 and error.code < 500:
                raise Med42Error(url, trouble, "answers",
                                 "Check dpo.on_policy.sampler: its url, and the model that the server serves.") from error
            if (named := error.headers.get("Retry-After", "")).isdigit():
                time.sleep(min(LONGEST_WAIT, float(named)))
        # The server is not there, too slow, or closes in the middle of an answer; or what it answers is not what was asked for.
        except (OSError, http.client.HTTPException, ValueError) as error:
            trouble = f"{type(error).__name__}: {error}"
    raise Med42Error(url, f"no good answer in {sampler.attempts} attempts, the last: {trouble}", f"{settings.answers} answers a prompt",
                     "Look at the server's log; raise timeout or attempts in dpo.on_policy.sampler. What was answered is kept.")


def _post(url: str, asked: dict[str, Any], timeout: float) -> Any:
    request = urllib.request.Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.load(response)


def _texts(told: Any, number: int) -> list[str]:
    """The answers in a response.

    Raises:
        ValueError: it holds another number of them, or no texts.
    """
    choices = told.get("choices") if isinstance(told, dict) else None
    texts = [choice.get("text") if isinstance(choice, dict) else None for choice in choices] if isinstance(choices, list) else []
    if len(texts) != number or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{len(texts)} choices with text, for n = {number}")
    return [str(text) for text in texts]
