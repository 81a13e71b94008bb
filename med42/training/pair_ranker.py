"""A ranker that compares two answers at a time, in the layout of PairRM's published weights (LLM-Blender, arXiv 2306.02561).

DeBERTa-v2 reads `source`, `candidate1` and `candidate2` in one row, each led by a token of its own. The states of these three
tokens are what the head sees: [source, candidate1] and [source, candidate2] each get a number, and their difference says how much
better the first candidate is. Weights: `pretrained_model.*`, `head_layer.1.*`, `head_layer.4.*`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2Model

from med42.errors import Med42Error

SOURCE, FIRST, SECOND = "<|source|>", "<|candidate1|>", "<|candidate2|>"

# As it was trained: of 2,048 tokens, 1,224 for the source and 412 for each candidate; what is longer is cut at its end.
SOURCE_TOKENS, CANDIDATE_TOKENS = 1224, 412


class PairRanker(torch.nn.Module):
    """The model; modules are named as the weights are."""

    def __init__(self, config: DebertaV2Config, leads: Sequence[int]) -> None:
        """Make it without weights.

        Args:
            config: of DeBERTa, with `drop_out` and `n_tasks` of the head.
            leads: the tokens that lead source, first and second candidate.
        """
        super().__init__()
        self.leads = leads
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = torch.nn.Sequential(
            torch.nn.Dropout(config.drop_out), torch.nn.Linear(2 * config.hidden_size, config.hidden_size), torch.nn.Tanh(),
            torch.nn.Dropout(config.drop_out), torch.nn.Linear(config.hidden_size, config.n_tasks))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """How much better the first candidate of each row is than the second: float, [rows]."""
        states = self.pretrained_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        rows = torch.arange(len(input_ids), device=input_ids.device)
        # Each leads its part, so its first place is it, whatever a text says.
        source, first, second = (states[rows, (input_ids == lead).int().argmax(dim=1)] for lead in self.leads)
        better, worse = (self.head_layer(torch.cat([source, candidate], dim=1)) for candidate in (first, second))
        return (better - worse).mean(dim=1)


def load_ranker(folder: Path, dtype: torch.dtype, device: str) -> Callable[[str, list[str]], list[float]]:
    """The scores of several answers to one source, by a ranker from a folder.

    An answer's score is the mean over the others of how much better it is, asked both ways round: they add up to 0.

    Raises:
        Med42Error: the folder's weights or tokenizer are not of this form.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    leads = [tokenizer.convert_tokens_to_ids(lead) for lead in (SOURCE, FIRST, SECOND)]
    if any(lead in (None, tokenizer.unk_token_id) for lead in leads):
        raise Med42Error(folder, f"a tokenizer without {SOURCE}, {FIRST} or {SECOND}", "a pair ranker's", "Choose another reward model.")
    model = PairRanker(DebertaV2Config.from_pretrained(folder), leads)
    weights = {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise Med42Error(folder, " ".join(str(error).split())[:300], "the weights of a pair ranker",
                         "Choose another reward model.") from error
    model.to(device=device, dtype=dtype).eval()

    def encoded(text: str, most: int) -> list[int]:
        ids: list[int] = tokenizer.encode(text, max_length=most, truncation=True)
        return ids

    def score(source: str, answers: list[str]) -> list[float]:
        asked = encoded(SOURCE + source, SOURCE_TOKENS)
        pairs = list(itertools.permutations(range(len(answers)), 2))
        rows = [asked + encoded(FIRST + answers[one], CANDIDATE_TOKENS) + encoded(SECOND + answers[other], CANDIDATE_TOKENS)
                for one, other in pairs]
        batch: Any = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(device)
        with torch.no_grad():
            better = model(batch["input_ids"], batch["attention_mask"]).float().tolist()
        total = [0.0] * len(answers)
        for (one, other), value in zip(pairs, better, strict=True):
            total[one] += value
            total[other] -= value
        return [value / (2 * (len(answers) - 1)) for value in total]

    return score
