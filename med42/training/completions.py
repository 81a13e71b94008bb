"""Answers drawn from a server of completions. The prompt goes as token ids, so that the server's own chat template is not asked."""

from __future__ import annotations

from typing import Any

from med42.data.completions import ask, choices_of
from med42.recipe.schema import OnPolicy, ServerSampler


def complete(sampler: ServerSampler, settings: OnPolicy, round_number: int, prompt_ids: list[int], seed: int) -> list[str]:
    """Several answers to one prompt.

    Raises:
        Med42Error: the server refuses the request, or does not answer it well after all attempts.
    """
    url = f"{sampler.url.rstrip('/')}/completions".replace("{round}", str(round_number))
    asked = {"model": sampler.model.replace("{round}", str(round_number)), "prompt": prompt_ids, "n": settings.answers,
             "max_tokens": settings.max_tokens, "temperature": settings.temperature, "top_p": settings.top_p, "seed": seed}
    return ask(sampler, "dpo.on_policy.sampler", url, asked, lambda told: _texts(told, settings.answers),
               f"{settings.answers} answers a prompt")


def _texts(told: Any, number: int) -> list[str]:
    """The answers in a response.

    Raises:
        ValueError: it holds another number of them, or no texts.
    """
    texts = [choice.get("text") for choice in choices_of(told, number)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a choice without text, for n = {number}")
    return [str(text) for text in texts]
