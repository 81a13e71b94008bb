"""A cluster profile: the nodes that a cluster has, and what each kind of stage asks of them. Typed and checked like a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from med42.errors import Med42Error
from med42.lineage.signature import CERTIFICATE, KEY
from med42.recipe.schema import Devices, Frozen, LocalSampler, Name, Positive, Recipe, RewardModel

SHIPPED = Path(__file__).parent / "profiles"
Kind = Literal["data", "train", "evaluate", "release"]

# Which kind a stage is of: it tells the image that the stage runs in, and what it asks for where the profile has no row of its own for it.
STAGES: dict[str, Kind] = {
    "preflight": "release", "prepare_source": "data", "prepare_benchmarks": "data", "mix_data": "data", "pack_data": "data",
    "build_preferences": "data", "prepare_base": "train", "train_sft": "train", "train_dpo": "train", "sample_answers": "train",
    "score_answers": "train", "pair_answers": "data", "evaluate_model": "evaluate",
    "decide_release": "release", "push_model": "release", "seal_audit": "release", "summarise_run": "release",
}
KINDS = sorted(set(STAGES.values()))
PROFILE_VARIABLE = "MED42_PROFILE"  # in which preflight finds the profile as JSON
NODES_VARIABLE = "MED42_NODES"  # in which the launcher of a TrainJob finds `training_nodes` as JSON
SIGNING_FOLDER = "/med42-signing"  # not below the volume's path
PUBLIC_KEY_VARIABLE = "MED42_HAS_SIGNING_KEY"  # in which preflight finds the public key of those who sign
LAUNCHER = "launcher"  # the row of the task that follows a TrainJob, which needs no GPU itself

UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", description="as Kubernetes writes it: 500m, 16Gi")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63)]


def amount(quantity: str) -> float:
    """Cores or bytes of a Kubernetes quantity.

    Raises:
        Med42Error: it is none.
    """
    parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", quantity)
    if not parts or parts[2] not in UNITS:
        raise Med42Error("quantity", f"'{quantity}'", "a number and a unit, as 500m or 16Gi", "Mend it.")
    return float(parts[1]) * UNITS[parts[2]]


class Toleration(Frozen):
    """A taint that tasks of a pool put up with."""

    key: str
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Accelerators(Frozen):
    """The accelerators of one node."""

    resource: str = "nvidia.com/gpu"
    model: str = Field(description="as a recipe's devices and `med42 plan` call it, H100 for instance")
    count: PositiveInt


class Pool(Frozen):
    """Nodes of one kind, and what one of them has to give."""

    selector: dict[str, str] = Field(default={})
    tolerations: list[Toleration] = Field(default=[])
    accelerators: Accelerators | None = None
    cpu: Quantity | None = None
    memory: Quantity | None = None
    nodes: PositiveInt | None = Field(default=None, description="most that there can be; absent: no limit that we know")
    from_zero: bool = Field(default=False, description="the cluster adds nodes when they are asked for, so that there may be none before")


class Task(Frozen):
    """What one task asks for; what is left out is the cluster's default."""

    pool: Name
    cpu: Quantity | None = None
    memory: Quantity | None = None
    shm: Quantity | None = Field(default=None, description="/dev/shm, in memory: NCCL and data loaders speak through it")
    retries: NonNegativeInt = 0
    backoff_seconds: PositiveInt = Field(default=60, description="before the first retry; twice as long before each other one")
    deadline_hours: Positive | None = None


class Volume(Frozen):
    """A volume that many pods write to."""

    claim: ObjectName
    path: str = Field(pattern="^/[a-z0-9/-]+$")
    storage_class: str | None = Field(default=None, description="which preflight looks for")


class Storage(Frozen):
    """Where a run keeps its things."""

    bucket: str | None = Field(default=None, pattern=r"^(gs|s3|minio)://[^{}]+$", description="the root of what Kubeflow keeps")
    volume: Volume | None = Field(default=None, description="finished artifacts to use again; all nodes of a training need it")


