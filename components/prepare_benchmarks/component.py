"""Read the benchmark rows that models are scored on and training text is searched for."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Metrics, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def prepare_benchmarks(recipe: str, run: str, store: str, data_root: str, benchmarks: Output[Dataset], metrics: Output[Metrics], page: Output[HTML]) -> None:
    """Read every benchmark of the recipe once, for decontamination and evaluation alike.

    Args:
        recipe: The resolved recipe as JSON.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        data_root: Folder in which files of the recipe are looked up; empty for none.
        benchmarks: The questions of all benchmarks.
        metrics: Counts.
        page: The account as a page.
    """
    from pathlib import Path

    from med42.evaluation.prepare_benchmarks import prepare_benchmarks as stage
    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe

    job = Job(run, Path(store) if store else None)
    record = stage(parse_recipe(recipe), Path(benchmarks.path), job, Path(data_root) if data_root else None)
    show(record, benchmarks, page, metrics)
