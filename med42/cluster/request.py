"""A request of a run, as a file that is reviewed: which recipe, on which cluster, why. It is run once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from med42.cluster.profile import load_profile
from med42.errors import Med42Error
from med42.lineage.digest import value_digest
from med42.recipe import Recipe, load_recipe, recipe_digest
from med42.recipe.schema import Frozen


class Request(Frozen):
    """What stands in `runs/<name>.yaml`."""

    recipe: str = Field(description="a shipped recipe's name, or a *.yaml file beside the request")
    profile: str = Field(default="default", description="the cluster profile that the pipeline was compiled for")
    overrides: list[str] = Field(default=[], description="key.path=value, each")
    reason: str = Field(min_length=1, description="why; another reason is another request, and so another run")
    version: str | None = Field(default=None, description="a pipeline version's name; absent: the newest of the recipe's pipeline")
    push_to: str = ""
    data_root: str = ""
    store: str = ""


@dataclass(frozen=True)
class Wanted:
    """A request with its recipe resolved.

    Attributes:
        path: of the request.
        request: what stands in it.
        recipe: the recipe with its overrides and its lock.
    """

    path: Path
    request: Request
    recipe: Recipe

    @cached_property
    def digest(self) -> str:
        """What identifies the request: the resolved recipe with its pins, where it runs, and why.

        The code's version is not in it, so that an update of the code alone starts nothing.
        """
        asked = self.request.model_dump(mode="json", exclude={"recipe", "overrides"})
        return value_digest({**asked, "recipe": recipe_digest(self.recipe)})

    @property
    def name(self) -> str:
        """What the run is called: the file's name and the beginning of the digest."""
        return f"{self.path.stem}-{self.digest[:12]}"

    @property
    def pipeline(self) -> str:
        """The name of the recipe's pipeline."""
        return f"med42-{self.recipe.name.replace('.', '-')}"


def load_request(path: Path) -> Wanted:
    """Read a request and the recipe that it names.

    Raises:
        Med42Error: no such file, not a request, or anything that is wrong with its recipe or profile.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Med42Error(path, " ".join(str(error).split()), "a request of a run, as YAML", "Check the name and the line.") from error
    try:
        request = Request.model_validate(values)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the request'}: {one['msg'].removeprefix('Value error, ')}"
                         for one in error.errors())
        raise Med42Error(path, told, f"a mapping of {', '.join(Request.model_fields)}", "Mend the key that is named.") from error
    if built := [override for override in request.overrides if ".devices" in override.partition("=")[0]]:
        raise Med42Error(f"{path}: overrides", f"'{built[0]}'", "no devices: what a task asks for is built into the pipeline",
                         "Put them into a recipe file of your own, and compile that.")
    load_profile(_beside(path, request.profile))
    return Wanted(path, request, load_recipe(_beside(path, request.recipe), request.overrides))


def check_names(wanted: Iterable[Wanted]) -> None:
    """See that requests name no two recipes of one name: their runs would be versions of one pipeline.

    Raises:
        Med42Error: naming both.
    """
    files: dict[str, tuple[str, Path]] = {}
    for one in wanted:
        named = _beside(one.path, one.request.recipe)
        file = str(Path(named).resolve()) if named.endswith((".yaml", ".yml")) else named
        before, path = files.setdefault(one.recipe.name, (file, one.path))
        if before != file:
            raise Med42Error(one.path, f"a recipe named '{one.recipe.name}' from {file}, where {path} has one of that name from {before}",
                             "one recipe of a name", "Give one of them another name: a pipeline is called by it.")


def _beside(path: Path, name: str) -> str:
    """A file that a request names, which lies beside it; or a shipped name."""
    return str(path.parent / name) if name.endswith((".yaml", ".yml")) else name
