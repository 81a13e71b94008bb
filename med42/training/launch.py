"""One contract for starting a training, wherever it runs.

    torchrun --nnodes N --nproc-per-node M ... -m med42.training.train_sft --job FILE --out DIR --scratch DIR --input base=DIR ...

Where a process fails it leaves word of why in the scratch folder, and the stage tells the error that explains the others.

A recipe that asks for one process is trained inside the stage. More processes of one node are started here: one a GPU,
or, on a machine without GPUs, as many CPU processes over gloo, which is how the same code is tested. On several nodes each node
runs the command, and one of them is the meeting point: that is started by a launcher of the cluster (`med42.cluster.train_job`),
which whoever calls a training stage hands in.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from med42.data.processes import die_with_parent, run_python
from med42.errors import Med42Error
from med42.lineage.artifact import Outcome
from med42.lineage.journal import Job, read_job, write_job
from med42.recipe import Recipe
from med42.recipe.schema import Devices, Dpo, Sft
from med42.training.checkpoint_bucket import bucket_of
from med42.training.checkpoints import checkpoint_folder
from med42.training.failures import explained, first_failure, memory_advice, write_failure
from med42.training.sharding import is_first_process, leave

# What a trainer module offers: train(recipe, inputs by name, draft folder, scratch folder, job).
Train = Callable[[Recipe, dict[str, Path], Path, Path, Job], Outcome]

# Who starts a training's processes and waits for them: `start`, or a launcher of the cluster with the same arguments.
Launch = Callable[[Train, str, Sft | Dpo, Recipe, dict[str, Path], Path, Job], Outcome]

OUTCOME = "outcome.json"
FOLLOWED = "followed"  # a file of the scratch folder that whoever waits for a training touches, where they are not its parent process
ABANDONED_AFTER = 3600.0  # seconds
TIME_TO_SAVE = 110  # seconds between SIGTERM and SIGKILL; Kubernetes gives the runtime's pods 120


def start(train: Train, stage: str, settings: Sft | Dpo, recipe: Recipe, inputs: dict[str, Path], draft: Path, job: Job) -> Outcome:
    """Train here, or in as many processes as the recipe's devices ask for.

    Raises:
        Med42Error: several nodes are asked for, or what ended the first process that failed.
    """
    devices = settings.devices
    fetch_checkpoint(stage, settings, recipe, inputs, job)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if devices.processes == 1 and settings.sharding == "ddp":
            outcome: Outcome = explained(stage, recipe, lambda: train(recipe, inputs, draft, scratch, job))
            return outcome
        if devices.nodes > 1:
            raise Med42Error("devices.nodes", str(devices.nodes), "1: a stage starts the processes of its own node only",
                             "Set devices.nodes=1 and devices.gpus_per_node to what the node has, or run it on a cluster with Kubeflow "
                             "Trainer (docs/several-nodes.md).")
        write_job(scratch / "job.json", recipe, job)
        command = torchrun(train.__module__, devices, "", scratch / "job.json", inputs, draft, scratch)
        if status := run_python(command):
            raise first_failure(scratch) or Med42Error(
                f"{devices.processes} processes of {train.__module__}", f"exit status {status}, and no word of why", "0",
                f"Killed from outside, the node lost, or out of the machine's memory: look at the log above. {memory_advice(stage)}")
        return Outcome(**json.loads((scratch / OUTCOME).read_text()))


def fetch_checkpoint(stage: str, settings: Sft | Dpo, recipe: Recipe, inputs: dict[str, Path], job: Job) -> None:
    """Bring the newest checkpoint from the bucket that the recipe names to the disk, before any process looks for one.

    Raises:
        Med42Error: the bucket refuses, or holds something damaged.
    """
    if bucket := bucket_of(settings.checkpoint_bucket, checkpoint_folder(stage, recipe, settings, inputs, job)):
        bucket.fetch()


def torchrun(module: str, devices: Devices, meeting_point: str, job_file: Path, inputs: dict[str, Path], out: Path,
             scratch: Path, ranked: bool = False) -> list[str]:
    """What a node runs, after the interpreter's name.

    Args:
        module: the trainer, as `med42.training.train_sft`.
        devices: how many nodes, processes of a node, and restarts.
        meeting_point: `host:port` of one of the nodes; empty for a node alone.
        job_file: recipe and places.
        inputs: the input artifacts, by name.
        out: where the first process writes the model; all nodes share it.
        scratch: a folder that all nodes share: TRL leaves reference log-probabilities there for the other processes.
        ranked: whether each node is told its number (PET_NODE_RANK, as Kubeflow Trainer does), so that node 0 need not find out by
            its name that it is the meeting point: a new pod's name may not resolve yet.
    """
    backend = "static" if ranked else "c10d"
    together = [f"--rdzv-backend={backend}", f"--rdzv-endpoint={meeting_point}", "--rdzv-id=med42"] if meeting_point else ["--standalone"]
    return [
        "-m", "torch.distributed.run", *together, f"--nnodes={devices.nodes}", f"--nproc-per-node={max(1, devices.gpus_per_node)}",
        f"--max-restarts={devices.restarts}", f"--shutdown-timeout={TIME_TO_SAVE}", "-m", module,
        "--job", str(job_file), "--out", str(out), "--scratch", str(scratch),
        *(part for name, path in inputs.items() for part in ("--input", f"{name}={path}")),
    ]


def main(train: Train, stage: Callable[[dict[str, Path]], str]) -> None:
    """The entry point of one process under torchrun.

    Args:
        train: the training.
        stage: its name, by its inputs.
    """
    die_with_parent()
    parser = argparse.ArgumentParser(description=train.__doc__)
    parser.add_argument("--job", required=True, help="recipe and places, as preflight wrote them")
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    parser.add_argument("--scratch", required=True, type=Path, help="folder that all processes share, of all nodes")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=DIR", help="an input artifact")
    given = parser.parse_args()
    recipe, job = read_job(given.job)
    if (given.scratch / FOLLOWED).is_file() and os.environ.get("RANK") == "0":
        threading.Thread(target=end_when_abandoned, args=(given.scratch / FOLLOWED,), daemon=True).start()
    inputs = {name: Path(path) for name, _, path in (pair.partition("=") for pair in given.input)}
    try:
        outcome = explained(stage(inputs), recipe, lambda: train(recipe, inputs, given.out, given.scratch, job))
    except BaseException as error:
        write_failure(given.scratch, int(os.environ.get("RANK", "0")), error)
        raise
    if is_first_process():
        draft = given.scratch / f".{OUTCOME}.partial"
        draft.write_text(json.dumps(dataclasses.asdict(outcome)))
        draft.rename(given.scratch / OUTCOME)
    leave()


def end_when_abandoned(mark: Path, after: float = ABANDONED_AFTER, every: float = 30.0) -> None:
    """Tell this process to end, as if its machine were taken away, once nobody has touched a file for long: a checkpoint is saved.

    Args:
        mark: the file. Only whether its time changes counts, not what it says: it may be another machine's clock.
        after: seconds.
        every: seconds between two looks.
    """
    seen, since = 0, time.monotonic()
    while time.monotonic() - since < after:
        time.sleep(every)
        with contextlib.suppress(OSError):
            if (now := mark.stat().st_mtime_ns) != seen:
                seen, since = now, time.monotonic()
    print(f"{mark}: not touched for {after:.0f} s, so nobody waits for this training any more; it ends", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
