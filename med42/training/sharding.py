"""How processes share a training out: DeepSpeed's settings, derived from the recipe, and what it needs of the machine."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from med42.errors import Med42Error
from med42.recipe.schema import Dpo, Sft


def deepspeed_settings(settings: Sft | Dpo, at_once: int, universal: bool = False) -> dict[str, Any] | None:
    """DeepSpeed's configuration for the recipe's sharding; None for plain data parallelism.

    Args:
        settings: the recipe's settings of the training.
        at_once: rows or pairs of one micro-step on one device.
        universal: whether it goes on from a checkpoint that was converted for another number of processes.
    """
    if settings.sharding == "ddp":
        return None
    stage = {"zero-2": 2, "zero-3": 3}[settings.sharding]
    return {
        "zero_optimization": {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
        | ({"stage3_gather_16bit_weights_on_model_save": True} if stage == 3 else {}),
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "gradient_clipping": settings.clip_norm,
        "train_batch_size": settings.batch,
        "train_micro_batch_size_per_gpu": at_once,
        "gradient_accumulation_steps": settings.accumulation,
        "zero_allow_untested_optimizer": True,  # torch's RMSprop, which its authors did not test
        "steps_per_print": 1 << 30,
        "checkpoint": {"load_universal": universal},
    }


def join_processes(settings: Sft | Dpo) -> None:
    """Let DeepSpeed know of all processes, before a model is loaded in shards.

    Raises:
        Med42Error: DeepSpeed or, on CPUs, the compiler that it builds its communication with is missing.
    """
    import torch

    if settings.sharding == "ddp":
        return
    on_gpus = torch.cuda.is_available()
    if not on_gpus:
        assert_compiler()
    try:
        import deepspeed
    except ImportError as error:
        raise Med42Error(f"sharding {settings.sharding}", f"no DeepSpeed ({error})", "an installed DeepSpeed",
                         "Install med42-pipeline[distributed], or set sharding to ddp.") from error
    deepspeed.init_distributed("nccl" if on_gpus else "gloo")


def assert_compiler() -> None:
    """Refuse early what DeepSpeed would die of after minutes: on CPUs it compiles its shared-memory communication first.

    Raises:
        Med42Error: there is no C++ compiler.
    """
    wanted = os.environ.get("CXX", "c++")
    if not shutil.which(wanted):
        raise Med42Error("DeepSpeed on CPUs", f"no C++ compiler named {wanted}", "one: it builds its communication when it is first used",
                         "Install g++, set CXX to a compiler, or set sharding to ddp.")


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    import torch.distributed

    if torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"


def meet() -> None:
    """Return when every process is here."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def leave() -> None:
    """End this process, when every process is here.

    Not by the interpreter's own end: threads of the communication that still run then abort it, now and then, after all is done.
    """
    import torch.distributed

    if torch.distributed.is_initialized():
        meet()
        torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def whole_weights(trainer: Any, settings: Sft | Dpo) -> dict[str, Any] | None:
    """The model's weights gathered in the first process, where they are in shards; None where each process has them.

    Every process must call this.
    """
    if settings.sharding == "ddp":
        return None
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    if trainer.model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state
