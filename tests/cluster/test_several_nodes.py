"""A TrainJob whose nodes are real: processes of this machine that run the very command, with the stand-in server as their kubelet."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from kubernetes_server import pod, scene
from training_artifacts import tiny_artifacts

from med42.cluster.api import connect
from med42.cluster.train_job import Mount, Nodes, on_nodes
from med42.lineage.journal import Job
from med42.lineage.record import read_record
from med42.recipe import load_recipe
from med42.training.train_sft import train_sft

CHANGES = ["sft.steps=4", "sft.threads=1", "sft.log_every=1"]


def node_processes(job: dict, folder: Path) -> list[subprocess.Popen]:
    """Start each node's command as Trainer would: it tells a node its number; on one machine all of them have the same host."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
    here = f"--rdzv-endpoint=127.0.0.1:{port}"
    words = [here if word.startswith(f"--rdzv-endpoint={name}-node-0-0.{name}:") else word for word in trainer["args"]]
    assert here in words
    told = {entry["name"]: entry["value"] for entry in trainer["env"]}
    return [
        subprocess.Popen([sys.executable, *words], stdout=(folder / f"node-{number}.log").open("wb"), stderr=subprocess.STDOUT, env={
            **os.environ, **told, "OMP_NUM_THREADS": "1", "PET_NODE_RANK": str(number), "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)})
        for number in range(trainer["numNodes"])
    ]


@pytest.mark.slow
def test_two_nodes_learn_what_one_process_learns(cluster, tmp_path):
    artifacts, volume = tiny_artifacts(tmp_path / "tiny"), tmp_path / "volume"
    recipe = load_recipe("tiny", [*CHANGES, "sft.devices.nodes=2", "sft.rows_per_device=4"])
    nodes = Nodes(image="med42-train", mounts=[Mount(claim="work", path=str(volume))])
    running: list[subprocess.Popen] = []

    def kubelet(job):
        if not running:
            running.extend(node_processes(job, tmp_path))
            cluster.pods[job["metadata"]["name"]] = [pod(0), pod(1)]
        statuses = [process.poll() for process in running]
        if None not in statuses:
            kind = "Failed" if any(statuses) else "Complete"
            job["status"]["conditions"].append({"type": kind, "status": "True", "reason": "AllJobsCompleted", "message": str(statuses)})

    cluster.scripts, cluster.watch = [[scene()]], kubelet
    job = Job("on-nodes", volume / "store")
    try:
        record = train_sft(recipe, artifacts["base"], artifacts["packed"], tmp_path / "out", job,
                           on_nodes(nodes.model_dump_json(), connect(), interval=0.1))
    finally:
        for process in running:
            process.kill()
    assert read_record(tmp_path / "out").digest == record.digest
    assert record.made.observed["train_job"]["attempts"] == 1
    one = train_sft(load_recipe("tiny", CHANGES), artifacts["base"], artifacts["packed"], tmp_path / "one", Job("here", None))
    for key in ("first_loss", "last_loss"):
        assert record.measured[key] == pytest.approx(one.measured[key], abs=1e-5)
