"""Putting tasks where a cluster profile says."""

from __future__ import annotations

from typing import Any

from kfp import kubernetes

from med42.cluster.profile import Profile, accelerators
from med42.recipe import Recipe
from med42.recipe.schema import Devices


def place(task: Any, profile: Profile, recipe: Recipe) -> Any:
    """Give a task the resources, selector and tolerations of its stage's pool."""
    stage = task.component_spec.name.replace("-", "_")
    pool = profile.pool(stage)
    if pool.cpu:
        task.set_cpu_request(pool.cpu).set_cpu_limit(pool.cpu)
    if pool.memory:
        task.set_memory_request(pool.memory).set_memory_limit(pool.memory)
    devices = {"train_sft": recipe.sft.devices, "train_dpo": recipe.dpo.devices, "evaluate_model": recipe.evaluation.devices}
    if count := accelerators(stage, profile, devices.get(stage, Devices())):
        task.set_accelerator_type(pool.accelerator).set_accelerator_limit(count)
        for key, value in pool.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in pool.tolerations:
            kubernetes.add_toleration(task, **toleration)
    return task
