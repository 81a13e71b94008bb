"""Checkpoints of a training: complete or not there, and never taken for those of another training.

They lie in STORE/checkpoints/<identity>/checkpoint-<step>/: weights, optimizer, schedule, random states, position in the data.
The file COMPLETE among them is written last, when every process has written its part, and names the files and their sizes.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from med42.errors import Med42Error
from med42.lineage.digest import value_digest
from med42.lineage.journal import Job
from med42.lineage.provenance import code_digest
from med42.lineage.record import read_record
from med42.recipe import Recipe
from med42.recipe.schema import Dpo, Sft
from med42.training.sharding import is_first_process, meet

COMPLETE = "COMPLETE"
ATTEMPTS = "attempts.txt"

# They decide where and how often, not what is learned: a training goes on from its checkpoints on another number of processes.
CIRCUMSTANCES = {"devices", "rows_per_device", "pairs_per_device", "threads", "log_every", "checkpoint_every", "checkpoints_kept",
                 "checkpoint_bucket", "tensorboard", "row_tokens"}


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        folder: where it lies.
        step: optimizer steps it holds.
        processes: how many wrote it.
    """

    folder: Path
    step: int
    processes: int


def checkpoint_folder(name: str, recipe: Recipe, settings: Sft | Dpo, inputs: dict[str, Path], job: Job) -> Path | None:
    """Where a training keeps its checkpoints: by what decides its result; None where it keeps none."""
    if not settings.checkpoint_every or not (job.store or settings.checkpoint_bucket):
        return None
    store = job.store or Path(tempfile.gettempdir()) / "med42"  # with a bucket, any disk will do
    identity = {"name": name, "seed": recipe.seed, "settings": settings.model_dump(mode="json", exclude=CIRCUMSTANCES),
                "code": code_digest("training"), "inputs": {key: read_record(path).digest for key, path in inputs.items()}}
    return store / "checkpoints" / value_digest(identity)[:24]


def newest(folder: Path | None) -> Checkpoint | None:
    """The complete checkpoint of the latest step, if there is one; says which it does not take, and why."""
    found = folder.glob(f"checkpoint-*/{COMPLETE}") if folder else ()
    for mark in sorted(found, key=lambda path: int(path.parent.name.rpartition("-")[2]), reverse=True):
        if wrong := _damage(mark):
            print(f"{mark.parent}: {wrong}; an earlier checkpoint is taken", flush=True)
            continue
        told = json.loads(mark.read_text())
        return Checkpoint(mark.parent, told["step"], told["processes"])
    return None


def note_attempt(folder: Path | None, what: str, step: int) -> None:
    """Note where an attempt at a training began (`from`) or which step it has `reached`."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ATTEMPTS).open("a") as handle:
            handle.write(f"{what} {step}\n")


def account_of_attempts(folder: Path | None) -> dict[str, int]:
    """How often a training was started, and how many steps were lost with what was killed, and done again."""
    attempts, redone, reached = 0, 0, 0
    lines = (folder / ATTEMPTS).read_text().splitlines() if folder and (folder / ATTEMPTS).is_file() else []
    for what, _, step in (line.partition(" ") for line in lines):
        if what == "from":
            attempts, redone = attempts + 1, redone + max(0, reached - int(step))
        reached = int(step)
    return {"attempts": max(1, attempts), "steps_redone": redone}


def assert_room(folder: Path, settings: Sft | Dpo, weights: int) -> None:
    """Refuse to start a training whose checkpoints the disk cannot hold.

    Args:
        folder: where they will lie.
        settings: how many are kept; one more is there while it is written.
        weights: parameters that are trained.

    Raises:
        Med42Error: too little free space, with the arithmetic.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # fp32 weights and the optimizer's moments; where bf16 weights compute, they are kept too.
    each = weights * (4 + (8 if settings.optimizer == "adamw" else 4) + (2 if settings.sharding != "ddp" else 0))
    there = sum(1 for _ in folder.glob(f"checkpoint-*/{COMPLETE}"))
    needed, free = each * max(1, settings.checkpoints_kept + 1 - there), shutil.disk_usage(folder).free
    if free < needed:
        raise Med42Error(folder, f"{free:,} bytes free", f"{needed:,}: {settings.checkpoints_kept} checkpoints and one being written, less "
                         f"{there} that are there, of {each:,} bytes each", "Free space, or choose another store.")


