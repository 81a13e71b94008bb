"""Seal the audit bundle."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Output

from components.images import RELEASE


@dsl.component(base_image=RELEASE, install_kfp_package=False)
def seal_audit(recipe: str, run: str, store: str, subject: Input[Artifact], bundle: Output[Artifact], page: Output[HTML]) -> None:
    """Put every record behind a release, or behind a refusal, into one file that checks itself.

    Args:
        recipe: The resolved recipe as JSON.
        run: Name of this run in records.
        store: Folder of finished artifacts to use again; empty for none.
        subject: The release, or the decision against one.
        bundle: The bundle.
        page: The bundle for people.
    """
    from pathlib import Path

    from med42.lineage.journal import Job
    from med42.lineage.outputs import show
    from med42.recipe import parse_recipe
    from med42.release.seal_audit import seal_audit as stage

    record = stage(parse_recipe(recipe), Path(subject.path), Path(bundle.path), Job(run, Path(store) if store else None))
    show(record, bundle, page)
