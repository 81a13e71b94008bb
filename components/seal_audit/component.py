"""Seal the audit bundle."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Output

from components.images import RELEASE


@dsl.component(base_image=RELEASE, install_kfp_package=False)
def seal_audit(job_file: Input[Artifact], subject: Input[Artifact], bundle: Output[Artifact], page: Output[HTML]) -> str:
    """Put every record behind a release, or behind a refusal, into one file that checks itself.

    Args:
        job_file: Recipe and places, as preflight wrote them.
        subject: The release, or the decision against one.
        bundle: The bundle.
        page: The bundle for people.

    Returns:
        The bundle's name and the digest of its record.
    """
    from pathlib import Path

    from med42.lineage.journal import read_job
    from med42.lineage.outputs import show
    from med42.release.seal_audit import seal_audit as stage

    recipe, job = read_job(job_file.path)
    record = stage(recipe, Path(subject.path), Path(bundle.path), job)
    show(record, bundle, page)
    return f"{record.measured['bundle']} {record.digest}"
