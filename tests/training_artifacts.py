"""What the tests of training share: tiny's artifacts, made by the stages themselves."""

from pathlib import Path

from med42.data.mix_data import mix_data
from med42.data.pack_data import pack_data
from med42.data.prepare_source import prepare_source
from med42.evaluation.prepare_benchmarks import prepare_benchmarks
from med42.lineage.journal import Job
from med42.preferences.build_preferences import build_preferences
from med42.recipe import load_recipe
from med42.training.prepare_base import prepare_base


def tiny_artifacts(folder: Path) -> dict[str, Path]:
    """The artifacts that training starts from, by name."""
    recipe, job = load_recipe("tiny"), Job("fixture")
    prepare_benchmarks(recipe, folder / "benchmarks", job)
    for name in recipe.sources:
        prepare_source(recipe, name, folder / name, job)
    mix_data(recipe, [folder / name for name in recipe.sources], folder / "benchmarks", folder / "mix", job)
    prepare_base(recipe, folder / "mix", folder / "base", job)
    pack_data(recipe, folder / "mix", folder / "base", folder / "packed", job)
    build_preferences(recipe, 1, folder / "base", folder / "benchmarks", folder / "preferences", job)
    return {name: folder / name for name in ("benchmarks", "mix", "base", "packed", "preferences")}
