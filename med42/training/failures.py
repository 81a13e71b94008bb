"""What ended a training, told apart: for people, and for whoever decides whether it is worth another try."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from med42.errors import Med42Error
from med42.recipe import Recipe
from med42.training.checkpoints import newest
from med42.training.planning import plan_training

# In the order in which they explain the others: when one process ends, the rest lose their peer or are told to end.
Cause = Literal["stopped", "memory", "failed", "preempted"]
CAUSES: tuple[Cause, ...] = ("stopped", "memory", "failed", "preempted")

# What a process says that lost the others, or never met them.
LOST_PEERS = ("ncclSystemError", "ncclRemoteError", "ncclInternalError", "NCCL error", "NCCL communicator was aborted", "DistBackendError",
              "Watchdog caught collective operation timeout", "Connection reset by peer", "Connection closed by peer", "Broken pipe",
              "Connection refused", "RendezvousTimeoutError", "RendezvousConnectionError")


class PreemptedError(Med42Error):
    """The machine was taken away; the same training goes on from its checkpoint."""


class LackOfMemoryError(Med42Error):
    """A device or the machine has too little memory for the recipe's settings."""


class CrashError(Med42Error):
    """A process ended in an error that nobody foresaw; often it only lost its peers."""


def explained(stage: str, recipe: Recipe, work: Callable[[], Any]) -> Any:
    """Do some training; turn a lack of memory into an error that says what the plan reckons with.

    Raises:
        LackOfMemoryError: with the plan's figures and the keys that lower them.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not _is_memory(error):
            raise
        raise LackOfMemoryError(stage, "out of memory: " + (str(error).splitlines() or ["no words"])[0], _expectation(stage, recipe),
                          memory_advice(stage)) from error


def memory_advice(stage: str) -> str:
    """The keys that lower a training's memory."""
    key, rows = ("sft", "rows_per_device") if stage == "train_sft" else ("dpo", "pairs_per_device")
    return (f"Lower {key}.{rows}, set {key}.activation_checkpointing=true or {key}.sharding=zero-3, or take more devices; "
            "`med42 plan` shows what each saves.")


def write_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Leave word of what ended one process."""
    cause: Cause = ("memory" if isinstance(error, LackOfMemoryError) else "preempted" if isinstance(error, PreemptedError)
                    else "stopped" if isinstance(error, Med42Error) else "failed")
    words = ((error.where, error.found, error.expected, error.remedy) if isinstance(error, Med42Error) else
             (f"process {rank}", f"{type(error).__name__}: {error}", "a training that ends well", "The log above has its traceback."))
    draft = folder / f".failure-{rank}.partial"  # whoever follows may look at any time
    draft.write_text(json.dumps({"cause": cause, "time": time.time(), "words": words}))
    draft.rename(folder / f"failure-{rank}.json")


def lost_peers(words: str) -> bool:
    """Whether these are the words of a process that lost the others."""
    return any(sign in words for sign in LOST_PEERS)


def first_failure(folder: Path) -> Med42Error | None:
    """The error that explains the others of a training's processes; None where none left word.

    Of several nodes the clocks may differ, so who only lost the others explains nothing as long as there is another.
    """
    told = [json.loads(path.read_text()) for path in folder.glob("failure-*.json")]
    if not told:
        return None
    first = min(told, key=lambda one: (CAUSES.index(one["cause"]), lost_peers(one["words"][1]), one["time"]))
    kind = {"preempted": PreemptedError, "memory": LackOfMemoryError, "failed": CrashError}.get(first["cause"], Med42Error)
    return kind(*first["words"])


class Preemption:
    """Hears SIGTERM and lets the training save a checkpoint and stop at its next step.

    Attributes:
        heard: whether the signal came, in any process.
    """

    def __init__(self) -> None:
        self.heard = self._here = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, *_: object) -> None:
        self._here = True

    def callback(self, saving: bool) -> Any:
        """A trainer callback: at the end of a step all processes agree whether to stop, and save where checkpoints are kept."""
        import torch
        from transformers import TrainerCallback

        preemption = self

        class Listener(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                heard = torch.tensor(int(preemption._here), device=args.device)
                if torch.distributed.is_initialized():
                    torch.distributed.all_reduce(heard, op=torch.distributed.ReduceOp.MAX)
                if heard.item():
                    preemption.heard = True
                    control.should_save, control.should_training_stop = saving, True

        return Listener()

    def end(self, stage: str, step: int, total: int, folder: Path | None) -> None:
        """Give the signal back; tell that the training was stopped, if it was.

        Raises:
            PreemptedError: names the checkpoint that it goes on from.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.heard and step < total:
            saved = newest(folder)
            raise PreemptedError(stage, f"SIGTERM at step {step} of {total}", "time to finish",
                            f"Run it again: it goes on from {saved.folder}." if saved else "Run it again, from the start: it keeps no "
                            "checkpoints (checkpoint_every).")


def divergence_callback(stage: str, times: float, folder: Path | None) -> Any:
    """A trainer callback that stops a training whose loss is no number, or far above the first one.

    Args:
        stage: for the error.
        times: how many times the first logged loss is too much.
        folder: where the checkpoints lie.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            loss, first = logs["loss"], next(entry["loss"] for entry in state.log_history if "loss" in entry)
            if math.isfinite(loss) and not loss > times * first:
                return
            good = newest(folder)
            expected = "a finite loss" if not math.isfinite(loss) else f"at most {times:g} times the first one, {first:.4g} (diverges_at)"
            raise Med42Error(f"{stage}, step {state.global_step}", f"loss {loss:.4g}", expected,
                             "Lower the learning rate, or look at the rows of that step."
                             + (f" The last good checkpoint is {good.folder}." if good else ""))

    return Watch()


def _is_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def _expectation(stage: str, recipe: Recipe) -> str:
    if recipe.base.shape is None:
        return "enough memory for these settings"
    plan = next(plan for plan in plan_training(recipe) if plan.name == stage)
    largest = max(plan.parts, key=lambda part: part.size)
    return (f"{plan.memory / 1e9:,.1f} GB a process, by the plan; the most of it are {largest.name}, "
            f"{largest.size / 1e9:,.1f} GB = {largest.arithmetic}")