class Secret(Frozen):
    """A secret's key that some stages find in their environment; its value is nowhere in a pipeline."""

    name: ObjectName
    key: str
    variable: str
    stages: list[str] = Field(min_length=1)
    needed: bool = Field(default=False, description="whether preflight stops where it is not there and the recipe uses a stage of it")

    @property
    def seen_as(self) -> str:
        """The variable by which preflight sees that it is there."""
        return f"MED42_HAS_{self.name.replace('-', '_').replace('.', '_').upper()}"


class Signing(Frozen):
    """A secret whose files the stages that sign find in a folder; the others never see them."""

    secret: ObjectName = "med42-signing"
    key: str = Field(default="key.pem", description="file with the private key")
    public: str = Field(default="key.pub", description="file with its public key: by it alone preflight sees that the secret is there")
    certificate: str | None = Field(default=None, description="file with the key's certificate, and those between it and the root")

    @property
    def variables(self) -> dict[str, str]:
        """What tells a stage where its files lie."""
        files = {KEY: self.key} | ({CERTIFICATE: self.certificate} if self.certificate else {})
        return {variable: f"{SIGNING_FOLDER}/{name}" for variable, name in files.items()}


class Images(Frozen):
    """Where images come from."""

    registry: str = Field(default="", description="before the names of images that are named by tag; a lock has its own")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    pull_secret: ObjectName | None = None


class Trainer(Frozen):
    """Kubeflow Trainer, for trainings on several nodes."""

    api: str = "trainer.kubeflow.org/v1alpha1"
    runtime: ObjectName = "med42-torch"
    service_account: ObjectName = "med42-train"


class Kueue(Frozen):
    """Kueue, where trainings wait for quota."""

    api: str = "kueue.x-k8s.io/v1beta2"
    queue: ObjectName


