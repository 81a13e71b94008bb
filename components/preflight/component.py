"""Check a recipe against the machine and its services before any work."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Markdown, Output

from components.images import RELEASE


@dsl.component(base_image=RELEASE, install_kfp_package=False)
def preflight(
    recipe: str, overrides: str, shape: str, job_name: str, run: str, store: str, data_root: str, push_to: str, verdicts: Output[Markdown], page: Output[HTML]
) -> NamedTuple("Checked", [("recipe", str), ("run", str)]):  # type: ignore[valid-type]
    """Apply the overrides, check everything that can be checked in seconds, and hand on the resolved recipe.

    Args:
        recipe: The recipe as JSON.
        overrides: Changes to it, as `key.path=value`, separated by blanks or line breaks.
        shape: What of the recipe is built into this pipeline.
        job_name: The engine's name of this run.
        run: Name of this run in records; empty for the engine's.
        store: Folder of finished artifacts to use again; empty for none.
        data_root: Folder in which files of the recipe are looked up; empty for none.
        push_to: Where to push instead of the recipe's place; empty for the recipe's.
        verdicts: The table of checks.
        page: The table of checks as a page.

    Returns:
        recipe: The resolved recipe as JSON.
        run: The run's name.
    """
    import shlex
    from pathlib import Path

    from med42 import preflight as checks
    from med42.lineage.journal import Job
    from med42.recipe import dump_recipe, parse_recipe

    job = Job(run or job_name, Path(store) if store else None)
    resolved = parse_recipe(recipe, shlex.split(overrides))
    with job.telling("preflight") as facts:
        results = checks.preflight(resolved, shape, Path(data_root) if data_root else None, Path(store or verdicts.path), push_to)
        Path(verdicts.path).write_text(checks.as_markdown(results))
        Path(page.path).write_text(checks.as_page(resolved, results))
        checks.refuse_failures(results)
        facts["summary"] = f"{len(results)} checks passed"
    return (dump_recipe(resolved), job.run)  # type: ignore[return-value]
