"""What `med42 audit replay` prints: how to make a release again, exactly, and what of it can no longer be had here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from med42 import __version__
from med42.errors import Med42Error
from med42.lineage.bundle import Bundle
from med42.lineage.digest import file_digest
from med42.lineage.provenance import code_digest, package_versions
from med42.recipe import parse_recipe, recipe_digest
from med42.recipe.lock import SCHEMA, lock_path

# The layer that each stage's code digest is of.
STAGE_LAYERS = {"prepare_source": "data", "mix_data": "data", "pack_data": "data", "prepare_benchmarks": "evaluation",
                "prepare_base": "training", "train_sft": "training", "train_dpo": "training", "build_preferences": "preferences",
                "sample_answers": "training", "score_answers": "training", "pair_answers": "preferences",
                "evaluate_model": "evaluation", "decide_release": "release", "push_model": "release"}


def write_replay(bundle: Bundle, folder: Path) -> tuple[Path, Path]:
    """Write the recipe and its lock file into a folder; returns both.

    Raises:
        Med42Error: the folder holds other files of these names, or cannot be written.
    """
    told = json.loads(bundle.recipe)
    pins = told.pop("pins", {})
    name = str(told["name"])
    recipe = folder / f"{name}.yaml"
    lock = lock_path(recipe)
    files = {recipe: told, lock: {"schema": SCHEMA, "pins": {key: _plain(pin) for key, pin in pins.items()}}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, values in files.items():
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
            if path.exists() and path.read_text(encoding="utf-8") != text:
                raise Med42Error(path, "another file", "none, or the same one", "Choose another folder; nothing is overwritten.")
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Med42Error(error.filename or folder, error.strerror or str(error), "a folder that can be written",
                         "Choose another.") from error
    return recipe, lock


def gone(bundle: Bundle, data_root: Path | None) -> Iterator[str]:
    """What differs here from what the release was made with: version, code, packages, files; one line each."""
    if bundle.index["version"] != __version__:
        yield f"med42 {bundle.index['version']} sealed it; this is {__version__}"
    for stage, layer in STAGE_LAYERS.items():
        digests = {record.code for record in bundle.of_stage(stage)}
        if digests and digests != {code_digest(layer)}:
            then = ", ".join(sorted(digest[:16] for digest in digests))
            yield f"the source of {stage} is another: {then}; here {code_digest(layer)[:16]}"
    for name, version in sorted({item for record in bundle.records.values() for item in record.packages.items()}):
        found = _installed(name)
        if found != version:
            yield f"package {name} {version}; here {found or 'none'}"
    try:
        if recipe_digest(parse_recipe(bundle.recipe.decode())) != bundle.index["recipe_digest"]:
            yield "the recipe resolves to another digest here: this version has other keys"
    except Med42Error as error:
        yield f"the recipe cannot be read by this version: {error}"
    yield from _missing_files(json.loads(bundle.recipe), data_root)


def sought(bundle: Bundle) -> Iterator[str]:
    """What must be fetched to make it again, which cannot be told offline: repositories, buckets, images."""
    recipe = json.loads(bundle.recipe)
    for key, pin in sorted(recipe.get("pins", {}).items()):
        if pin["of"]["kind"] != "file":
            yield f"{key}: {pin['of'].get('repo') or pin['of'].get('url')} at {pin.get('revision') or 'the pinned generations'}"
    for image in sorted({record.made.image for record in bundle.records.values() if record.made.image}):
        yield f"image {image}"


def _missing_files(recipe: dict[str, Any], data_root: Path | None) -> Iterator[str]:
    for key, pin in sorted(recipe.get("pins", {}).items()):
        if pin["of"]["kind"] == "file":
            for name, digest in sorted(pin["files"].items()):
                path = data_root / name if data_root else None
                if path is None:
                    yield f"{key}: {name} is not looked for (give --data-root)"
                elif not path.is_file():
                    yield f"{key}: {name} is gone from {data_root}"
                elif file_digest(path) != digest:
                    yield f"{key}: {name} has changed"


def _installed(name: str) -> str:
    import importlib.metadata

    try:
        return package_versions((name,))[name]
    except importlib.metadata.PackageNotFoundError:
        return ""


def _plain(pin: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in pin.items() if value not in (None, {})}
