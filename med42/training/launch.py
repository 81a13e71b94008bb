"""One contract for starting a training, wherever it runs.

    torchrun --nnodes N --nproc-per-node M ... -m med42.training.train_sft --job FILE --out DIR --scratch DIR --input base=DIR ...

A recipe that asks for one process is trained inside the stage. More processes of one node are started here: one a GPU,
or, on a machine without GPUs, as many CPU processes over gloo, which is how the same code is tested. On several nodes each node
runs the command, and one of them is the meeting point.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from med42.errors import Med42Error
from med42.lineage.artifact import Outcome
from med42.lineage.journal import Job, read_job, write_job
from med42.recipe import Recipe
from med42.recipe.schema import Devices

# What a trainer module offers: train(recipe, inputs by name, draft folder, scratch folder, job).
Train = Callable[[Recipe, dict[str, Path], Path, Path, Job], Outcome]

OUTCOME = "outcome.json"


def start(train: Train, devices: Devices, recipe: Recipe, inputs: dict[str, Path], draft: Path, job: Job) -> Outcome:
    """Train here, or in as many processes as the recipe's devices ask for.

    Raises:
        Med42Error: several nodes are asked for, or a process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if devices.processes == 1:
            return train(recipe, inputs, draft, scratch, job)
        if devices.nodes > 1:
            raise Med42Error("devices.nodes", str(devices.nodes), "1: a stage starts the processes of its own node only",
                             "Set devices.nodes=1, and devices.gpus_per_node to what the node has.")
        write_job(scratch / "job.json", recipe, job)
        command = torchrun(train.__module__, devices, "", scratch / "job.json", inputs, draft, scratch)
        status = subprocess.run([sys.executable, *command], check=False).returncode
        if status:
            raise Med42Error(f"{devices.gpus_per_node} processes of {train.__module__}", f"exit status {status}", "0",
                             "The log above says which process failed and why.")
        return Outcome(**json.loads((scratch / OUTCOME).read_text()))


def torchrun(module: str, devices: Devices, meeting_point: str, job_file: Path, inputs: dict[str, Path], out: Path,
             scratch: Path) -> list[str]:
    """What a node runs, after the interpreter's name.

    Args:
        module: the trainer, as `med42.training.train_sft`.
        devices: how many nodes, processes of a node, and restarts.
        meeting_point: `host:port` of one of the nodes; empty for a node alone.
        job_file: recipe and places.
        inputs: the input artifacts, by name.
        out: where the first process writes the model; all nodes share it.
        scratch: a folder that all nodes share: TRL leaves reference log-probabilities there for the other processes.
    """
    together = ["--rdzv-backend=c10d", f"--rdzv-endpoint={meeting_point}", "--rdzv-id=med42"] if meeting_point else ["--standalone"]
    return [
        "-m", "torch.distributed.run", *together, f"--nnodes={devices.nodes}", f"--nproc-per-node={max(1, devices.gpus_per_node)}",
        f"--max-restarts={devices.restarts}", "-m", module, "--job", str(job_file), "--out", str(out), "--scratch", str(scratch),
        *(part for name, path in inputs.items() for part in ("--input", f"{name}={path}")),
    ]


def main(train: Train) -> None:
    """The entry point of one process under torchrun."""
    parser = argparse.ArgumentParser(description=train.__doc__)
    parser.add_argument("--job", required=True, help="recipe and places, as preflight wrote them")
    parser.add_argument("--out", required=True, type=Path, help="folder to write into")
    parser.add_argument("--scratch", required=True, type=Path, help="folder that all processes share, of all nodes")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=DIR", help="an input artifact")
    given = parser.parse_args()
    recipe, job = read_job(given.job)
    inputs = {name: Path(path) for name, _, path in (pair.partition("=") for pair in given.input)}
    outcome = train(recipe, inputs, given.out, given.scratch, job)
    if is_first_process():
        (given.scratch / OUTCOME).write_text(json.dumps(dataclasses.asdict(outcome)))


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    import torch.distributed

    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
