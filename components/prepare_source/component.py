"""Turn one source's rows into conversations."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Metrics, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def prepare_source(
    recipe: str, name: str, run: str, store: str, data_root: str, conversations: Output[Dataset], metrics: Output[Metrics], page: Output[HTML]
) -> None:
    """Read one source of the recipe and keep each row as a conversation, or the reason why not.

    Args:
        recipe: The resolved recipe as JSON.
        name: The source's key in the recipe.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        data_root: Folder in which files of the recipe are looked up; empty for none.
        conversations: Conversations, the rows left out, and the account of both.
        metrics: Counts.
        page: The account as a page.
    """
    from pathlib import Path

    from med42.data.prepare_source import prepare_source as stage
    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe

    job = Job(run, Path(store) if store else None)
    record = stage(parse_recipe(recipe), name, Path(conversations.path), job, Path(data_root) if data_root else None)
    show(record, conversations, page, metrics)
