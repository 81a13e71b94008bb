"""The reference's log-probabilities of a round's pairs: computed once, kept in a file, and read again when a training goes on.

The file lies beside the training's checkpoints. It names the model and the pairs that it belongs to, by their digests, and is
refused for others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from med42.data.packing import plan_chunks
from med42.errors import Med42Error
from med42.training.sharding import is_first_process, meet
from med42.training.shared_prompt import places_of

# Log-probabilities of the answers of some pairs, float64 [2, pairs]: chosen, rejected.
Score = Callable[[list[dict[str, Any]]], torch.Tensor]


def reference_log_probs(
    path: Path, belongs_to: dict[str, str], pairs: Sequence[dict[str, Any]], places: int, score: Score
) -> torch.Tensor:
    """Read them from a file, or compute them in all processes together and write it.

    Args:
        path: the file; all processes share it.
        belongs_to: digests of the model and of the pairs.
        pairs: with `prompt_ids`, `chosen_ids`, `rejected_ids`.
        places: most places of a packed row that is computed at once.
        score: computes some pairs, which fit into one row of so many places.

    Returns:
        float64 [2, pairs], on the CPU: of the chosen and of the rejected answers.

    Raises:
        Med42Error: the file belongs to another model or other pairs, or does not read; a log-probability is not finite.
    """
    found = read_reference(path, belongs_to, len(pairs))
    if found is not None:
        return found
    values = _computed(pairs, places, score)
    if not values.isfinite().all():
        number = int((~values.isfinite()).any(dim=0).nonzero()[0])
        raise Med42Error(path.name, f"a log-probability that is not finite, of pair {number}", "finite numbers",
                         "The model that the round starts from computes no probabilities; make it again.")
    if is_first_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.partial")
        save_file({"chosen": values[0].contiguous(), "rejected": values[1].contiguous()}, draft, metadata=belongs_to)
        draft.rename(path)
    meet()
    return values


def read_reference(path: Path, belongs_to: dict[str, str], pairs: int) -> torch.Tensor | None:
    """The log-probabilities of a file; None where there is no such file.

    Raises:
        Med42Error: it belongs to another model or other pairs, or does not read.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            told, values = file.metadata() or {}, torch.stack([file.get_tensor("chosen"), file.get_tensor("rejected")])
    except (SafetensorError, OSError, RuntimeError) as error:
        raise Med42Error(path, f"a file that does not read ({error})", "log-probabilities of the reference",
                         "Remove it; it is made again.") from error
    for what, digest in belongs_to.items():
        if told.get(what) != digest:
            raise Med42Error(path, f"log-probabilities of other {what} ({told.get(what, 'unnamed')[:16]})", f"those of {digest[:16]}",
                             "Remove it; it is made again.")
    if values.shape != (2, pairs):
        raise Med42Error(path, f"{values.shape[1]:,} pairs", f"{pairs:,}", "Remove it; it is made again.")
    return values


def _computed(pairs: Sequence[dict[str, Any]], places: int, score: Score) -> torch.Tensor:
    """Rows of many pairs, dealt out to the processes; which pairs share a row does not depend on how many there are."""
    sizes = np.asarray([places_of(*(len(pair[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))) for pair in pairs])
    plan = plan_chunks(sizes, max(places, int(sizes.max())))
    rank, processes = _place()
    values = torch.zeros(2, len(pairs), dtype=torch.float64)
    for first in range(0, len(plan), processes):
        # Of the last rows a process may have none: it computes one again, because shards are gathered by all or by none.
        number = min(first + rank, len(plan) - 1)
        members = plan.members[plan.offsets[number] : plan.offsets[number + 1]].tolist()
        found = score([pairs[member] for member in members]).cpu()
        if number == first + rank:
            values[:, members] = found
    if processes > 1:
        values = _added_up(values)
    return values


def _place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    processes = torch.distributed
    return (processes.get_rank(), processes.get_world_size()) if processes.is_initialized() else (0, 1)


def _added_up(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes; each has zeros where another has computed."""
    device = torch.device("cuda", torch.cuda.current_device()) if torch.distributed.get_backend() == "nccl" else values.device
    together = values.to(device)
    torch.distributed.all_reduce(together)
    return together.cpu()
