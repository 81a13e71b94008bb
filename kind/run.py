"""Run `tiny` on kind by Kubeflow's own client, wait for it, fetch its audit bundle and verify it. `kind/run` starts this."""

from __future__ import annotations

import argparse
import datetime
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

from med42.cli.compile import compile_pipeline
from med42.cli.verify import print_verdict
from med42.cluster.profile import Profile, load_profile
from med42.errors import Med42Error
from med42.recipe import load_recipe

WAIT = 3600  # seconds; two cores need some twenty minutes


def version_on_cluster(client: Any, pipeline: str, version: str, ir: Path) -> tuple[str, str]:
    """Ids of the pipeline and of its version, which is named by its content; what is not there is uploaded."""
    pipeline_id = client.get_pipeline_id(pipeline)
    if pipeline_id is None:
        pipeline_id = client.upload_pipeline(str(ir), pipeline_name=pipeline).pipeline_id
    listed = client.list_pipeline_versions(pipeline_id, page_size=100).pipeline_versions or []
    found = next((one for one in listed if one.display_name == version), None)
    found = found or client.upload_pipeline_version(str(ir), version, pipeline_id=pipeline_id)
    return pipeline_id, found.pipeline_version_id


def sealed_digest(journal: str) -> str:
    """The digest of the bundle that a run sealed, by its journal.

    Raises:
        Med42Error: it sealed none.
    """
    events = [json.loads(line) for line in journal.splitlines() if line]
    for event in events:
        if event["name"] == "seal_audit" and event["event"] == "finished":
            return str(event["digest"])
    raise Med42Error("the run's journal", f"{len(events)} events, none of a sealed bundle", "one at the end of every run",
                     "Look at the run's tasks in the page above.")


def bundle_of(digest: str, tar: bytes, folder: Path) -> Path:
    """The bundle whose record has this digest, out of a tar of the store's bundles.

    Raises:
        Med42Error: there is none.
    """
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        archive.extractall(folder, filter="data")
    from med42.lineage.record import read_record

    for record in sorted(folder.rglob("record.json")):
        if read_record(record.parent).digest == digest:
            return next(record.parent.glob("*.med42"))
    raise Med42Error("store/seal_audit", "no bundle of this run", f"one with digest {digest[:16]}", "Look at the task seal-audit.")


class Volume:
    """The run's volume, read through a pod that does nothing else."""

    def __init__(self, context: str, namespace: str, profile: Profile, image: str) -> None:
        volume = profile.storage.volume
        assert volume is not None
        self.kubectl = ["kubectl", "--context", context, "--namespace", namespace]
        self.image, self.claim, self.path = image, volume.claim, volume.path

    def __enter__(self) -> Volume:
        container = {
            "name": "look", "image": self.image, "imagePullPolicy": "Never", "command": ["sleep", "900"],
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}},
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "work", "mountPath": self.path, "readOnly": True}],
        }
        pod = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "med42-look", "labels": {"app.kubernetes.io/part-of": "med42", "med42.io/recipe": "tiny"}},
            "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "nodeSelector": {"med42.io/pool": "general"},
                     "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 0,
                                         "seccompProfile": {"type": "RuntimeDefault"}},
                     "containers": [container], "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": self.claim}}]},
        }
        self._ask("delete", "pod", "med42-look", "--ignore-not-found", "--wait=true")
        self._ask("apply", "--filename", "-", given=json.dumps(pod).encode())
        self._ask("wait", "--for=condition=Ready", "pod/med42-look", "--timeout=120s")
        return self

    def __exit__(self, *_: object) -> None:
        self._ask("delete", "pod", "med42-look", "--ignore-not-found", "--wait=false")

    def read(self, *command: str) -> bytes:
        """What a command prints in the pod."""
        return self._ask("exec", "med42-look", "--", *command)

    def _ask(self, *arguments: str, given: bytes | None = None) -> bytes:
        told = subprocess.run([*self.kubectl, *arguments], input=given, capture_output=True, check=False)
        if told.returncode:
            raise Med42Error(f"kubectl {' '.join(arguments[:3])}", told.stderr.decode().strip()[-500:], "success",
                             "See that the cluster is up.")
        return told.stdout


def main() -> int:
    """Run, wait, fetch, verify; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(".")[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--context", required=True)
    parser.add_argument("--namespace", required=True)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    from kfp import Client

    console = Console(highlight=False, soft_wrap=True)
    profile, recipe = load_profile("kind"), load_recipe("tiny")
    compiled = compile_pipeline(recipe, profile, images=None, namespace=given.namespace)
    client = Client(host=given.host)  # no namespace: this Kubeflow is for one user, and takes none
    name = f"tiny-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}"
    with tempfile.TemporaryDirectory() as scratch:
        ir = Path(scratch) / f"{compiled.version}.yaml"
        ir.write_bytes(compiled.ir)
        pipeline_id, version_id = version_on_cluster(client, compiled.pipeline, compiled.version, ir)
        experiment = client.create_experiment("kind").experiment_id
        run = client.run_pipeline(experiment, name, pipeline_id=pipeline_id, version_id=version_id, params={"run": name},
                                  enable_caching=False, service_account=profile.service_account)
        console.print(f"{compiled.version} as {name}\n{given.host}/#/runs/details/{run.run_id}")
        ended = client.wait_for_run_completion(run.run_id, timeout=WAIT, sleep_duration=10)
        if ended.state != "SUCCEEDED":
            tasks = (ended.run_details.task_details if ended.run_details else None) or []
            failed = [task.display_name for task in tasks if task.state == "FAILED"]
            raise Med42Error(name, f"{ended.state}; failed: {', '.join(failed) or 'no task'}", "SUCCEEDED",
                             f"Read the task's log in the page above, or: kubectl -n {given.namespace} get pods -l med42.io/recipe=tiny")
        [image] = compiled_images(compiled.ir)
        with Volume(given.context, given.namespace, profile, image) as volume:
            store = f"{volume.path}/store"
            digest = sealed_digest(volume.read("cat", f"{store}/journal/{name}.jsonl").decode())
            bundle = bundle_of(digest, volume.read("tar", "--create", "--directory", f"{store}/seal_audit", "."), Path(scratch) / "bundles")
        kept = Path("work") / "kind" / bundle.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(bundle.read_bytes())
    console.print(f"bundle {kept}")
    return 0 if print_verdict(kept, None, console) else 1


def compiled_images(ir: bytes) -> list[str]:
    """The images of stages that judge and seal, which are on every node."""
    import yaml

    spec = next(iter(yaml.safe_load_all(ir)))
    executors = spec["deploymentSpec"]["executors"]
    return sorted({executor["container"]["image"] for executor in executors.values() if "med42-release" in executor["container"]["image"]})


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Med42Error as error:
        print(f"error {error}", file=sys.stderr)
        sys.exit(1)
