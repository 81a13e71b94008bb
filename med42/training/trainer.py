"""What both trainers share: settings from the recipe, progress, and the log."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from med42.errors import Med42Error
from med42.lineage.journal import Progress
from med42.recipe.schema import Dpo, Sft
from med42.report import page, plot
from med42.training.checkpoints import KEPT

OPTIMIZERS = {"adamw": "adamw_torch", "rmsprop": "rmsprop"}


def training_arguments(settings: Sft | Dpo, seed: int, checkpoints: Path | None, scratch: Path) -> dict[str, Any]:
    """The keyword arguments that SFTConfig and DPOConfig share."""
    import torch

    return {
        "output_dir": str(checkpoints or scratch), "seed": seed, "data_seed": seed, "use_cpu": not torch.cuda.is_available(),
        "optim": OPTIMIZERS[settings.optimizer], "learning_rate": settings.learning_rate, "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1], "adam_epsilon": settings.epsilon, "weight_decay": settings.weight_decay,
        "lr_scheduler_type": settings.schedule, "warmup_steps": settings.warmup, "max_grad_norm": settings.clip_norm,
        "num_train_epochs": settings.epochs, "max_steps": settings.steps if settings.steps is not None else -1,
        "gradient_accumulation_steps": settings.accumulation, "bf16": settings.dtype == "bfloat16",
        "activation_checkpointing": settings.activation_checkpointing, "logging_steps": settings.log_every, "logging_first_step": True,
        "logging_nan_inf_filter": False,  # else a loss that is not a number is logged as the one before it
        "save_strategy": "steps" if checkpoints else "no", "save_steps": settings.checkpoint_every or 500, "save_total_limit": KEPT,
        "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False, "dataloader_pin_memory": False,
    }


def score_supervised_positions_only() -> None:
    """Let TRL's language-model head score only the positions with a label, on CPUs too.

    TRL 1.16 does so where Triton runs and scores every position elsewhere, to keep tile shapes constant for
    devices that would recompile; a CPU does not. Of `tiny`'s tokens 16% are supervised, which makes an SFT step
    twice as fast. The losses are the same; a test compares them.
    """
    import trl.trainer.utils as trl_utils

    original = trl_utils._use_triton
    trl_utils._use_triton = lambda device: device.type == "cpu" or original(device)


def assert_world_size(expected: int) -> None:
    """Refuse a launch that came up with another number of processes than the recipe asks for.

    Launchers fall back to one process in silence; the run would then train on a fraction of each batch.

    Raises:
        Med42Error: another world size.
    """
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != expected:
        raise Med42Error("WORLD_SIZE", f"{found} processes", f"{expected}, the recipe's nodes x GPUs",
                         "Launch with torchrun; med42.training.launch names the contract.")


def progress_callback(progress: Progress) -> Any:
    """A trainer callback that tells step, loss and the time left."""
    from transformers import TrainerCallback

    class Teller(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.total = state.max_steps

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            shown = {key: logs[key] for key in ("loss", "rewards/margins") if logs and key in logs}
            if state.is_world_process_zero and state.global_step and "loss" in shown:
                progress.step(state.global_step, **shown)

    return Teller()


def write_log(logged: list[dict[str, Any]], draft: Path) -> None:
    """Write the logged values without those of the clock, and TRL's count of tokens, which starts anew when it resumes."""
    left_out = ("_runtime", "_per_second", "num_tokens")
    kept = [{key: value for key, value in entry.items() if not key.endswith(left_out)} for entry in logged]
    (draft / "training_log.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def curves(history: list[dict[str, Any]], wanted: dict[str, tuple[str, ...]]) -> list[Markup]:
    """One figure a title, with the logged values of its keys over steps."""
    figures = []
    for title, keys in wanted.items():
        series = {key: points for key in keys if (points := _points(history, key))[0]}
        if series:
            figures.append(page.figure(plot.lines(series, "step", title), ""))
    return figures


def _points(history: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    logged = [entry for entry in history if key in entry]
    return [entry["step"] for entry in logged], [entry[key] for entry in logged]
