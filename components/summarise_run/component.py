"""Sum up a run on one page."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Markdown, Metrics, Output

from components.images import RELEASE


@dsl.component(base_image=RELEASE, install_kfp_package=False)
def summarise_run(
    job_file: Input[Artifact], scores: Input[Artifact], decision: Input[Artifact], sealed: str, summary: Output[Markdown],
    metrics: Output[Metrics],
) -> None:
    """Say what came out of a run: verdict, scores beside the base model's, and the bundle that proves them.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        scores: The last scores, with those of the models before.
        decision: The verdict of every gate.
        sealed: The bundle's name and the digest of its record.
        summary: The page.
        metrics: The last model's scores, and whether it was approved.
    """
    from pathlib import Path

    from med42.lineage.journal import read_job
    from med42.lineage.outputs import log
    from med42.release.summarise_run import summarise_run as stage

    recipe, job = read_job(job_file.path)
    values = stage(recipe, Path(scores.path), Path(decision.path), sealed, Path(summary.path), job)
    log(metrics, values)
