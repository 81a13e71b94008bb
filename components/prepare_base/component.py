"""Fetch the base model, or make a random one."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def prepare_base(
    job_file: Input[Artifact], base: Output[Model], metrics: Output[Metrics], page: Output[HTML], mix: Input[Dataset] = None
) -> None:
    """Fetch the base model by revision; a random one gets a tokenizer that is trained on the mix.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        base: Weights, configuration, tokenizer and chat template.
        metrics: Counts.
        page: The files as a page.
        mix: The training set, where the base is random.
    """
    from pathlib import Path

    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show
    from med42.training.prepare_base import prepare_base as stage

    recipe, job = read_job(job_file.path)
    record = stage(recipe, Path(mix.path) if mix else None, Path(base.path), job)
    show(record, base, page, metrics)
