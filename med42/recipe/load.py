"""Reading a recipe: a shipped name or a file, its parent, the overrides, one error if it is wrong."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rfc8785
import yaml
from pydantic import ValidationError

from med42.errors import Med42Error
from med42.recipe.lock import check_pins, lock_path, read_lock
from med42.recipe.schema import Recipe

SHIPPED = Path(__file__).parent / "shipped"


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package, smallest first."""
    order = ["tiny", "open-small", "llama3-8b", "llama3.1-8b", "llama3-70b", "llama3.1-70b"]
    found = {path.stem for path in SHIPPED.glob("*.yaml")}
    return [name for name in order if name in found] + sorted(found - set(order))


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = (), locked: bool = True) -> Recipe:
    """Read a recipe by shipped name or path, with its lock file, and apply `key.path=value` overrides.

    Args:
        name_or_path: a shipped recipe's name, or the path of a *.yaml file.
        overrides: `key.path=value`, each.
        locked: whether to lay the recipe's lock file, if there is one, into `pins`; those that the recipe itself holds stay.

    Raises:
        Med42Error: no such recipe, not YAML, anything the schema refuses, or pins of other origins than the recipe names.
    """
    path = _locate(name_or_path)
    values = _read(path)
    pins = read_lock(lock_path(name_or_path)) if locked else {}
    if pins:
        given = values.get("pins")
        values["pins"] = {key: pin.model_dump(mode="json") for key, pin in pins.items()} | (given if isinstance(given, dict) else {})
    return _check(_override(values, overrides, path), path)


def parse_recipe(text: str, overrides: Iterable[str] = (), where: str = "recipe") -> Recipe:
    """Read a resolved recipe from JSON, as stages receive it."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise Med42Error(where, f"text that is not JSON ({error})", "a recipe as JSON",
                         "Pass the text that `med42 check RECIPE --json` prints.") from error
    if not isinstance(values, dict):
        raise Med42Error(where, f"a {type(values).__name__}", "a mapping of recipe keys",
                         "Pass the text that `med42 check RECIPE --json` prints.")
    return _check(_override(values, overrides, Path(where)), Path(where))


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as canonical JSON (RFC 8785), ASCII only."""
    # Canonical JSON is UTF-8; a compiled pipeline must be ASCII, so escape and keep the order.
    return json.dumps(json.loads(canonical_recipe(recipe)), separators=(",", ":"))


def canonical_recipe(recipe: Recipe) -> bytes:
    """The bytes that the recipe's digest is taken of."""
    return rfc8785.dumps(recipe.model_dump(mode="json"))


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 of the resolved recipe: what identifies the experiment."""
    return hashlib.sha256(canonical_recipe(recipe)).hexdigest()


def _locate(name_or_path: str | Path) -> Path:
    as_path = Path(name_or_path)
    if as_path.suffix in (".yaml", ".yml"):
        if not as_path.is_file():
            raise Med42Error(as_path, "no such file", "a recipe file", "Check the path.")
        return as_path
    path = SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        known = shipped_recipes()
        near = difflib.get_close_matches(str(name_or_path), known, n=1, cutoff=0.0)
        raise Med42Error(f"recipe '{name_or_path}'", "no shipped recipe of that name", f"one of {', '.join(known)}",
                         f"Did you mean '{near[0]}'? A file of your own is given by its path (*.yaml).")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Med42Error(path, f"text that is not YAML ({' '.join(str(error).split())})", "a YAML mapping",
                         "Mend the line that is named.") from error
    if not isinstance(values, dict):
        raise Med42Error(path, f"a {type(values).__name__}", "a YAML mapping of recipe keys", "See `med42 recipes`.")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    sibling = path.parent / str(parent)
    return _merge(_read(sibling if sibling.is_file() else _locate(str(parent))), values)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, key by key; a null removes the key, and what is of another `kind` takes its whole place."""
    merged = {} if above.get("kind", below.get("kind")) != below.get("kind") else dict(below)
    for key, value in above.items():
        if value is None and key in merged:
            del merged[key]
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _override(values: dict[str, Any], overrides: Iterable[str], path: Path) -> dict[str, Any]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise Med42Error(f"override '{override}'", "no '='", "key.path=value", "For example sft.steps=100.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise Med42Error(f"override '{override}'", "a value that is not YAML", "a number, word, list or mapping",
                             "Quote the value.") from error
        values = _set(values, _split_key(key, values), value)
    return values


def _split_key(key: str, values: dict[str, Any]) -> list[str]:
    """Split a dotted key, keeping names that hold dots themselves (as `snorkel-0.2`) whole."""
    steps: list[str] = []
    rest, here = key, values
    while rest:
        holds_dot = [name for name in here if "." in name and (rest + ".").startswith(name + ".")]
        step = max(holds_dot, key=len) if holds_dot else rest.partition(".")[0]
        steps.append(step)
        rest = rest[len(step) + 1 :]
        below = here.get(step)
        here = below if isinstance(below, dict) else {}
    return steps


def _set(values: dict[str, Any], steps: list[str], value: Any) -> dict[str, Any]:
    below = values.get(steps[0])
    if len(steps) > 1:
        value = _set(below if isinstance(below, dict) else {}, steps[1:], value)
    return {**values, steps[0]: value}


def _check(values: dict[str, Any], path: Path) -> Recipe:
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors()]
        raise Med42Error(path, "; ".join(problems), "the recipe schema",
                         "`med42 check tiny --json` shows a whole recipe with every key.") from error
    check_pins(recipe, path)
    return recipe


def _describe(problem: Any) -> str:
    key = ".".join(str(step) for step in problem["loc"] if step not in ("hub", "file", "bucket", "invented", "random"))
    if problem["type"] == "value_error":
        return f"{key or 'top level'}: {problem['ctx']['error']}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {problem['input']!r} ({problem['msg'][0].lower()}{problem['msg'][1:]})"
