"""The lock file of a recipe: which commit and which bytes each of its origins was found to be.

It lies beside the recipe's file, or, for a shipped recipe, in the current folder: `my.yaml` and `my.lock`, `llama3-8b.lock`.
Reading a recipe lays it into `pins`, so that the recipe's digest covers it and that it travels wherever the recipe does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from med42.errors import Med42Error
from med42.recipe.schema import BucketOrigin, FileOrigin, HubBase, HubOrigin, Origin, Pin, Recipe

SCHEMA = 1
SUFFIX = ".lock"
AGAIN = "Run `med42 lock` again, with the same --set."

# What of a model's repository is the model. Other formats of the same weights lie beside these, or in folders.
MODEL_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
               "tokenizer_config.json", "special_tokens_map.json", "LICENSE*", "USE_POLICY*"]


def lock_path(name_or_path: str | Path) -> Path:
    """Where the lock file of a recipe lies: `my.lock` beside `my.yaml`; `NAME.lock` in the current folder for a shipped name."""
    path = Path(name_or_path)
    return path.with_suffix(SUFFIX) if path.suffix in (".yaml", ".yml") else Path(f"{name_or_path}{SUFFIX}")


def lockable(recipe: Recipe) -> dict[str, HubOrigin | FileOrigin | BucketOrigin]:
    """Everything of a recipe that can be pinned, by key: `base`, `sources.x`, `sources.x.labels`, `preferences.x`, ..."""
    origins: dict[str, Origin | None] = {}
    if isinstance(recipe.base, HubBase):
        origins["base"] = HubOrigin(kind="hub", repo=recipe.base.repo, revision=recipe.base.revision, files=MODEL_FILES)
    for name, source in recipe.sources.items():
        origins |= {f"sources.{name}": source.origin, f"sources.{name}.labels": source.labels}
    origins |= {f"preferences.{name}": preference.origin for name, preference in recipe.preferences.items()}
    origins |= {f"evaluation.benchmarks.{name}": benchmark.origin for name, benchmark in recipe.evaluation.benchmarks.items()}
    return {key: origin for key, origin in sorted(origins.items()) if isinstance(origin, (HubOrigin, FileOrigin, BucketOrigin))}


def pin_of(recipe: Recipe, key: str, origin: HubOrigin | FileOrigin | BucketOrigin) -> Pin | None:
    """The pin of an origin; None for one that is read as it is found.

    Args:
        recipe: the recipe with its pins.
        key: the origin's key, as `sources.x`, `sources.x.origin` or `sources.x.labels`.
        origin: the origin as the recipe now has it.

    Raises:
        Med42Error: it was another origin when it was locked; or it is a hub's or bucket's and has no pin, and the recipe
            does not allow that.
    """
    key = key.removesuffix(".origin")
    pin = recipe.pins.get(key)
    if pin is not None and pin.of != origin:
        raise Med42Error(f"pins.{key}", f"a pin of {described(pin.of)}", f"one of {described(origin)}, which the recipe now names", AGAIN)
    if pin is None and not isinstance(origin, FileOrigin) and recipe.unlocked == "refuse":
        raise Med42Error(key, f"{described(origin)} without a pin", "a commit or generation, with the digests of the files",
                         "Lock the recipe with `med42 lock`, or run with --allow-unlocked (`unlocked: allow` in the recipe).")
    return pin


def check_pins(recipe: Recipe, where: object) -> None:
    """See that every pin still belongs to an origin of the recipe.

    Raises:
        Med42Error: an origin is gone, or is another one.
    """
    origins = lockable(recipe)
    for key, pin in recipe.pins.items():
        if key not in origins:
            raise Med42Error(f"{where}: pins.{key}", f"a pin of {described(pin.of)}", "one of something that the recipe names", AGAIN)
        pin_of(recipe, key, origins[key])


def described(origin: HubOrigin | FileOrigin | BucketOrigin) -> str:
    """An origin in a few words."""
    files = ", ".join(origin.files[:3]) + (f" and {len(origin.files) - 3} more" if len(origin.files) > 3 else "")
    match origin:
        case HubOrigin():
            return f"{origin.repo}@{origin.revision} ({files})"
        case BucketOrigin():
            return f"{origin.url} ({files})"
    return files


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins of a lock file; none if there is no such file.

    Raises:
        Med42Error: what is there is no lock file of this schema.
    """
    if not path.exists():
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("schema") != SCHEMA or not isinstance(values.get("pins"), dict):
            raise ValueError(f"no mapping of 'schema: {SCHEMA}' and 'pins'")
        return {str(key): Pin.model_validate(value) for key, value in values["pins"].items()}
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, ValidationError, OSError) as error:
        raise Med42Error(path, f"a file that is no lock ({' '.join(str(error).split())[:300]})", f"a lock file of schema {SCHEMA}",
                         "Restore it, or remove it and run `med42 lock` again.") from error


def write_lock(path: Path, recipe: str, pins: dict[str, Pin]) -> None:
    """Write a lock file, sorted, one line a file, whole or not at all."""
    values = {"schema": SCHEMA, "pins": {key: _plain(pin) for key, pin in sorted(pins.items())}}
    text = (f"# What each origin of {recipe} was found to be by `med42 lock`: a run reads these bytes or none.\n"
            + yaml.safe_dump(values, sort_keys=True, width=1000, allow_unicode=True))
    draft = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
            draft = handle.name
            handle.write(text)
        Path(draft).chmod(0o644)
        Path(draft).rename(path)
    except OSError as error:
        raise Med42Error(path, error.strerror or str(error), "a file that can be written", "Choose another place with -o FILE.") from error
    finally:
        if draft:
            Path(draft).unlink(missing_ok=True)


def _plain(pin: Pin) -> dict[str, Any]:
    """A pin without the parts that it does not have."""
    return {key: value for key, value in pin.model_dump(mode="json").items() if value not in (None, {})}
