"""What both trainers share: settings from the recipe, progress, and the log."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from markupsafe import Markup

from med42.errors import Med42Error
from med42.lineage.journal import Job, Progress
from med42.recipe import Recipe
from med42.recipe.derived import steps_of
from med42.recipe.schema import Dpo, Sft
from med42.report import page, plot
from med42.training.checkpoint_bucket import bucket_of, uploading_callback
from med42.training.checkpoints import (
    account_of_attempts,
    assert_room,
    checkpoint_folder,
    for_this_many,
    marking_callback,
    newest,
    note_attempt,
    universal_callback,
)
from med42.training.failures import Preemption, divergence_callback
from med42.training.model import save_model
from med42.training.planning import load_accelerators, plan_training
from med42.training.sharding import deepspeed_settings, is_first_process, join_processes, whole_weights

OPTIMIZERS = {"adamw": "adamw_torch", "rmsprop": "rmsprop"}


class Training:
    """One training, from its checkpoints to its model, whichever trainer does it.

    Attributes:
        checkpoints: where it keeps checkpoints; None where it keeps none.
        resumed: the checkpoint that it goes on from.
        steps: optimizer steps done, those before the checkpoint included.
        logged: what was logged at each logging step.
        order: numbers of the chunks or pairs, in the order in which they are trained on.
    """

    def __init__(self, name: str, recipe: Recipe, settings: Sft | Dpo, inputs: dict[str, Path], scratch: Path, job: Job,
                 tokens_a_step: int, rows: int) -> None:
        """Join the other processes and look for a checkpoint; `rows` chunks or pairs are to be trained on.

        Raises:
            Med42Error: another number of processes than the recipe asks for, or no way for them to meet.
        """
        assert_world_size(settings.devices.processes)
        self.name, self.settings, self.scratch, self.job, self._recipe = name, settings, scratch, job, recipe
        self.checkpoints = checkpoint_folder(name, recipe, settings, inputs, job)
        self.resumed = newest(self.checkpoints)
        self.steps, self.logged, self._trainer = 0, list[dict[str, Any]](), None
        self.order = training_order(rows, steps_of(settings, rows) * settings.batch, recipe.seed)
        self._tokens_a_step, self._seconds = tokens_a_step, 0.0
        self._preemption = Preemption()
        join_processes(settings)

    def run(self, trainer: Any) -> None:
        """Train to the end, from the checkpoint if there is one.

        Raises:
            Med42Error: too little room for checkpoints, a loss that is no number or diverges.
            PreemptedError: it was told to end; a checkpoint was saved where it keeps any.
        """
        from transformers import PrinterCallback

        settings, folder, start = self.settings, self.checkpoints, self.resumed
        if folder:
            assert_room(folder, settings, sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad))
        if is_first_process():
            note_attempt(folder, "from", start.step if start else 0)
        trainer.remove_callback(PrinterCallback)
        for callback in (
            progress_callback(Progress(self.job, self.name, 0, "steps"), settings.log_every, self._tokens_a_step, folder),
            divergence_callback(self.name, settings.diverges_at, folder), self._preemption.callback(bool(folder)), marking_callback(),
        ):
            trainer.add_callback(callback)
        bucket = bucket_of(settings.checkpoint_bucket, folder)
        if bucket and is_first_process():
            trainer.add_callback(uploading_callback(bucket, settings.checkpoints_kept))
        if settings.tensorboard and self.job.store and is_first_process():
            events = self.job.store / "tensorboard" / self.job.run / self.name
            trainer.add_callback(tensorboard_callback(events, start.step if start else 0))
        # Instead of torch's generator. The processes share out batches of it, so that all together take the same rows each step.
        trainer._get_train_sampler = lambda *_: self.order
        resume = start and for_this_many(start, settings, self.scratch)
        if start and resume != start.folder:
            trainer.add_callback(universal_callback(settings))
        clock = time.monotonic()
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        self._seconds = time.monotonic() - clock
        self._trainer, self.steps = trainer, trainer.state.global_step
        self.logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        self._preemption.end(self.name, self.steps, trainer.state.max_steps, folder)

    def save(self, model: Any, start: Path, out: Path) -> bool:
        """Gather the model and write it, in the first process; whether this is the first."""
        weights = whole_weights(self._trainer, self.settings) if self._trainer else None
        if not is_first_process():
            return False
        trained = self._trainer.accelerator.unwrap_model(self._trainer.model) if self._trainer else model
        if hasattr(trained, "merge_and_unload"):
            trained = trained.merge_and_unload()
        save_model(trained, start, out, weights)
        return True

    def observed(self) -> dict[str, Any]:
        """Facts of this one time, beside what the plan foresaw."""
        done = self.steps - (self.resumed.step if self.resumed else 0)
        facts: dict[str, Any] = {"train_seconds": round(self._seconds, 2), "peak_memory_bytes": peak_memory(),
                                 **account_of_attempts(self.checkpoints)}
        if done and self._seconds:
            facts["tokens_a_second"] = round(done * self._tokens_a_step / self._seconds)
            facts["seconds_a_step"] = round(self._seconds / done, 4)
        if self._recipe.base.shape:
            plan = next(plan for plan in plan_training(self._recipe) if plan.name == self.name)
            facts["planned"] = {"memory_bytes": round(plan.memory), "steps": plan.steps}
            accelerator = load_accelerators().get(plan.devices.accelerator)
            if accelerator and done and self._seconds:
                facts["planned"]["seconds_a_step"] = round(plan.seconds_a_step(accelerator), 3)
                peak = plan.devices.processes * accelerator.bf16_tflops * 1e12
                facts["model_flops_utilisation"] = round(plan.flops_a_step * done / self._seconds / peak, 4)
        return facts


def training_order(rows: int, count: int, seed: int) -> list[int]:
    """Row numbers for a training: pass after pass over all rows, each in an order of its own, by digest.

    One stream over all passes: a short batch at the end of a pass would be filled up otherwise on another number of processes.

    Args:
        rows: chunks or pairs.
        count: how many are trained on.
        seed: the recipe's.
    """
    def turn(number: int) -> list[int]:
        return sorted(range(rows), key=lambda row: hashlib.sha256(f"{seed}/{number}/{row}".encode()).digest())

    return [row for number in range(-(-count // rows)) for row in turn(number)][:count]


def training_arguments(settings: Sft | Dpo, at_once: int, seed: int, training: Training) -> dict[str, Any]:
    """The keyword arguments that SFTConfig and DPOConfig share.

    To be made before the model is loaded: by them transformers knows that each process loads its shard only.
    """
    import torch

    resumed, processes = training.resumed, settings.devices.processes
    return {
        "output_dir": str(training.checkpoints or training.scratch), "seed": seed, "data_seed": seed,
        "use_cpu": not torch.cuda.is_available(),
        "optim": OPTIMIZERS[settings.optimizer], "learning_rate": settings.learning_rate, "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1], "adam_epsilon": settings.epsilon, "weight_decay": settings.weight_decay,
        "lr_scheduler_type": settings.schedule, "warmup_steps": settings.warmup, "max_grad_norm": settings.clip_norm,
        "max_steps": len(training.order) // settings.batch,
        "per_device_train_batch_size": at_once, "gradient_accumulation_steps": settings.accumulation, "bf16": settings.dtype == "bfloat16",
        "deepspeed": deepspeed_settings(settings, at_once, bool(resumed and resumed.processes != processes)),
        "activation_checkpointing": settings.activation_checkpointing,
        # Each step by itself: a mean over several would be another one where a training goes on in the middle of them.
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # else a loss that is not a number is logged as the one before it
        "save_strategy": "steps" if training.checkpoints else "no", "save_steps": settings.checkpoint_every or 500,
        "save_total_limit": settings.checkpoints_kept,
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


def progress_callback(progress: Progress, every: int, tokens_a_step: int, checkpoints: Path | None) -> Any:
    """A trainer callback that tells step, loss, speed, memory and the time left.

    Args:
        progress: where to tell it.
        every: steps between two lines.
        tokens_a_step: tokens that one step can hold, all processes together.
        checkpoints: the folder that keeps account of attempts, if there is one.
    """
    from transformers import TrainerCallback

    class Teller(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.begin(state.max_steps, state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if not (state.is_world_process_zero and state.global_step and logs and "loss" in logs):
                return
            note_attempt(checkpoints, "reached", state.global_step)
            if state.global_step % every and state.global_step not in (1, state.max_steps):
                return
            shown = {key: logs[key] for key in ("loss", "rewards/margins") if key in logs}
            progress.step(state.global_step, **shown, tokens_a_second=round(progress.pace(state.global_step) * tokens_a_step),
                          memory_gb=round(peak_memory() / 1e9, 2))

    return Teller()


def tensorboard_callback(folder: Path, begun: int) -> Any:
    """A trainer callback that writes every logged value for TensorBoard; what an attempt before logged after step `begun` is dropped."""
    from tensorboardX import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=begun + 1))


def peak_memory() -> int:
    """Bytes that this process held at most: of its GPU where it has one, else of the machine."""
    import resource

    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_log(logged: list[dict[str, Any]], draft: Path) -> None:
    """Write the logged values without those of the clock, and TRL's count of tokens, which starts anew when it resumes."""
    left_out = ("_runtime", "_per_second", "num_tokens", "epoch")  # to the trainer, all passes are one
    kept = [{key: value for key, value in entry.items() if not key.endswith(left_out)} for entry in logged]
    (draft / "training_log.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def planned(recipe: Recipe, name: str) -> list[Markup]:
    """What the plan reckons with, as a table; nothing where the recipe does not tell the base model's sizes."""
    if recipe.base.shape is None:
        return []
    plan = next(plan for plan in plan_training(recipe) if plan.name == name)
    rows = [(part.name, f"{part.size / 1e9:,.3f}", part.arithmetic) for part in plan.parts]
    return [page.heading("Planned memory of a process"),
            page.table(("part", "GB", "how it comes about"), [*rows, ("peak", f"{plan.memory / 1e9:,.3f}", "")])]


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
