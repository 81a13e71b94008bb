"""Let the last model answer a round's prompts, several times each."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def sample_answers(
    job_file: Input[Artifact], round_number: int, policy: Input[Model], preferences: Input[Dataset], answers: Output[Dataset],
    metrics: Output[Metrics], page: Output[HTML],
) -> None:
    """Draw answers from the model that the round starts from, in process or from a server.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        round_number: Which round of the recipe, from 1.
        policy: The model of the round before (round 1: the SFT model).
        preferences: The round's published pairs, for their prompts.
        answers: Several answers a prompt.
        metrics: Counts and lengths.
        page: Some answers to read.
    """
    from pathlib import Path

    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show
    from med42.training.sample_answers import sample_answers as stage

    recipe, job = read_job(job_file.path)
    record = stage(recipe, round_number, Path(policy.path), Path(preferences.path), Path(answers.path), job)
    show(record, answers, page, metrics)
