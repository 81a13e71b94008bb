"""Score the answers of a round by a reward."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def score_answers(
    job_file: Input[Artifact], round_number: int, answers: Input[Dataset], scored: Output[Dataset], metrics: Output[Metrics],
    page: Output[HTML],
) -> None:
    """Give every answer a reward, by a model or a rule.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        round_number: Which round of the recipe, from 1.
        answers: Several answers a prompt.
        scored: The same with their rewards.
        metrics: Mean rewards.
        page: Best and worst answers to read.
    """
    from pathlib import Path

    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show
    from med42.training.score_answers import score_answers as stage

    recipe, job = read_job(job_file.path)
    record = stage(recipe, round_number, Path(answers.path), Path(scored.path), job)
    show(record, scored, page, metrics)
