"""Build the preference pairs of one DPO round."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def build_preferences(
    recipe: str, round_number: int, run: str, store: str, data_root: str, base: Input[Model], benchmarks: Input[Dataset], preferences: Output[Dataset],
    metrics: Output[Metrics], page: Output[HTML],
) -> None:
    """Read the round's preference sets and keep each pair, or the reason why not.

    Args:
        recipe: The resolved recipe as JSON.
        round_number: Which round of the recipe, from 1.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        data_root: Folder in which files of the recipe are looked up; empty for none.
        base: The base model, for its tokenizer.
        benchmarks: The benchmark rows that must not be trained on.
        preferences: Pairs as text and token ids, and the pairs held out for measuring.
        metrics: Counts.
        page: The account as a page.
    """
    from pathlib import Path

    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.preferences.build_preferences import build_preferences as stage
    from med42.recipe import parse_recipe

    job, root = Job(run, Path(store) if store else None), Path(data_root) if data_root else None
    record = stage(parse_recipe(recipe), round_number, Path(base.path), Path(benchmarks.path), Path(preferences.path), job, root)
    show(record, preferences, page, metrics)
