"""Converters by family: in each of three packages one module a family, named by the recipe."""

from __future__ import annotations

import importlib
import importlib.resources
from types import ModuleType

from med42.errors import Med42Error


def families(package: str) -> list[str]:
    """The families that a package, as `med42.data.sources`, has a converter for."""
    names = (entry.name for entry in importlib.resources.files(package).iterdir())
    return sorted(name.removesuffix(".py") for name in names if name.endswith(".py") and name != "__init__.py")


def find_family(package: str, family: str, key: str) -> ModuleType:
    """The converter of a family; dashes and underscores are the same.

    Args:
        package: where to look.
        family: as the recipe names it.
        key: the recipe key above `family`, for the error.

    Raises:
        Med42Error: there is none of that name.
    """
    name = family.replace("-", "_")
    if name not in families(package):
        raise Med42Error(f"{key}.family", f"'{family}'", f"one of {', '.join(families(package))}", "Name a family that exists.")
    return importlib.import_module(f"{package}.{name}")
