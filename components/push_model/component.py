"""Push an approved model."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Model, Output

from components.images import RELEASE


@dsl.component(base_image=RELEASE, install_kfp_package=False)
def push_model(
    job_file: Input[Artifact], model: Input[Model], decision: Input[Artifact], release: Output[Artifact], page: Output[HTML]
) -> None:
    """Push the model with its card and record to a folder or a hub, and read it back.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        model: The model.
        decision: The decision, which must approve it.
        release: What was pushed and where.
        page: The same as a page.
    """
    from pathlib import Path

    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show
    from med42.release.push_model import push_model as stage

    recipe, job = read_job(job_file.path)
    record = stage(recipe, Path(model.path), Path(decision.path), Path(release.path), job, job.push_to)
    show(record, release, page)
