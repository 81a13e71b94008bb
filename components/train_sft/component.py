"""Fine-tune the base model on packed chunks."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def train_sft(
    recipe: str, run: str, store: str, base: Input[Model], packed: Input[Dataset], model: Output[Model], metrics: Output[Metrics], page: Output[HTML]
) -> None:
    """Supervised fine-tuning, with the loss on the assistant's tokens only.

    Args:
        recipe: The resolved recipe as JSON.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        base: The base model.
        packed: Chunks packed with its tokenizer.
        model: The fine-tuned model.
        metrics: Steps and losses.
        page: Loss, learning rate and gradient norm as curves.
    """
    from pathlib import Path

    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe
    from med42.training.train_sft import train_sft as stage

    job = Job(run, Path(store) if store else None)
    record = stage(parse_recipe(recipe), Path(base.path), Path(packed.path), Path(model.path), job)
    show(record, model, page, metrics)
