"""Tokenise the mix and pack it into chunks."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def pack_data(
    job_file: Input[Artifact], mix: Input[Dataset], base: Input[Model], packed: Output[Dataset], metrics: Output[Metrics],
    page: Output[HTML],
) -> None:
    """Tokenise conversations with labels on the assistant's tokens and pack them into chunks of equal length.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        mix: The training set.
        base: The base model, for its tokenizer.
        packed: Chunks of token ids and labels.
        metrics: Counts and fill.
        page: The account as a page.
    """
    from pathlib import Path

    from med42.data.pack_data import pack_data as stage
    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show

    recipe, job = read_job(job_file.path)
    record = stage(recipe, Path(mix.path), Path(base.path), Path(packed.path), job)
    show(record, packed, page, metrics)
