"""Whether a recipe's trainings fit a cluster, by arithmetic, before anything is compiled for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from med42.cluster.profile import Pool, Profile, Task, accelerators, amount, asks, by_trainer, devices_of
from med42.errors import Med42Error
from med42.recipe import Recipe
from med42.recipe.schema import Devices
from med42.training.planning import (
    RUNTIME,
    Accelerator,
    TrainingPlan,
    load_accelerators,
    parameter_count,
    plan_training,
    what_would_fit,
)

GB = 1e9


@dataclass(frozen=True)
class Placed:
    """Where one training or evaluation runs, and what it will take.

    Attributes:
        stage: its name, as the plan calls it.
        pool: the name of its nodes' pool.
        devices: nodes and accelerators.
        how: as processes inside its task, or as a TrainJob.
        memory: bytes of one GPU, of a training at its peak, of an evaluation its weights; None without GPUs.
        hours: None where they are not known.
    """

    stage: str
    pool: str
    devices: Devices
    how: str
    memory: float | None = None
    hours: float | None = None

    @property
    def shape(self) -> str:
        """As `6 x 8 H100`."""
        devices = self.devices
        return f"{devices.nodes} x {devices.gpus_per_node} {devices.accelerator}".rstrip() if devices.gpus_per_node else "CPU"


def fit(recipe: Recipe, profile: Profile, table: dict[str, Accelerator] | None = None) -> list[Placed]:
    """Where every training and the evaluation of a recipe run on a cluster.

    Args:
        recipe: the resolved recipe.
        profile: the cluster; one without tasks says nothing of nodes, so all fits.
        table: what is known of accelerators; by default what comes with the package.

    Raises:
        Med42Error: something does not fit, with the arithmetic and with what would.
    """
    if not profile.tasks:
        return []
    table = load_accelerators() if table is None else table
    placed = [_training(recipe, profile, plan, table) for plan in plan_training(recipe)]
    return [*placed, _evaluation(recipe, profile, table)]


def _training(recipe: Recipe, profile: Profile, plan: TrainingPlan, table: dict[str, Accelerator]) -> Placed:
    stage, devices = plan.name.partition("-")[0], plan.devices
    accelerators(stage, profile, devices)
    task = asks(stage, profile, devices)
    assert task is not None
    pool, where = profile.pools[task.pool], f"profile {profile.name}: {plan.name}"
    _check_nodes(where, devices, profile, task, pool)
    _check_host_memory(recipe, where, task)
    known = table.get(devices.accelerator) if devices.gpus_per_node else None
    if known and plan.memory > known.memory_gb * GB:
        parts = " + ".join(f"{part.name} {part.size / GB:.1f}" for part in plan.parts)
        raise Med42Error(where, f"{plan.memory / GB:.1f} GB a GPU = {parts}",
                         f"at most the {known.memory_gb:g} GB of one {devices.accelerator}", f"{what_would_fit(recipe, plan.name, known)}.")
    total = plan.gpu_hours(known) if known else None
    hours = None if total is None else total / devices.processes
    if hours and task.deadline_hours and hours > task.deadline_hours:
        raise Med42Error(where, f"{plan.steps:,} steps x {plan.seconds_a_step(known):.1f} s = {hours:,.0f} hours",  # type: ignore[arg-type]
                         f"at most tasks.{_row(profile, stage)}.deadline_hours, {task.deadline_hours:g}", "Raise it, or take more GPUs.")
    how = "TrainJob" if by_trainer(profile, devices) else "inside its task"
    return Placed(plan.name, task.pool, devices, how, plan.memory if devices.gpus_per_node else None, hours)


def _evaluation(recipe: Recipe, profile: Profile, table: dict[str, Accelerator]) -> Placed:
    """Scoring holds the weights, shared out over the GPUs of its task; what it needs besides is small and not reckoned."""
    devices, stage, shape = devices_of(recipe, "evaluate_model"), "evaluate_model", recipe.base.shape
    gpus = accelerators(stage, profile, devices)
    task = asks(stage, profile, devices)
    assert task is not None and shape is not None
    known = table.get(devices.accelerator) if gpus else None
    if known is None:
        return Placed(stage, task.pool, devices, "one task a model")
    size, parameters = (2 if recipe.evaluation.dtype == "bfloat16" else 4), parameter_count(shape)
    share = size * parameters / gpus
    if share + RUNTIME > known.memory_gb * GB:
        least = math.ceil(size * parameters / (known.memory_gb * GB - RUNTIME))
        raise Med42Error(f"profile {profile.name}: {stage}",
                         f"{size} x {parameters:,} bytes of weights / {gpus} = {share / GB:.1f} GB a GPU",
                         f"at most {known.memory_gb:g} GB of one {devices.accelerator}, less {RUNTIME / GB:g} for CUDA",
                         f"Set evaluation.devices.gpus_per_node={least} or more.")
    return Placed(stage, task.pool, devices, "one task a model", share)


def _check_nodes(where: str, devices: Devices, profile: Profile, task: Task, pool: Pool) -> None:
    has = pool.accelerators
    if has and devices.gpus_per_node and devices.accelerator not in ("", has.model):
        raise Med42Error(where, f"{devices.accelerator} asked for", f"{has.model}, which pool '{task.pool}' has",
                         "Choose another profile, or set the recipe's devices.accelerator.")
    if pool.nodes and devices.nodes > pool.nodes:
        each = devices.gpus_per_node or 1
        raise Med42Error(where, f"{devices.nodes} nodes x {each} = {devices.nodes * each} processes asked for",
                         f"at most the {pool.nodes} x {has.count if has else 1} = {pool.nodes * (has.count if has else 1)} "
                         f"of pool '{task.pool}'",
                         "Set the recipe's devices.nodes, whose batch must stay a multiple of them, or give the pool more nodes.")
    if devices.nodes > 1 and profile.trainer is None:
        raise Med42Error(where, f"{devices.nodes} nodes asked for", "1: without Kubeflow Trainer a training stays inside its task",
                         "Install Trainer and name it in the profile, or set the recipe's devices.nodes=1.")


def _check_host_memory(recipe: Recipe, where: str, task: Task) -> None:
    if task.memory and amount(task.memory) < recipe.limits.memory_gib * 2**30:
        raise Med42Error(where, f"a task of {task.memory}", f"limits.memory_gib of the recipe, {recipe.limits.memory_gib:g} GiB",
                         "Let the profile's tasks.train ask for more memory.")


def _row(profile: Profile, stage: str) -> str:
    return stage if stage in profile.tasks else "train"