def marking_callback() -> Any:
    """A trainer callback that marks each checkpoint complete when every process has written its part.

    To be added last: it has the last word on whether a step is saved.
    """
    import torch.distributed
    from transformers import TrainerCallback

    class Marker(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= state.max_steps:
                control.should_save = False  # the trainer would go on from it, and do one step too many

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            if state.is_world_process_zero:
                mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step, args.world_size)

    return Marker()


def mark_complete(folder: Path, step: int, processes: int) -> None:
    """Write the file that makes a checkpoint one."""
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*"))
             if path.is_file() and path.name != COMPLETE}
    draft = folder / f".{COMPLETE}.partial"
    draft.write_text(json.dumps({"step": step, "processes": processes, "files": files}, indent=1) + "\n")
    draft.rename(folder / COMPLETE)


def for_this_many(checkpoint: Checkpoint, settings: Sft | Dpo, scratch: Path) -> Path:
    """The folder to resume from: the checkpoint's own, or one of DeepSpeed's universal form where the processes are others.

    Args:
        checkpoint: what to resume.
        settings: how many processes there are now, and whether each writes its own shard of the optimizer.
        scratch: a folder that all processes share.

    Raises:
        Med42Error: the checkpoint does not convert.
    """
    if settings.sharding == "ddp" or checkpoint.processes == settings.devices.processes:
        return checkpoint.folder
    out, shards = scratch / checkpoint.folder.name, f"global_step{checkpoint.step}"
    if is_first_process():
        shutil.rmtree(out, ignore_errors=True)  # of an attempt before, in the same scratch folder
        out.mkdir()
        for path in checkpoint.folder.iterdir():
            if path.name != "latest":
                (out / path.name).symlink_to(path.resolve())
        converting = subprocess.run(
            [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(checkpoint.folder / shards),
             "--output_folder", str(out / f"{shards}_universal"), "--inject_missing_state", "--num_extract_workers", "1",
             "--num_merge_workers", "1"], capture_output=True, text=True, check=False)
        if converting.returncode:
            raise Med42Error(checkpoint.folder, f"shards of {checkpoint.processes} processes that do not convert: "
                             f"{(converting.stderr.strip().splitlines() or ['no words'])[-1]}", f"shards for {settings.devices.processes}",
                             f"Resume with {checkpoint.processes} processes, or remove the checkpoint.")
        (out / "latest").write_text(f"{shards}_universal")
    meet()
    return out


def universal_callback(settings: Sft | Dpo) -> Any:
    """A trainer callback that mends what DeepSpeed 0.19.8 gets wrong when it loads a universal checkpoint of ZeRO-3.

    All weights get one and the same counter of steps, which the optimizer then counts up once for each of them; and the groups of
    weights that do not decay get the decay of the first group.
    """
    from transformers import TrainerCallback

    class Mender(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            while hasattr(optimizer, "optimizer"):
                optimizer = optimizer.optimizer
            for kept in optimizer.state.values():
                if "step" in kept:
                    kept["step"] = copy.deepcopy(kept["step"])
            for group, decay in zip(optimizer.param_groups, (settings.weight_decay, 0.0), strict=True):
                group["weight_decay"] = decay

    return Mender()


def _damage(mark: Path) -> str:
    """What is wrong with a checkpoint's files; nothing where all are as they were written."""
    try:
        files = json.loads(mark.read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{COMPLETE} does not read"
    for name, size in files.items():
        path = mark.parent / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes of {size:,}"
    return ""
