"""Push an approved model."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Model, Output

from components.images import RELEASE


@dsl.component(base_image=RELEASE, install_kfp_package=False)
def push_model(
    recipe: str, push_to: str, run: str, store: str, model: Input[Model], decision: Input[Artifact], release: Output[Artifact], page: Output[HTML]
) -> None:
    """Push the model with its card and record to a folder or a hub, and read it back.

    Args:
        recipe: The resolved recipe as JSON.
        push_to: directory:PATH or hub:OWNER/NAME; empty for the recipe's place.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        model: The model.
        decision: The decision, which must approve it.
        release: What was pushed and where.
        page: The same as a page.
    """
    from pathlib import Path

    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe
    from med42.release.push_model import push_model as stage

    job = Job(run, Path(store) if store else None)
    record = stage(parse_recipe(recipe), Path(model.path), Path(decision.path), Path(release.path), job, push_to)
    show(record, release, page)
