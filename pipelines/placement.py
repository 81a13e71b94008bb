"""Putting tasks where a cluster profile says, in the images that a lock file names."""

from __future__ import annotations

import json
from typing import Any

from kfp import kubernetes

from med42.cluster.image_lock import ImageLock
from med42.cluster.network import needs_network
from med42.cluster.profile import (
    LAUNCHER,
    NODES_VARIABLE,
    PROFILE_VARIABLE,
    PUBLIC_KEY_VARIABLE,
    SIGNING_FOLDER,
    STAGES,
    Profile,
    Signing,
    Task,
    accelerators,
    asks,
    by_trainer,
    devices_of,
    training_nodes,
)
from med42.lineage.signature import SIGNING_STAGES
from med42.recipe import Recipe

# Argo puts the workflow's id here, which Kubeflow makes the id of the run, as its pages show it.
RUN = "{{workflow.uid}}"
SHARED_MEMORY = "/dev/shm"
# What a stage without a network would otherwise try to reach, and wait for.
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def place(task: Any, profile: Profile, recipe: Recipe, images: ImageLock | None, detail: str | int | None) -> Any:
    """Give a task its image by digest where one is locked, and all that the profile says of its stage.

    Args:
        task: the task, before it is shown under another name.
        profile: the cluster.
        recipe: the resolved recipe.
        images: pushed images; without them, tags in the profile's registry.
        detail: the number of the round, or the model's label, that the task works on.
    """
    stage = task.component_spec.name.replace("-", "_")
    if images:
        reference = images.pinned(STAGES[stage])
        task.set_container_image(reference).set_env_variable("MED42_IMAGE", reference)
    elif profile.images.registry:
        task.set_container_image(f"{profile.images.registry}/{task.container_spec.image}")
    devices = devices_of(recipe, stage)
    asked = asks(stage, profile, devices)
    if asked is None:
        return task
    gpus = accelerators(stage, profile, devices)
    if by_trainer(profile, devices):  # the GPUs are the TrainJob's; this task follows it
        nodes = training_nodes(profile, recipe, stage, task.container_spec.image)
        task.set_env_variable(NODES_VARIABLE, json.dumps(nodes, sort_keys=True))
        asked, gpus = profile.tasks[LAUNCHER], 0
    _ask(task, asked, profile, gpus)
    _run_as_told(task, profile, stage)
    if recipe.audit.signed is True:
        _give_key(task, profile.signing, stage)
    # One task prepares all sources in a loop: it needs the network if one of them does.
    worked_on = list(recipe.sources) if stage == "prepare_source" else [str(detail or "")]
    network = any(needs_network(recipe, stage, name, "") for name in worked_on)
    if not network:
        for variable in OFFLINE:
            task.set_env_variable(variable, "1")
    labels = {"run": RUN, "recipe": recipe.name, "stage": stage.replace("_", "-") + ("" if detail is None else f"-{detail}"),
              "network": "outside" if network else "inside"}
    if devices.gpus_per_node:
        labels["gpus"] = str(devices.processes)
    for key, value in labels.items():
        kubernetes.add_pod_label(task, f"med42.io/{key}", value)
    return task


def _ask(task: Any, asked: Task, profile: Profile, gpus: int) -> None:
    """Resources, nodes, retries and the deadline."""
    pool = profile.pools[asked.pool]
    if asked.cpu:
        task.set_cpu_request(asked.cpu).set_cpu_limit(asked.cpu)
    if asked.memory:
        task.set_memory_request(asked.memory).set_memory_limit(asked.memory)
    if gpus and pool.accelerators:
        task.set_accelerator_type(pool.accelerators.resource).set_accelerator_limit(gpus)
    if asked.shm:
        kubernetes.empty_dir_mount(task, "shared-memory", SHARED_MEMORY, medium="Memory", size_limit=asked.shm)
    for key, value in pool.selector.items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in pool.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))
    seconds = round((asked.deadline_hours or 0) * 3600)
    if asked.retries:
        # Argo gives up once this much time has passed since the first attempt began, an hour by default: too short for a training.
        longest = (asked.retries + 1) * (seconds or 86_400) + asked.backoff_seconds * 2**asked.retries
        task.set_retry(asked.retries, f"{asked.backoff_seconds}s", 2.0, f"{longest}s")
    if seconds:
        kubernetes.set_timeout(task, seconds)


def _run_as_told(task: Any, profile: Profile, stage: str) -> None:
    """User, volume, secrets, and how the image is pulled."""
    if profile.user is not None:
        kubernetes.set_security_context(task, run_as_user=profile.user, run_as_group=0, run_as_non_root=profile.user != 0)
    if profile.images.pull_policy:
        kubernetes.set_image_pull_policy(task, profile.images.pull_policy)
    if profile.images.pull_secret:
        kubernetes.set_image_pull_secrets(task, [profile.images.pull_secret])
    volume = profile.storage.volume
    # Preflight goes without the volume, so that it can start, and say so, where the claim is not there.
    if volume and stage != "preflight":
        kubernetes.mount_pvc(task, volume.claim, volume.path)
    for secret in profile.secrets:
        if stage in secret.stages:
            kubernetes.use_secret_as_env(task, secret.name, {secret.key: secret.variable}, optional=True)
        if stage == "preflight":
            kubernetes.use_secret_as_env(task, secret.name, {secret.key: secret.seen_as}, optional=True)
    if stage == "preflight":  # which looks whether the cluster is so
        task.set_env_variable(PROFILE_VARIABLE, profile.model_dump_json(exclude_defaults=True))


def _give_key(task: Any, signing: Signing, stage: str) -> None:
    """The signing key as files, for the stages that sign; to preflight its public half, by which it sees that the secret is there."""
    if stage in SIGNING_STAGES:
        # A secret that is missing is told by preflight, or by the stage; a pod that waits for it would tell nothing.
        kubernetes.use_secret_as_volume(task, signing.secret, SIGNING_FOLDER, optional=True)
        for variable, path in signing.variables.items():
            task.set_env_variable(variable, path)
    elif stage == "preflight":
        kubernetes.use_secret_as_env(task, signing.secret, {signing.public: PUBLIC_KEY_VARIABLE}, optional=True)
