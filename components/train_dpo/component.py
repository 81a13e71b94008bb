"""Train one round of direct preference optimisation."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def train_dpo(
    recipe: str, round_number: int, run: str, store: str, policy: Input[Model], preferences: Input[Dataset], model: Output[Model], metrics: Output[Metrics],
    page: Output[HTML],
) -> None:
    """One round of DPO: start and reference are both the model of the round before.

    Args:
        recipe: The resolved recipe as JSON.
        round_number: Which round of the recipe, from 1.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        policy: The model of the round before (round 1: the SFT model).
        preferences: The round's pairs.
        model: The model after this round.
        metrics: Losses, margins and accuracy, on held-out pairs too.
        page: The same as curves.
    """
    from pathlib import Path

    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe
    from med42.training.train_dpo import train_dpo as stage

    job = Job(run, Path(store) if store else None)
    record = stage(parse_recipe(recipe), round_number, Path(policy.path), Path(preferences.path), Path(model.path), job)
    show(record, model, page, metrics)
