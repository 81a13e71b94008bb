"""Compiling a recipe's pipeline."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

from med42.cluster.image_lock import ImageLock
from med42.cluster.profile import Profile
from med42.errors import Med42Error
from med42.recipe import Recipe


def compile_recipe(recipe: Recipe, profile: Profile, output: Path, images: ImageLock | None) -> int:
    """Write the pipeline as Kubeflow's intermediate representation, the same bytes for the same recipe.

    Its images are those of the lock, by digest; without one, by tags that a registry may move.

    Returns:
        Bytes written.

    Raises:
        Med42Error: kfp is not installed, or the file cannot be written.
    """
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    try:
        from kfp import compiler
    except ModuleNotFoundError as error:
        raise Med42Error("kfp", "not installed", "kfp and kfp-kubernetes 2.17.0",
                         "Install this package with its extra 'pipeline'.") from error
    from pipelines.med42_v2 import med42_v2

    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "pipeline.yaml"
        compiler.Compiler().compile(med42_v2(recipe, profile, images), str(written))
        content = written.read_bytes()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(content)
    except OSError as error:
        raise Med42Error(output, error.strerror or str(error), "a file that can be written", "Choose another place.") from error
    return len(content)
