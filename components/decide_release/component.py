"""Hold the last model's scores against the recipe's gates."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Output

from components.images import RELEASE


@dsl.component(base_image=RELEASE, install_kfp_package=False)
def decide_release(recipe: str, run: str, store: str, scores: Input[Artifact], decision: Output[Artifact], page: Output[HTML]) -> bool:
    """Approve or refuse the model behind the last scores.

    Args:
        recipe: The resolved recipe as JSON.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        scores: The last scores, with those of the models before.
        decision: The verdict of every gate.
        page: The verdicts as a page.

    Returns:
        Whether every gate is met.
    """
    from pathlib import Path

    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe
    from med42.release.decide_release import decide_release as stage

    record = stage(parse_recipe(recipe), Path(scores.path), Path(decision.path), Job(run, Path(store) if store else None))
    show(record, decision, page)
    return bool(record.measured["approved"])
