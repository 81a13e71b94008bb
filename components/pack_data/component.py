"""Tokenise the mix and pack it into chunks."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def pack_data(
    recipe: str, run: str, store: str, mix: Input[Dataset], base: Input[Model], packed: Output[Dataset], metrics: Output[Metrics], page: Output[HTML]
) -> None:
    """Tokenise conversations with labels on the assistant's tokens and pack them into chunks of equal length.

    Args:
        recipe: The resolved recipe as JSON.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        mix: The training set.
        base: The base model, for its tokenizer.
        packed: Chunks of token ids and labels.
        metrics: Counts and fill.
        page: The account as a page.
    """
    from pathlib import Path

    from med42.data.pack_data import pack_data as stage
    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe

    job = Job(run, Path(store) if store else None)
    record = stage(parse_recipe(recipe), Path(mix.path), Path(base.path), Path(packed.path), job)
    show(record, packed, page, metrics)
