"""Score a model on every benchmark."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output

from components.images import EVALUATE


@dsl.component(base_image=EVALUATE, install_kfp_package=False)
def evaluate_model(
    job_file: Input[Artifact], label: str, model: Input[Model], benchmarks: Input[Dataset], scores: Output[Artifact],
    metrics: Output[Metrics], page: Output[HTML], earlier: Input[Artifact] = None,
) -> None:
    """Zero-shot log-likelihood scoring of whole answers, beside the models before.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        label: What this model is called, as base, sft or dpo-1.
        model: The model.
        benchmarks: The benchmark rows.
        scores: Scores by benchmark and by item, under the protocol's lock.
        metrics: One number a benchmark, and the average.
        page: Scores from model to model.
        earlier: Scores of the model before, which these continue.
    """
    from pathlib import Path

    from med42.evaluation.evaluate_model import evaluate_model as stage
    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show

    recipe, job = read_job(job_file.path)
    before = Path(earlier.path) if earlier else None
    record = stage(recipe, label, Path(model.path), Path(benchmarks.path), before, Path(scores.path), job)
    show(record, scores, page, metrics)
