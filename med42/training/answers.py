"""What a model answers before and after a round, and how far it has gone from the SFT model: for people to look at.

Every process does the same, whether it holds all weights or a shard of them: the answers are the likeliest ones, no draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med42.data.shards import read_shards


@dataclass(frozen=True)
class Asked:
    """A prompt that the models answer.

    Attributes:
        text: its last turn.
        ids: the whole prompt's token ids.
    """

    text: str
    ids: list[int]


def asked(preferences: Path, number: int) -> list[Asked]:
    """The first prompts of the held-out pairs, each once; of the round's own pairs where none are held out."""
    folder = preferences / "held_out"
    found: dict[str, Asked] = {}
    for pair in read_shards(folder if any(folder.glob("part-*.parquet")) else preferences):
        if len(found) == number:
            break
        found.setdefault(str(pair["prompt"]), Asked(pair["prompt"][-1]["content"], list(pair["prompt_ids"])))
    return list(found.values())


def answer(model: Any, prompts: list[Asked], longest: int, ends: list[int]) -> list[list[int]]:
    """The likeliest next token again and again, for all prompts at once.

    Args:
        model: a causal language model.
        prompts: what it is asked.
        longest: most tokens of an answer.
        ends: tokens that end an answer; they are not part of it.
    """
    import torch

    if not prompts:
        return []
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[ends[0]] * (width - len(prompt.ids)) + prompt.ids for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt.ids)) + [1] * len(prompt.ids) for prompt in prompts], device=model.device)
    with _evaluating(model), torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, temperature=None, top_p=None, max_new_tokens=longest,
                             pad_token_id=ends[0], eos_token_id=ends)
    answers = []
    for row in out[:, width:].tolist():
        end = next((place for place, token in enumerate(row) if token in ends), len(row))
        answers.append(row[:end])
    return answers


def divergence(model: Any, other: Any, prompts: list[Asked], answers: list[list[int]]) -> float | None:
    """Mean Kullback-Leibler divergence of a model from another, over the places of its own answers.

    At each place it is the sum over the vocabulary of p (log p - log q), in nats. None where every answer is empty.
    """
    import torch

    total, places = 0.0, 0
    with _evaluating(model), _evaluating(other), torch.no_grad():
        for prompt, tokens in zip(prompts, answers, strict=True):
            if not tokens:
                continue
            ids = torch.tensor([[*prompt.ids, *tokens[:-1]]], device=model.device)
            # Answer by answer: 128 places of 128,000 tokens are 66 MB.
            mine, theirs = (one(input_ids=ids, logits_to_keep=len(tokens), use_cache=False).logits[0].float().log_softmax(dim=-1)
                            for one in (model, other))
            total += (mine.exp() * (mine - theirs)).sum(dtype=torch.float64).item()
            places += len(tokens)
    return round(total / places, 6) if places else None


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
