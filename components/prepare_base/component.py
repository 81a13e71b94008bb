"""Fetch the base model, or make a random one."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def prepare_base(
    recipe: str, run: str, store: str, base: Output[Model], metrics: Output[Metrics], page: Output[HTML], mix: Input[Dataset] = None  # type: ignore[assignment]
) -> None:
    """Fetch the base model by revision; a random one gets a tokenizer that is trained on the mix.

    Args:
        recipe: The resolved recipe as JSON.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        base: Weights, configuration, tokenizer and chat template.
        metrics: Counts.
        page: The files as a page.
        mix: The training set, where the base is random.
    """
    from pathlib import Path

    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe
    from med42.training.prepare_base import prepare_base as stage

    job = Job(run, Path(store) if store else None)
    record = stage(parse_recipe(recipe), Path(mix.path) if mix else None, Path(base.path), job)
    show(record, base, page, metrics)
