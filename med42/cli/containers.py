"""Stages in containers: what `med42 run --runner docker` does with each task of the local engine.

Every stage runs in its own image as a user that is not root, with a read-only root file system, without capabilities, and,
unless it fetches from a hub or pushes to one, without a network. It sees the work folder, the data root (read-only) and a
folder of its own at /tmp, all at the paths that they have outside.

The engine of kfp (2.17) takes the same arguments for all tasks, removes a container when it ends and takes one that is gone
before its exit status was read for a success. So its task handler is replaced by ours for the length of a run: it keeps a
container until its state is read, and believes in success only where every declared output lies.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from med42.cluster.network import needs_network
from med42.cluster.profile import Profile, accelerators, amount, asks, devices_of
from med42.errors import Med42Error
from med42.lineage.keyless import TOKEN, TRUST
from med42.lineage.provenance import stages_digest
from med42.lineage.signature import CERTIFICATE, KEY, SIGNING_STAGES
from med42.recipe import Recipe

UID = 10001  # the images' own user
PIDS = 4096
PASSED_ON = ("HF_TOKEN", "HF_ENDPOINT", "STORAGE_EMULATOR_HOST", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")


@dataclass
class Containers:
    """The containers of one run.

    Attributes:
        failures: stage and cause of each container that failed.
    """

    client: Any
    recipe: Recipe
    profile: Profile
    work: Path
    run: Path
    data_root: Path | None
    push_to: str
    failures: list[tuple[str, str]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def user(self) -> str:
        """Who stages run as: whoever starts the run, so that the files are theirs, but never root."""
        return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{UID}:0"

    def check(self, images: list[str]) -> None:
        """See that every image is there and holds this code, and that its user may use the folders.

        Raises:
            Med42Error: naming the image or the folder.
        """
        ours = stages_digest()
        for image in images:
            revision = self._find(image).labels.get("org.opencontainers.image.revision", "an unknown commit")
            status, output = self._try(image, "python3", "-m", "med42.lineage.provenance")
            if status or output.strip() != ours:
                told = f"code of {revision}" if not status else f"an image that cannot tell its code: {output[-300:]}"
                raise Med42Error(image, told, "this code", "Build the images again: make images")
        store = self.work / "store"
        folders = [folder for folder in (self.work, store, *store.glob("*"), self.run) if folder.is_dir()]
        status, output = self._try(images[0], "sh", "-c", 'for at; do touch "$at/.writable" && rm "$at/.writable" || exit 1; done', "-",
                                   *map(str, folders))
        if status:
            raise Med42Error(self.work, output.strip(), f"a folder that user {self.user} can write, as stages do in containers",
                             f"Give it to that user (chown -R {self.user} {self.work}) or choose another --work.")
        if self.data_root:
            status, output = self._try(images[0], "sh", "-c", 'ls "$0" >/dev/null', str(self.data_root))
            if status:
                raise Med42Error(self.data_root, output.strip(), f"a folder that user {self.user} can read", "Change its mode.")

    def run_stage(self, image: str, command: list[str], env: dict[str, str]) -> bool:
        """Run one task to its end; whether it succeeded and left every output it declares."""
        given = json.loads(command[command.index("--executor_input") + 1])
        stage = command[command.index("--function_to_execute") + 1]
        values = given.get("inputs", {}).get("parameterValues", {})
        detail = next((str(values[key]) for key in ("name", "label", "round_number") if key in values), "")
        name = f"{stage}-{detail}" if detail else stage
        try:
            cause = self._run(image, command, env, stage, detail) or _missing_output(given)
        except Exception as error:  # the engine refused or went away
            cause = f"the Docker engine: {error}"
        if cause:
            print(f"[{name}] container failed: {cause}", flush=True)
            self.failures.append((name, cause))
        return not cause

    def _run(self, image: str, command: list[str], env: dict[str, str], stage: str, detail: str) -> str:
        """Run a container; why it failed, or nothing."""
        import docker.errors

        asked = self._hardened(stage)
        asked["environment"] |= env | {"MED42_IMAGE": self._find(image).id}
        if needs_network(self.recipe, stage, detail, self.push_to):
            asked["network_mode"] = "bridge"
            asked["environment"] |= {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        scratch = self.run / f"scratch-{next(self._numbers)}"
        scratch.mkdir()
        scratch.chmod(0o1777)
        asked["mounts"].append(_mount(scratch, at="/tmp"))
        try:
            container = self.client.containers.create(image, command, **asked)
            try:
                container.start()
                decoder = codecs.getincrementaldecoder("utf-8")("replace")
                for part in container.logs(stream=True, follow=True):
                    print(decoder.decode(part), end="", flush=True)
                container.wait()
                container.reload()
                return _cause(container.attrs["State"], asked["mem_limit"])
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):  # 409: it is being removed
                    raise
                return "the container was removed from outside while it worked"
            finally:
                with contextlib.suppress(docker.errors.APIError):
                    container.remove(force=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _hardened(self, stage: str) -> dict[str, Any]:
        """What every container of a stage is given, and what is taken from it."""
        from docker.types import DeviceRequest

        asked: dict[str, Any] = {
            "user": self.user, "read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "network_mode": "none",
            "pids_limit": PIDS, "mem_limit": self._memory(stage), "memswap_limit": self._memory(stage), "environment": {},
            "labels": {"med42.run": self.run.name}, "mounts": [_mount(self.work)],
        }
        if self.data_root:
            asked["mounts"].append(_mount(self.data_root, read_only=True))
        for name, path in signing_files(stage).items():
            asked["mounts"].append(_mount(path, read_only=True))
            asked["environment"][name] = str(path)
        kind, _, folder = self.push_to.partition(":")
        if kind == "directory" and stage in ("preflight", "push_model") and not Path(folder).is_relative_to(self.work):
            asked["mounts"].append(_mount(Path(folder).parent))
        if count := accelerators(stage, self.profile, devices_of(self.recipe, stage)):
            # NCCL and the data loaders speak through /dev/shm, of which a container has 64 MiB by default.
            asked |= {"device_requests": [DeviceRequest(count=count, capabilities=[["gpu"]])], "shm_size": asked["mem_limit"] // 2}
        return asked

    def _memory(self, stage: str) -> int:
        """Bytes: what the profile says of the stage, or nine tenths of what the engine's machine has."""
        asked = asks(stage, self.profile, devices_of(self.recipe, stage))
        if asked and asked.memory:
            return int(amount(asked.memory))
        return int(self.client.info()["MemTotal"]) * 9 // 10

    def _find(self, image: str) -> Any:
        """An image of this engine; one that is named by digest is pulled where it is not there."""
        import docker.errors

        try:
            return self.client.images.get(image)
        except docker.errors.ImageNotFound as error:
            if "@sha256:" not in image:
                raise Med42Error(image, "no such image on this engine", "the image of some stages", "Build it: make images") from error
        try:
            return self.client.images.pull(image)
        except docker.errors.APIError as error:
            raise Med42Error(image, f"the registry refuses: {error.explanation or error}", "an image that can be pulled by its digest",
                             "Check the registry, your login there, and images/digests.lock.") from error

    def _try(self, image: str, *command: str) -> tuple[int, str]:
        """Run a command in a container like a stage's own; its status and output."""
        import docker.errors

        asked = self._hardened("preflight")
        try:
            container = self.client.containers.create(image, list(command), tmpfs={"/tmp": "mode=1777"}, **asked)
        except docker.errors.APIError as error:
            return 1, str(error.explanation or error)
        try:
            container.start()
            status = container.wait()["StatusCode"]
            return status, container.logs().decode("utf-8", "replace")
        except docker.errors.APIError as error:
            return 1, str(error.explanation or error)
        finally:
            container.remove(force=True)

    def end(self) -> None:
        """Remove what still runs, as after Ctrl-C, and the folders that stood at /tmp."""
        import docker.errors

        for container in self.client.containers.list(all=True, filters={"label": f"med42.run={self.run.name}"}):
            with contextlib.suppress(docker.errors.APIError):
                container.remove(force=True)
        for scratch in self.run.glob("scratch-*"):
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def handling_tasks(containers: Containers) -> Iterator[None]:
    """Let these containers run kfp's tasks until the block ends."""
    from kfp.local import docker_task_handler
    from kfp.local.status import Status

    class TaskHandler:
        """What kfp makes of each task."""

        def __init__(self, image: str, full_command: list[str], pipeline_root: str, runner: Any, env_vars: dict[str, str] | None = None):
            self.image, self.command, self.env = image, full_command, env_vars or {}

        def run(self) -> Any:
            return Status.SUCCESS if containers.run_stage(self.image, self.command, self.env) else Status.FAILURE

    original = docker_task_handler.DockerTaskHandler
    docker_task_handler.DockerTaskHandler = TaskHandler
    try:
        yield
    finally:
        docker_task_handler.DockerTaskHandler = original
        containers.end()


