"""Checkpoints of a training: kept beside the store, complete or not there, and never taken for those of another training.

They lie in STORE/checkpoints/<identity>/checkpoint-<step>/: weights, optimizer, schedule, random states, position in the data.
The file COMPLETE among them is written last, when every process has written its part.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from med42.lineage.digest import value_digest
from med42.lineage.journal import Job
from med42.lineage.provenance import code_digest
from med42.lineage.record import read_record
from med42.recipe import Recipe
from med42.recipe.schema import Compute

COMPLETE = "COMPLETE"
KEPT = 2


def checkpoint_folder(name: str, recipe: Recipe, settings: Compute, inputs: dict[str, Path], job: Job) -> Path | None:
    """Where a training keeps its checkpoints: by settings, inputs and code; None where it keeps none."""
    if not settings.checkpoint_every or not job.store:
        return None
    identity = {"name": name, "seed": recipe.seed, "settings": settings.model_dump(mode="json"), "code": code_digest("training"),
                "inputs": {key: read_record(path).digest for key, path in inputs.items()}}
    return job.store / "checkpoints" / value_digest(identity)[:24]


def newest(folder: Path | None) -> str | None:
    """The complete checkpoint of the latest step, if there is one."""
    found = folder.glob(f"checkpoint-*/{COMPLETE}") if folder else ()
    return max((str(mark.parent) for mark in found), key=lambda path: int(path.rpartition("-")[2]), default=None)


def discard(folder: Path | None) -> None:
    """Remove a training's checkpoints, once its model is made."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def marking_callback() -> Any:
    """A trainer callback that marks each checkpoint complete when every process has written its part."""
    import torch.distributed
    from transformers import TrainerCallback

    class Marker(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            if state.is_world_process_zero:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    return Marker()
