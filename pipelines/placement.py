"""Putting tasks where a cluster profile says, in the images that a lock file names."""

from __future__ import annotations

from typing import Any

from kfp import kubernetes

from med42.cluster.image_lock import ImageLock
from med42.cluster.profile import STAGES, Profile, accelerators, devices_of
from med42.recipe import Recipe


def place(task: Any, profile: Profile, recipe: Recipe, images: ImageLock | None) -> Any:
    """Give a task the resources, selector and tolerations of its stage's pool, and its image by digest where one is locked."""
    stage = task.component_spec.name.replace("-", "_")
    pool = profile.pool(stage)
    if images:
        reference = images.pinned(STAGES[stage])
        task.set_container_image(reference).set_env_variable("MED42_IMAGE", reference)
    if pool.cpu:
        task.set_cpu_request(pool.cpu).set_cpu_limit(pool.cpu)
    if pool.memory:
        task.set_memory_request(pool.memory).set_memory_limit(pool.memory)
    if count := accelerators(stage, profile, devices_of(recipe, stage)):
        task.set_accelerator_type(pool.accelerator).set_accelerator_limit(count)
        for key, value in pool.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in pool.tolerations:
            kubernetes.add_toleration(task, **toleration)
    return task
