"""Mix the sources into one training set."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def mix_data(
    recipe: str, run: str, store: str, sources: Input[list[Dataset]], benchmarks: Input[Dataset], mix: Output[Dataset], metrics: Output[Metrics], page: Output[HTML]
) -> None:
    """Take each source's share, without duplicates across sources and without benchmark text.

    Args:
        recipe: The resolved recipe as JSON.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        sources: The prepared sources.
        benchmarks: The benchmark rows that must not be trained on.
        mix: The training set, the rows left out, and the account of both.
        metrics: Counts.
        page: Shares and account as a page.
    """
    from pathlib import Path

    from med42.data.mix_data import mix_data as stage
    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe

    job = Job(run, Path(store) if store else None)
    record = stage(parse_recipe(recipe), [Path(source.path) for source in sources], Path(benchmarks.path), Path(mix.path), job)
    show(record, mix, page, metrics)
