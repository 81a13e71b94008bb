"""Turn one source's rows into conversations."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def prepare_source(
    job_file: Input[Artifact], name: str, conversations: Output[Dataset], metrics: Output[Metrics], page: Output[HTML]
) -> None:
    """Read one source of the recipe and keep each row as a conversation, or the reason why not.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        name: The source's key in the recipe.
        conversations: Conversations, the rows left out, and the account of both.
        metrics: Counts.
        page: The account as a page.
    """
    from pathlib import Path

    from med42.data.prepare_source import prepare_source as stage
    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show

    recipe, job = read_job(job_file.path)
    record = stage(recipe, name, Path(conversations.path), job)
    show(record, conversations, page, metrics)
