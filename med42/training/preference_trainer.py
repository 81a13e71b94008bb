"""TRL's DPOTrainer on pairs that are token ids already, with our forward inside, or as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed
from trl import DPOTrainer

from med42.training.reference import Score
from med42.training.shared_prompt import LENGTHS, SharedPromptCollator, attention_for, select, share_out, share_prompts

# What gives a named set of pairs the reference's log-probabilities, float64 [2, pairs].
Reference = Callable[[str, Any, Score], torch.Tensor]


class PreparedDPOTrainer(DPOTrainer):
    """A DPOTrainer for pairs that are token ids already, made by the same chat format as the SFT data."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class SharedPromptTrainer(PreparedDPOTrainer):
    """It computes pairs in packed rows, each prompt once, for policy and reference; the losses and metrics are TRL's."""

    def __init__(self, reference: Reference, row_tokens: int | None = None, **given: Any) -> None:
        self._reference, self._row_tokens, self._shares_prompts = reference, row_tokens, False
        super().__init__(data_collator=SharedPromptCollator(pad_token_id=0), **given)  # no padding is computed

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """TRL calls this at the end of its own set-up, with the fused head in place, for training and held-out pairs."""
        import datasets

        model: Any = self.model
        if not self._shares_prompts:
            share_prompts(model)
            model.set_attn_implementation(attention_for(self.accelerator.device))
            self._shares_prompts = True
        model = self._reference_model()

        def score(pairs: list[dict[str, Any]]) -> torch.Tensor:
            return torch.stack(self.compute_ref_log_probs(model, self._prepare_inputs(self.data_collator(pairs))))

        chosen, rejected = self._reference(name, dataset, score).tolist()
        columns = datasets.Dataset.from_dict({"ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
        return datasets.concatenate_datasets([dataset, columns], axis=1)

    def _reference_model(self) -> Any:
        """The policy before its first step; sharded as it is trained."""
        if not self.is_deepspeed_enabled:
            return self.model
        from trl.models import prepare_deepspeed

        if self._precompute_engine is None:
            policy: Any = self.model
            self._precompute_engine = prepare_deepspeed(policy, self.accelerator)
        return self._precompute_engine

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a micro-step's pairs, in as few rows as `row_tokens` allows; gradients are shared out once."""
        rows = share_out(inputs[LENGTHS], self._row_tokens, self._most) if self._row_tokens else []
        if len(rows) < 2:
            return super().training_step(model, inputs, num_items_in_batch)
        state, before = self.accelerator.gradient_state, self.current_gradient_accumulation_steps
        synchronises, loss = state.sync_gradients, torch.zeros((), dtype=torch.float64, device=self.args.device)
        self.current_gradient_accumulation_steps = before * len(rows)  # by which a row's loss is divided
        try:
            for number, row in enumerate(rows, 1):
                last = number == len(rows)
                state._set_sync_gradients(synchronises and last)
                # DeepSpeed goes by that state; DDP has a context of its own.
                waits = nullcontext() if last or self.is_deepspeed_enabled else self.accelerator.no_sync(model)
                with waits:
                    loss = loss + super().training_step(model, select(inputs, row), num_items_in_batch)
        finally:
            self.current_gradient_accumulation_steps = before
            state._set_sync_gradients(synchronises)
        return loss

    def _most(self, rows: int) -> int:
        """The largest number of rows among all processes."""
        if not torch.distributed.is_initialized():
            return rows
        largest = torch.tensor(rows, device=self.args.device)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return int(largest.item())

    def _prepare_input(self, data: Any) -> Any:
        # Under DeepSpeed it would turn the reference's log-probabilities to the weights' type: of -300, bfloat16 keeps units.
        if isinstance(data, torch.Tensor) and data.is_floating_point():
            return data.to(self.args.device)
        return super()._prepare_input(data)


@contextmanager
def plain_attention(model: Any, implementation: str) -> Iterator[None]:
    """Let a model compute rows that are no packed pairs."""
    packed = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(packed)
