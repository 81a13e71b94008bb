"""Mix the sources into one training set."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def mix_data(
    job_file: Input[Artifact], sources: Input[list[Dataset]], benchmarks: Input[Dataset], mix: Output[Dataset],
    metrics: Output[Metrics], page: Output[HTML],
) -> None:
    """Take each source's share, without duplicates across sources and without benchmark text.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        sources: The prepared sources.
        benchmarks: The benchmark rows that must not be trained on.
        mix: The training set, the rows left out, and the account of both.
        metrics: Counts.
        page: Shares and account as a page.
    """
    from pathlib import Path

    from med42.data.mix_data import mix_data as stage
    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show

    recipe, job = read_job(job_file.path)
    record = stage(recipe, [Path(source.path) for source in sources], Path(benchmarks.path), Path(mix.path), job)
    show(record, mix, page, metrics)
