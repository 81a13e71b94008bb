"""Read the benchmark rows that models are scored on and training text is searched for."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def prepare_benchmarks(job_file: Input[Artifact], benchmarks: Output[Dataset], metrics: Output[Metrics], page: Output[HTML]) -> None:
    """Read every benchmark of the recipe once, for decontamination and evaluation alike.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        benchmarks: The questions of all benchmarks.
        metrics: Counts.
        page: The account as a page.
    """
    from pathlib import Path

    from med42.evaluation.prepare_benchmarks import prepare_benchmarks as stage
    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show

    recipe, job = read_job(job_file.path)
    record = stage(recipe, Path(benchmarks.path), job)
    show(record, benchmarks, page, metrics)
