"""Fine-tune the base model on packed chunks."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def train_sft(
    job_file: Input[Artifact], base: Input[Model], packed: Input[Dataset], model: Output[Model], metrics: Output[Metrics],
    page: Output[HTML],
) -> None:
    """Supervised fine-tuning, with the loss on the assistant's tokens only.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        base: The base model.
        packed: Chunks packed with its tokenizer.
        model: The fine-tuned model.
        metrics: Steps and losses.
        page: Loss, learning rate and gradient norm as curves.
    """
    from pathlib import Path

    from med42.cluster.train_job import on_nodes
    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show
    from med42.training.train_sft import train_sft as stage

    recipe, job = read_job(job_file.path)
    record = stage(recipe, Path(base.path), Path(packed.path), Path(model.path), job, on_nodes())
    show(record, model, page, metrics)
