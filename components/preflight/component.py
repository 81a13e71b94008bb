"""Check a recipe against the machine and its services before any work."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Markdown, Output

from components.images import RELEASE


@dsl.component(base_image=RELEASE, install_kfp_package=False)
def preflight(
    recipe: str, overrides: str, shape: str, run: str, run_of_engine: str, store: str, data_root: str, push_to: str,
    job_file: Output[Artifact], verdicts: Output[Markdown], page: Output[HTML],
) -> None:
    """Apply the overrides, check in seconds what can be checked, and hand recipe and places to every stage.

    Args:
        recipe: The recipe as JSON.
        overrides: Changes to it, as `key.path=value`, separated by blanks.
        shape: What of the recipe is built into this pipeline.
        run: Name of this run in records; empty for the engine's.
        run_of_engine: The engine's name of this run.
        store: Folder of finished artifacts to use again; empty for none.
        data_root: Folder in which files of the recipe are looked up; empty for none.
        push_to: directory:PATH or hub:OWNER/NAME; empty for the recipe's place.
        job_file: Recipe and places.
        verdicts: The table of checks.
        page: The table of checks as a page.
    """
    import shlex
    from pathlib import Path

    from med42.lineage.journal import Job, write_job
    from med42.preflight import preflight as stage
    from med42.recipe import parse_recipe

    job = Job(run or run_of_engine, Path(store) if store else None, Path(data_root) if data_root else None, push_to)
    resolved = parse_recipe(recipe, shlex.split(overrides))
    stage(resolved, shape, job, Path(verdicts.path), Path(page.path))
    write_job(Path(job_file.path), resolved, job)
