"""The command line: `recipes`, `check`, `plan`, `lock`, `run`, `compile`, and `audit ...` (see `med42.cli.audit`).

Nothing here needs torch, and only `run` and `compile` need kfp.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from med42.cli.audit import audit
from med42.cli.terminal import console, told_plainly
from med42.recipe import dump_recipe, load_recipe, recipe_digest, shipped_recipes

app = typer.Typer(help="Open, provable post-training of clinical language models.", no_args_is_help=True, add_completion=False)
app.add_typer(audit, name="audit")

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a *.yaml file.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, as sft.steps=100. May be repeated.")
]


@app.command()
def recipes() -> None:
    """List the recipes that come with the package."""
    table = Table("recipe", "base", "sources", "rounds", "what it is", box=None, header_style="dim")
    for name in shipped_recipes():
        recipe = load_recipe(name)
        base = recipe.base.repo if recipe.base.kind == "hub" else f"random, {recipe.base.layers} layers"
        table.add_row(name, base, str(len(recipe.sources)), str(len(recipe.dpo.rounds)), recipe.title)
    console().print(table)


@app.command()
def check(
    recipe: RecipeArgument,
    changes: SetOption = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print the resolved recipe as JSON instead.")] = False,
) -> None:
    """Check a recipe and print what follows from it, beside what the paper says."""
    from med42.cli.check import print_check

    with told_plainly():
        resolved = load_recipe(recipe, changes)
        if as_json:
            print(json.dumps(json.loads(dump_recipe(resolved)), indent=1))
        else:
            print_check(resolved, console())


@app.command()
def plan(
    recipe: RecipeArgument,
    changes: SetOption = [],  # noqa: B006
    accelerators: Annotated[Path | None, typer.Option(help="Your own table of GPUs and prices.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Reckon memory, time, cost and traffic of a recipe's trainings; exit with 1 where one does not fit its GPUs."""
    from med42.cli.plan import print_plan
    from med42.training.planning import load_accelerators

    with told_plainly():
        fits = print_plan(load_recipe(recipe, changes), load_accelerators(accelerators), as_json, console())
    raise typer.Exit(0 if fits else 1)


@app.command()
def lock(
    recipe: RecipeArgument,
    changes: SetOption = [],  # noqa: B006
    data_root: Annotated[Path | None, typer.Option(help="Folder of the recipe's files, to lock these too.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write, instead of the one that is read.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 where the lock file says something else.")] = False,
) -> None:
    """Pin every dataset, benchmark and base model to a commit and the digests of its files, in a file beside the recipe."""
    from med42.cli.lock import lock_recipe
    from med42.recipe.lock import lock_path

    with told_plainly():
        resolved = load_recipe(recipe, changes, locked=False)
        same = lock_recipe(resolved, output or lock_path(recipe), data_root, check, console())
    raise typer.Exit(1 if check and not same else 0)


@app.command()
def run(
    recipe: RecipeArgument,
    changes: SetOption = [],  # noqa: B006
    runner: Annotated[str, typer.Option(help="Where stages run on this machine: subprocess or docker.")] = "subprocess",
    work: Annotated[Path, typer.Option(help="Folder of runs and of finished artifacts.")] = Path("work"),
    data_root: Annotated[Path | None, typer.Option(help="Folder in which the recipe's files are looked up.")] = None,
    push_to: Annotated[str, typer.Option(help="directory:PATH or hub:OWNER/NAME, instead of the recipe's place.")] = "",
    images: Annotated[Path | None, typer.Option(help="For docker: use the images that this lock file names, not those built here.")] = None,
    profile: Annotated[str, typer.Option(help="For docker: memory and GPUs, by a cluster profile.")] = "default",
    allow_unlocked: Annotated[bool, typer.Option("--allow-unlocked", help="Read what has no pin as it is found: unlocked=allow.")] = False,
    until: Annotated[str, typer.Option(metavar="STAGE", help="Make this stage the last, as pack_data; nothing is released.")] = "",
) -> None:
    """Run a whole recipe on this machine, through the components that run on a cluster."""
    from med42.cli.run import Runner, Where, run_recipe
    from med42.cluster.image_lock import load_image_lock
    from med42.cluster.profile import load_profile
    from med42.lineage.provenance import stages_digest

    with told_plainly():
        where = Where(Runner(runner), load_profile(profile), load_image_lock(images, stages_digest()) if images else None)
        resolved = load_recipe(recipe, [*changes, *["unlocked=allow"] * allow_unlocked])
        passed = run_recipe(resolved, where, work, data_root, push_to, until, console())
    raise typer.Exit(0 if passed else 1)


@app.command("compile")
def compile_(
    recipe: RecipeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    changes: SetOption = [],  # noqa: B006
    profile: Annotated[str, typer.Option(help="A shipped cluster profile's name, or a *.yaml file.")] = "default",
    images: Annotated[Path, typer.Option(help="The digests of pushed images.")] = Path("images/digests.lock"),
    allow_tags: Annotated[bool, typer.Option("--allow-tags", help="Name images by tags, which a registry may move.")] = False,
) -> None:
    """Compile a recipe into a pipeline for Kubeflow, with its images by digest."""
    from med42.cli.compile import compile_recipe
    from med42.cluster.image_lock import load_image_lock
    from med42.cluster.profile import load_profile
    from med42.lineage.provenance import stages_digest

    with told_plainly():
        resolved = load_recipe(recipe, changes)
        lock = None if allow_tags else load_image_lock(images, stages_digest())
        size = compile_recipe(resolved, load_profile(profile), output, lock)
        console().print(f"{output}: {size:,} bytes, recipe {recipe_digest(resolved)[:12]}, profile {profile}")