class Profile(Frozen):
    """A cluster: its pools, and what goes where."""

    name: Name
    title: str
    namespace: ObjectName = "med42"
    pools: dict[Name, Pool] = Field(default={})
    tasks: dict[str, Task] = Field(
        default={}, description="by kind of stage or by stage, whose row comes first; 'launcher' follows TrainJobs")
    storage: Storage = Storage()
    secrets: list[Secret] = Field(default=[])
    signing: Signing = Signing()
    service_account: ObjectName | None = Field(default=None, description="of a run's pods")
    images: Images = Images()
    user: NonNegativeInt | None = Field(default=None, description="uid of a run's pods, in group 0")
    trainer: Trainer | None = None
    kueue: Kueue | None = None

    @model_validator(mode="after")
    def _rows_are_of_something(self) -> Profile:
        known = [*KINDS, *STAGES, LAUNCHER]
        for name, task in self.tasks.items():
            if name not in known:
                raise ValueError(f"tasks: '{name}' is no kind of stage ({', '.join(KINDS)}), no stage and not '{LAUNCHER}'")
            if task.pool not in self.pools:
                raise ValueError(f"tasks.{name}.pool: there is no pool '{task.pool}', only {', '.join(self.pools) or 'none'}")
            pool = self.pools[task.pool]
            for what in ("cpu", "memory"):
                asked, there = getattr(task, what), getattr(pool, what)
                if asked and there and amount(asked) > amount(there):
                    raise ValueError(f"tasks.{name}.{what} {asked} is more than a node of pool '{task.pool}' has, {there}")
        if self.tasks and (missing := [kind for kind in KINDS if kind not in self.tasks]):
            raise ValueError(f"tasks: no row for {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _trainings_on_several_nodes_share_a_volume(self) -> Profile:
        if self.trainer and not self.storage.volume:
            raise ValueError("trainer needs storage.volume: all nodes of a training read its inputs there")
        if self.trainer and LAUNCHER not in self.tasks:
            raise ValueError(f"trainer needs tasks.{LAUNCHER}: what the task that follows a TrainJob asks for")
        if self.kueue and not self.trainer:
            raise ValueError("kueue without trainer: only TrainJobs are queued")
        return self

    @model_validator(mode="after")
    def _secrets_go_to_stages(self) -> Profile:
        for secret in self.secrets:
            if unknown := [stage for stage in secret.stages if stage not in STAGES]:
                raise ValueError(f"secrets: {secret.name} is for '{unknown[0]}', which is no stage")
        return self

    def task(self, stage: str) -> Task | None:
        """What a stage asks for: its own row, or that of its kind."""
        return self.tasks.get(stage) or self.tasks.get(STAGES[stage])


def shipped_profiles() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_profile(name_or_path: str) -> Profile:
    """Read a profile by shipped name or path.

    Raises:
        Med42Error: there is none, or the schema refuses it.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        raise Med42Error(f"profile '{name_or_path}'", "no such profile", f"one of {', '.join(shipped_profiles())}, or a file",
                         "Check the name.")
    try:
        return Profile.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(str(part) for part in told['loc']) or 'the profile'}: {told['msg'].removeprefix('Value error, ')}"
                          for told in error.errors())
        raise Med42Error(path, found, "the profile schema", "Mend the key that is named.") from error
    except yaml.YAMLError as error:
        raise Med42Error(path, " ".join(str(error).split()), "YAML", "Mend the line that is named.") from error


def devices_of(recipe: Recipe, stage: str) -> Devices:
    """What the recipe asks one stage to run on."""
    asked = {"train_sft": recipe.sft.devices, "train_dpo": recipe.dpo.devices, "evaluate_model": recipe.evaluation.devices}
    if (own := recipe.dpo.on_policy) and ((stage == "sample_answers" and isinstance(own.sampler, LocalSampler))
                                          or (stage == "score_answers" and isinstance(own.reward, RewardModel))):
        return Devices(gpus_per_node=min(1, recipe.dpo.devices.gpus_per_node), accelerator=recipe.dpo.devices.accelerator)
    return asked.get(stage, Devices())


def asks(stage: str, profile: Profile, devices: Devices) -> Task | None:
    """What a task of a stage asks for; None where the profile says nothing.

    A stage for which the recipe wants no accelerators leaves those of its pool to others: it asks for what data stages do.
    """
    task = profile.task(stage)
    if task and profile.pools[task.pool].accelerators and not devices.gpus_per_node:
        return profile.tasks["data"]
    return task


def accelerators(stage: str, profile: Profile, devices: Devices) -> int:
    """Accelerators that one task of a stage asks for.

    Raises:
        Med42Error: the recipe wants accelerators, or more of them, than a node of the profile's pool has.
    """
    task = asks(stage, profile, devices)
    if task is None or not devices.gpus_per_node:
        return 0
    has = profile.pools[task.pool].accelerators
    if has is None or has.count < devices.gpus_per_node:
        found = f"{has.count} {has.model}" if has else "no accelerator"
        raise Med42Error(f"profile {profile.name}", f"{found} on a node of pool '{task.pool}', where {stage} runs",
                         f"{devices.gpus_per_node} a node, as the recipe asks", "Choose another profile, or set the recipe's devices.")
    return devices.gpus_per_node


def by_trainer(profile: Profile, devices: Devices) -> bool:
    """Whether a training is a TrainJob of several nodes, rather than processes inside its task."""
    return profile.trainer is not None and devices.nodes > 1


def training_nodes(profile: Profile, recipe: Recipe, stage: str, image: str) -> dict[str, Any]:
    """The nodes of a training, as the launcher of its TrainJob is told of them; the recipe's devices say how many and with how many GPUs.

    Args:
        profile: a cluster with Trainer.
        recipe: the recipe.
        stage: `train_sft` or `train_dpo`.
        image: what all nodes run.
    """
    task, volume, trainer = asks(stage, profile, devices_of(recipe, stage)), profile.storage.volume, profile.trainer
    assert task and volume and trainer
    pool = profile.pools[task.pool]
    return {
        "image": image, "mounts": [{"claim": volume.claim, "path": volume.path}], "runtime": trainer.runtime,
        "service_account": trainer.service_account, "node_selector": pool.selector,
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in pool.tolerations],
        "pull_secrets": [profile.images.pull_secret] if profile.images.pull_secret else [],
        "accelerator": pool.accelerators.resource if pool.accelerators else "", "cpu": task.cpu, "memory": task.memory,
        "shared_memory": task.shm, "queue": profile.kueue.queue if profile.kueue else None, "labels": {"med42.io/recipe": recipe.name},
    }
