"""Make a round's pairs of the best and the worst answer to each prompt."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.images import DATA


@dsl.component(base_image=DATA, install_kfp_package=False)
def pair_answers(
    job_file: Input[Artifact], round_number: int, scored: Input[Dataset], published: Input[Dataset], base: Input[Model],
    benchmarks: Input[Dataset], preferences: Output[Dataset], metrics: Output[Metrics], page: Output[HTML],
) -> None:
    """Pair the best with the worst answer, and keep each pair or the reason why not.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        round_number: Which round of the recipe, from 1.
        scored: Answers with their rewards.
        published: The round's published pairs; those held out for measuring stay as they are.
        base: The base model, for its tokenizer.
        benchmarks: The benchmark rows that must not be trained on.
        preferences: Pairs as text and token ids, and the pairs held out for measuring.
        metrics: Counts.
        page: The account as a page.
    """
    from pathlib import Path

    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show
    from med42.preferences.pair_answers import pair_answers as stage

    recipe, job = read_job(job_file.path)
    record = stage(recipe, round_number, Path(scored.path), Path(published.path), Path(base.path), Path(benchmarks.path),
                   Path(preferences.path), job)
    show(record, preferences, page, metrics)
