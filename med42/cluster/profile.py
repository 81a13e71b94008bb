"""A cluster profile: what each kind of stage asks of the cluster. Typed and checked like a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from med42.errors import Med42Error
from med42.recipe.schema import Devices, Frozen, Name, Recipe

SHIPPED = Path(__file__).parent / "profiles"
Kind = Literal["data", "train", "evaluate", "release"]

# Which kind of pool a stage belongs to.
STAGES: dict[str, Kind] = {
    "preflight": "release", "prepare_source": "data", "prepare_benchmarks": "data", "mix_data": "data", "pack_data": "data",
    "build_preferences": "data", "prepare_base": "train", "train_sft": "train", "train_dpo": "train", "sample_answers": "train",
    "score_answers": "train", "pair_answers": "data", "evaluate_model": "evaluate",
    "decide_release": "release", "push_model": "release", "seal_audit": "release",
}


class Pool(Frozen):
    """What the stages of one kind ask for; what is left out is the cluster's default."""

    cpu: str | None = None
    memory: str | None = None
    node_selector: dict[str, str] = Field(default={})
    tolerations: list[dict[str, str]] = Field(default=[])
    accelerator: str | None = None


class Profile(Frozen):
    """A cluster's pools."""

    name: Name
    title: str
    pools: dict[Kind, Pool] = Field(default={})

    def pool(self, stage: str) -> Pool:
        """The pool of a stage."""
        return self.pools.get(STAGES[stage], Pool())


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
    except (ValidationError, yaml.YAMLError) as error:
        raise Med42Error(path, " ".join(str(error).split()), "the profile schema", "Mend the key that is named.") from error


def devices_of(recipe: Recipe, stage: str) -> Devices:
    """What the recipe asks one stage to run on."""
    asked = {"train_sft": recipe.sft.devices, "train_dpo": recipe.dpo.devices, "evaluate_model": recipe.evaluation.devices}
    return asked.get(stage, Devices())


def accelerators(stage: str, profile: Profile, devices: Devices) -> int:
    """Accelerators that one task of a stage asks for.

    Raises:
        Med42Error: the recipe wants accelerators that the profile's pool does not have.
    """
    pool = profile.pool(stage)
    if devices.gpus_per_node and profile.pools and pool.accelerator is None:
        raise Med42Error(f"profile {profile.name}", f"no accelerator in the pool of {stage}",
                         f"{devices.gpus_per_node} a node, as the recipe asks", "Choose another profile, or set the recipe's devices.")
    return devices.gpus_per_node if pool.accelerator else 0
