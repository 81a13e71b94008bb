"""Preference pairs in one row, without padding, in which each prompt is computed once.

TRL gives a pair two rows, `prompt chosen` and `prompt rejected`, each filled up to the longest of its batch. Here all pairs
of a micro-step lie in one row:

    p0 p1 p2 c0 c1 | p2 r0 r1 r2 | next pair ...
     0  1  2  3  4    2  3  4  5     0 ...          positions

The last token of the prompt stands a second time, before the rejected answer and at its old position, so that each place
predicts one token. It and what follows see the prompt before it, and nothing of the chosen answer. The last token of an answer
predicts nothing and is left out. A pair of p, c and r tokens takes p + c + r - 1 places; TRL's take 2 (p + max(c, r)) or more.

What comes out is put where TRL looks for it, so that its losses and metrics stay TRL's.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from trl.trainer.dpo_trainer import DataCollatorForPreference

from med42.data.chat import IGNORED

PACKED = "packed_pairs"
LENGTHS = "pair_lengths"

# Which answers a place belongs to: to both (the prompt but for its last token), to the chosen one, to the rejected one.
BOTH, CHOSEN, REJECTED = 0, 1, 2

# Fields of TRL's output that hold one value a predicted token.
PER_TOKEN = ("log_probs", "entropy", "mean_logits", "is_top1")

Lengths = tuple[int, int, int]


def places_of(prompt: int, chosen: int, rejected: int) -> int:
    """Places that a pair of these many tokens takes in a row."""
    return prompt + chosen + rejected - 1


def pack(pairs: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Lay pairs into one row.

    Args:
        pairs: `prompt_ids`, `chosen_ids`, `rejected_ids` of each, none of them empty.

    Returns:
        int64 tensors of shape [1, places]: `input_ids`, `position_ids`, `shift_labels` (the token that a place predicts, or
        -100), `pair` (its number) and `answer` (BOTH, CHOSEN or REJECTED).
    """
    columns: dict[str, list[int]] = {name: [] for name in ("input_ids", "position_ids", "shift_labels", "pair", "answer")}
    for number, pair in enumerate(pairs):
        prompt, chosen, rejected = (list(pair[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
        before, last = len(prompt) - 1, prompt[-1]
        columns["input_ids"] += [*prompt, *chosen[:-1], last, *rejected[:-1]]
        columns["position_ids"] += [*range(before + len(chosen)), *range(before, before + len(rejected))]
        columns["shift_labels"] += [*[IGNORED] * before, *chosen, *rejected]
        columns["pair"] += [number] * (before + len(chosen) + len(rejected))
        columns["answer"] += [BOTH] * before + [CHOSEN] * len(chosen) + [REJECTED] * len(rejected)
    return {name: torch.tensor([values]) for name, values in columns.items()}


def visible(row: dict[str, torch.Tensor], query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Whether a place of the row sees another: the same pair's, not later, and of the prompt or its own answer."""
    pair, answer = row["pair"][0], row["answer"][0]
    return (pair[query] == pair[key]) & (query >= key) & ((answer[key] == BOTH) | (answer[key] == answer[query]))


@dataclasses.dataclass
class SharedPromptCollator:
    """TRL's padded batch, which its losses and metrics go by, and the row that is computed instead of it.

    The reference's log-probabilities are float64: a sum of 300 of them loses 1e-5 in float32, and more than the loss itself in
    bfloat16, to which DeepSpeed would turn them.
    """

    pad_token_id: int

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of pairs with token ids and, where they are there, `ref_chosen_logps` and `ref_rejected_logps`."""
        batch: dict[str, Any] = DataCollatorForPreference(pad_token_id=self.pad_token_id)(pairs)
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in batch:
                batch[name] = torch.tensor([pair[name] for pair in pairs], dtype=torch.float64)
        batch[PACKED] = pack(pairs)
        batch[LENGTHS] = [tuple(len(pair[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")) for pair in pairs]
        return batch


def share_prompts(model: Any) -> None:
    """Let a model that has TRL's fused head compute the packed row of a batch instead of its padded rows.

    To be called after `add_fused_lm_head`, and before anything wraps the model. Log-probabilities come out as float64, so that
    they are summed as such.
    """
    fused: Callable[..., Any] = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, **given: Any) -> Any:
        row, lengths = given.pop(PACKED, None), given.pop(LENGTHS, None)
        if row is None:
            return fused(*args, **given)
        out = fused(input_ids=row["input_ids"], position_ids=row["position_ids"], shift_labels=row["shift_labels"], fused_lm_head=True,
                    use_cache=False, **_attention(row, lengths))
        wanted = given["labels"][:, 1:] != IGNORED
        places = slots(lengths, wanted.shape[1]).to(wanted.device)
        predicts = out.label_mask
        for name in PER_TOKEN:
            if (values := getattr(out, name)) is not None:
                values = values[predicts].double() if name == "log_probs" else values[predicts]
                setattr(out, name, values.new_zeros(wanted.numel()).index_put((places,), values).view(wanted.shape))
        out.label_mask = wanted
        return out

    model.forward = types.MethodType(forward, model)


def share_out(lengths: Sequence[Lengths], most: int, agree: Callable[[int], int] = lambda rows: rows) -> list[list[int]]:
    """Pairs dealt to as few rows as their places allow, each of as many pairs, so that a mean over rows is a mean over pairs.

    Args:
        lengths: prompt, chosen and rejected tokens of each pair.
        most: places of a row; a pair alone may have more.
        agree: the largest number of rows among all processes, who gather shards together.

    Returns:
        The pairs of each row, in order.
    """
    pairs, sizes = len(lengths), [places_of(*pair) for pair in lengths]
    longest_first = sorted(range(pairs), key=lambda number: (-sizes[number], number))

    def dealt(rows: int) -> list[list[int]]:
        # There and back again: 0 1 2 2 1 0 0 1 2 ..., so that no row gets the longest of every turn.
        turns = [longest_first[first : first + rows][:: 1 if first // rows % 2 == 0 else -1] for first in range(0, pairs, rows)]
        return [sorted(turn[row] for turn in turns) for row in range(rows)]

    ways = [rows for rows in range(1, pairs + 1) if pairs % rows == 0]
    fit = next((rows for rows in ways if max(sum(sizes[number] for number in row) for row in dealt(rows)) <= most), pairs)
    return dealt(agree(fit))


def select(batch: dict[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """The batch of some of a batch's pairs, given in their order."""
    pairs, row = len(batch[LENGTHS]), batch[PACKED]
    kept = torch.isin(row["pair"][0], torch.tensor(numbers, device=row["pair"].device))
    chosen = {name: values[list(numbers)] for name, values in batch.items() if name.startswith("ref_")}
    padded = {name: batch[name][[*numbers, *(pairs + number for number in numbers)]]
              for name in ("input_ids", "attention_mask", "completion_mask")}
    return {**padded, **chosen, PACKED: {name: values[:, kept] for name, values in row.items()},
            LENGTHS: [batch[LENGTHS][number] for number in numbers]}


def slots(lengths: Sequence[Lengths], width: int) -> torch.Tensor:
    """Where in TRL's rows each prediction of the packed row belongs: int64, indices into [2 x pairs, width] laid flat.

    TRL's first half are the chosen answers. A row's place i predicts its token i + 1, so an answer begins at prompt - 1.
    """
    starts = [((number + (len(lengths) if side else 0)) * width + prompt - 1, (chosen, rejected)[side])
              for number, (prompt, chosen, rejected) in enumerate(lengths) for side in (0, 1)]
    return torch.cat([torch.arange(start, start + size) for start, size in starts])


def attention_for(device: torch.device) -> str:
    """The attention that computes a packed row: on a GPU flex attention with a block mask, elsewhere a call for each answer."""
    return "flex_attention" if device.type == "cuda" else PACKED


def _attention(row: dict[str, torch.Tensor], lengths: Sequence[Lengths]) -> dict[str, Any]:
    """What the attention has to know of a row, as arguments of the model."""
    device = row["input_ids"].device
    if attention_for(device) != PACKED:
        return {"attention_mask": block_mask(row)}
    # The place i of the rejected branch sees the prompt before it, prompt - 1 places, and i + 1 of its own.
    masks = [torch.ones(rejected, prompt - 1 + rejected, dtype=torch.bool, device=device).tril(prompt - 1)
             for prompt, _, rejected in lengths]
    return {LENGTHS: lengths, "branch_masks": masks}


def block_mask(row: dict[str, torch.Tensor]) -> BlockMask:
    """`visible` as flex attention's mask; blocks in which no place sees another are not computed."""
    places = row["input_ids"].shape[1]

    def rule(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return visible(row, query, key)

    device = row["input_ids"].device
    # Compiled, it never holds the whole mask: 268 MB for 16,384 places.
    return create_block_mask(rule, B=1, H=None, Q_LEN=places, KV_LEN=places, device=device, _compile=device.type == "cuda")


def attend_by_pair(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
                   dropout: float = 0.0, scaling: float | None = None, pair_lengths: Sequence[Lengths] | None = None,
                   branch_masks: Sequence[torch.Tensor] | None = None, **_: Any) -> tuple[torch.Tensor, None]:
    """Attention of a packed row: two calls a pair, none of which computes what it then masks out of another pair.

    Prompt and chosen answer are plain causal. The rejected branch asks the prompt's keys and its own.

    Args:
        module: the attention layer.
        query: [1, heads, places, head size].
        key: [1, key-value heads, places, head size]; so is `value`.
        value: see `key`.
        attention_mask: none; the pairs say who sees whom.
        dropout: share of attention weights that are dropped.
        scaling: of the scores.
        pair_lengths: prompt, chosen and rejected tokens of each pair of the row.
        branch_masks: bool [rejected, prompt - 1 + rejected] of each.

    Returns:
        [1, places, heads, head size], and no weights.
    """
    if pair_lengths is None or branch_masks is None:
        raise ValueError("this attention computes packed pairs only; use plain_attention around everything else")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    # Split, not sliced: the gradient of a slice is as long as the row, and there are several a pair.
    stretches = [size for prompt, chosen, rejected in pair_lengths for size in (prompt - 1, chosen, rejected)]
    asking, keys, values = (zip(*[iter(states.split(stretches, dim=2))] * 3, strict=True) for states in (query, key, value))
    parts = []
    for (ask, ask_chosen, ask_rejected), (of, of_chosen, of_rejected), (give, give_chosen, give_rejected), mask in zip(
            asking, keys, values, branch_masks, strict=True):
        parts.append(scaled_dot_product_attention(torch.cat([ask, ask_chosen], 2), torch.cat([of, of_chosen], 2),
                                                  torch.cat([give, give_chosen], 2), dropout_p=dropout, is_causal=True, scale=scaling))
        parts.append(scaled_dot_product_attention(ask_rejected, torch.cat([of, of_rejected], 2), torch.cat([give, give_rejected], 2),
                                                  attn_mask=mask, dropout_p=dropout, scale=scaling))
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(PACKED, attend_by_pair)