def connect() -> Any:
    """A client of this machine's Docker engine.

    Raises:
        Med42Error: none answers.
    """
    import docker
    import docker.errors

    try:
        client = docker.from_env(timeout=None)
        client.ping()
    except docker.errors.DockerException as error:
        raise Med42Error("--runner docker", f"no engine ({error})", "a running Docker engine with this project's images",
                         "Start it, set DOCKER_HOST, or use --runner subprocess.") from error
    return client


def make_folders(*folders: Path) -> None:
    """Make folders; those that root makes are given to the user that stages run as."""
    for folder in folders:
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            for path in new:
                os.chown(path, UID, 0)


def signing_files(stage: str) -> dict[str, Path]:
    """The files that a stage signs with, by the variable that names each; none for a stage that signs nothing."""
    named = {name: os.environ.get(name, "") for name in (KEY, CERTIFICATE, TOKEN, TRUST)} if stage in SIGNING_STAGES else {}
    return {name: Path(path).absolute() for name, path in named.items() if path}


def _mount(folder: Path, at: str = "", read_only: bool = False) -> Any:
    from docker.types import Mount

    return Mount(at or str(folder), str(folder), type="bind", read_only=read_only)


def _missing_output(given: dict[str, Any]) -> str:
    """Which output of a task that ended well is not there, if any; metrics are no file, they travel in the output file."""
    outputs = given.get("outputs", {})
    wanted = [outputs["outputFile"]] if "outputFile" in outputs else []
    artifacts = [artifact for each in outputs.get("artifacts", {}).values() for artifact in each["artifacts"]]
    wanted += [artifact["uri"] for artifact in artifacts if artifact["type"]["schemaTitle"] != "system.Metrics"]
    missing = [path for path in wanted if not Path(path).exists()]
    return f"it ended with status 0 but left no {', '.join(missing)}" if missing else ""


def _cause(state: dict[str, Any], memory: int) -> str:
    """Why a container failed, from the engine's own account; nothing where it did not."""
    status = state["ExitCode"]
    if state.get("OOMKilled"):
        return f"out of memory: the limit is {memory >> 20:,} MiB"
    if state.get("Error"):
        return str(state["Error"])
    if status > 128:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(status - 128).name}, from outside or by itself"
    return f"exit status {status}" if status else ""
