"""The command line: what the recipe commands do stands here, `audit ...` in `med42.cli.audit`.

Nothing here needs torch, and only `run`, `compile` and `submit` need kfp.
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
def paper(
    table: Annotated[str, typer.Option(help="Which table of the paper, 1 to 5.")] = "4",
    as_json: Annotated[bool, typer.Option("--json", help="Print all of them as JSON instead.")] = False,
) -> None:
    """Print the paper's results (Table 4), their averages worked out again, and what does not reproduce."""
    from med42.cli.paper import print_paper

    with told_plainly():
        print_paper(table, as_json, console())


@app.command()
def compare(
    scores: Annotated[list[Path], typer.Argument(metavar="SCORES...", help="Folders of scores, as evaluate_model left them.")],
    base: Annotated[str, typer.Option(help="The model that the others are compared with.")] = "base",
    model: Annotated[str, typer.Option(help="One of the paper's, as Med42-Llama3-8B, whose gains stand beside ours.")] = "",
    markdown: Annotated[Path | None, typer.Option(help="Write the table as Markdown, too.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with a plot, too.")] = None,
) -> None:
    """Compare models on the same questions: gains over a base with 95% intervals and McNemar's test, beside the paper's."""
    from med42.cli.paper import print_comparison

    with told_plainly():
        print_comparison(scores, base, model, markdown, html, console())


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
def impact(
    names: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE]...", help="Recipes; all shipped ones if none is named.")] = None,
    base: Annotated[str, typer.Option(help="The commit, branch or tag to compare with.")] = "main",
    accelerators: Annotated[Path | None, typer.Option(help="Your own table of GPUs and prices.")] = None,
) -> None:
    """Tell what has changed since a commit, as Markdown for a review: mix, tokens, licences, cost, stages that are made again."""
    from med42.cli.impact import impact as told_of
    from med42.training.planning import load_accelerators

    with told_plainly():
        print(told_of(names or shipped_recipes(), base, load_accelerators(accelerators)), end="")


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
    form: Annotated[str, typer.Option("--format", help="ir, which Kubeflow's pages upload; or manifest, which kubectl applies.")] = "ir",
    namespace: Annotated[str, typer.Option(help="Of a manifest's objects, instead of the profile's.")] = "",
    allow_tags: Annotated[bool, typer.Option("--allow-tags", help="Name images by tags, which a registry may move.")] = False,
) -> None:
    """Compile a recipe into a pipeline for Kubeflow, with its images by digest; refuse one that does not fit the cluster."""
    from med42.cli.compile import Format, compile_pipeline, print_placed, write_compiled
    from med42.cluster.image_lock import load_image_lock
    from med42.cluster.profile import load_profile
    from med42.lineage.provenance import stages_digest

    with told_plainly():
        written_as, resolved = Format(form), load_recipe(recipe, changes)
        lock = None if allow_tags else load_image_lock(images, stages_digest())
        compiled = compile_pipeline(resolved, load_profile(profile), lock, namespace)
        size = write_compiled(compiled, written_as, output)
        print_placed(compiled, console())
        console().print(f"{output}: {compiled.version}, {size:,} bytes, recipe {recipe_digest(resolved)[:12]}, profile {profile}")


@app.command()
def submit(
    requests: Annotated[list[Path], typer.Argument(metavar="REQUEST...", help="Requests of runs, as runs/*.yaml.")],
    host: Annotated[str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Kubeflow Pipelines' address; else the cluster's own.")] = "",
    namespace: Annotated[str, typer.Option(help="On a server for several users.")] = "",
    token_file: Annotated[Path | None, typer.Option(help="A token, instead of the service account's.")] = None,
    authority: Annotated[Path | None, typer.Option(help="Certificates of your own authority.")] = None,
    pipeline: Annotated[Path | None, typer.Option(help="A compiled pipeline to register where it is not there, and to run.")] = None,
    service_account: Annotated[str, typer.Option(help="Of the run's pods; else Kubeflow's own.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look, and start nothing.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Follow each run to its end; exit with 1 where it does not end well.")] = False,
) -> None:
    """Submit each request that has no run yet, once, however often and from wherever it is asked for."""
    from med42.cli.submit import submit_requests
    from med42.cluster.submit import connect

    with told_plainly():
        server = connect(host, namespace, token_file, authority)
        well = submit_requests(requests, server, pipeline, service_account, dry_run, follow, console())
    raise typer.Exit(0 if well else 1)
