"""Hold the last model's scores against the recipe's gates."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Output

from components.images import RELEASE


@dsl.component(base_image=RELEASE, install_kfp_package=False)
def decide_release(job_file: Input[Artifact], scores: Input[Artifact], decision: Output[Artifact], page: Output[HTML]) -> bool:
    """Approve or refuse the model behind the last scores.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        scores: The last scores, with those of the models before.
        decision: The verdict of every gate.
        page: The verdicts as a page.

    Returns:
        Whether every gate is met.
    """
    from pathlib import Path

    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show
    from med42.release.decide_release import decide_release as stage

    recipe, job = read_job(job_file.path)
    record = stage(recipe, Path(scores.path), Path(decision.path), job)
    show(record, decision, page)
    return bool(record.measured["approved"])
