"""Train one round of direct preference optimisation."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def train_dpo(
    job_file: Input[Artifact], round_number: int, policy: Input[Model], preferences: Input[Dataset], sft: Input[Model],
    model: Output[Model], metrics: Output[Metrics], page: Output[HTML],
) -> None:
    """One round of DPO: start and reference are both the model of the round before.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        round_number: Which round of the recipe, from 1.
        policy: The model of the round before (round 1: the SFT model).
        preferences: The round's pairs.
        sft: The SFT model, to tell how far this round's model has gone from it.
        model: The model after this round.
        metrics: Losses, margins and accuracy, on held-out pairs too.
        page: The round as a card, answers before and after, and curves over all rounds up to it.
    """
    from pathlib import Path

    from med42.cluster.train_job import on_nodes
    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show
    from med42.training.train_dpo import train_dpo as stage

    recipe, job = read_job(job_file.path)
    record = stage(recipe, round_number, Path(policy.path), Path(preferences.path), Path(model.path), job, Path(sft.path), on_nodes())
    show(record, model, page, metrics)
