"""Running a recipe on this machine: the compiled pipeline's own components, one after the other.

    WORK/store/<stage>/<fingerprint>/   finished artifacts, used again by later runs
    WORK/runs/<run>/                    one run: its artifacts (hard links), log.txt, report.html, the bundle
    WORK/releases/<recipe>-<digest8>/   the pushed model, for recipes that push to a folder

A run that is started after one that failed, or that was told to stop, goes on from the last finished stage.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from med42.cli.containers import Containers, connect, handling_tasks, make_folders
from med42.cli.report import write_report
from med42.cli.screen import Screen, print_accounts, print_decision, print_scores
from med42.cli.verify import print_verdict
from med42.cli.warm import STAGES, warm_interpreter
from med42.cluster.image_lock import ImageLock
from med42.cluster.profile import Profile
from med42.errors import Med42Error
from med42.lineage.artifact import copy_file
from med42.lineage.journal import Job, read_journal
from med42.lineage.signature import find_signer
from med42.recipe import Recipe, dump_recipe, recipe_digest
from med42.recipe.derived import stages_of

# The engine passes a component's inputs on a command line, where Linux takes at most 128 KiB for one argument.
LONGEST_RECIPE = 100_000


class Runner(enum.StrEnum):
    """Where stages run on this machine."""

    SUBPROCESS = "subprocess"
    DOCKER = "docker"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise Med42Error("--runner", f"'{value}'", " or ".join(cls), "Choose one of the two.")


@dataclass(frozen=True)
class Where:
    """What stages run on: the runner and, in containers, the pools' limits and the images."""

    runner: Runner
    profile: Profile
    images: ImageLock | None = None


@dataclass(frozen=True)
class Place:
    """Where a run keeps its things."""

    work: Path
    run: str

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.work / "runs" / self.run

    @property
    def log(self) -> Path:
        """Everything that stages and engine print."""
        return self.folder / "log.txt"


def run_recipe(recipe: Recipe, where: Where, work: Path, data_root: Path | None, push_to: str, until: str, console: Console) -> bool:
    """Run a recipe and print what came out.

    Args:
        recipe: the resolved recipe.
        where: what stages run on.
        work: folder of runs and of finished artifacts.
        data_root: folder in which the recipe's files are looked up.
        push_to: `directory:PATH` or `hub:OWNER/NAME`, instead of the recipe's place; empty for that.
        until: the last stage; empty for the whole recipe, to a sealed bundle.
        console: where to print.

    Returns:
        Whether the run's bundle and all its artifacts verify; True for a run that stopped where it was told to.

    Raises:
        Med42Error: something a person can mend, with the stage that found it.
    """
    started = datetime.datetime.now(datetime.UTC)
    until = _known_stage(recipe, until)
    name = f"{recipe.name}-{recipe_digest(recipe)[:8]}"
    place = Place(work.absolute(), f"{name}-{started:%Y%m%dT%H%M%S}-{os.getpid()}")
    if until or (recipe.push.kind == "directory" and not push_to):  # a run that stops early needs no right to push
        push_to = f"directory:{place.work / 'releases' / name}"
    arguments = {
        "push_to": push_to, "data_root": str(data_root.absolute()) if data_root else "", "store": str(place.work / "store"),
        "run": place.run,
    }
    _check_arguments(recipe, arguments)
    if recipe.audit.signed is True and not until:
        find_signer(True)  # the stages that sign are the last ones
    folders = [place.folder]
    if push_to.startswith("directory:"):
        folders.append(Path(push_to.partition(":")[2]).parent)
    try:
        make_folders(*folders) if where.runner is Runner.DOCKER else place.folder.mkdir(parents=True)
    except OSError as error:
        raise Med42Error(error.filename or work, error.strerror or str(error), "a work folder that this user can write",
                         "Give another --work DIR.") from error
    job = Job(place.run, place.work / "store")
    console.print(f"[bold]{recipe.name}[/] {recipe.title}", highlight=False)
    console.print(f"[dim]run {place.run}, log {_shown(place.log)}[/]", highlight=False, soft_wrap=True)
    _run_pipeline(recipe, where, place, job, arguments, until, console)

    events = [event for event in read_journal(job.journal) if event["event"] == "finished"] if job.journal else []
    outputs = {event["name"]: Path(event["path"]) for event in events if "path" in event}
    if until:
        _tell_end(recipe, place, events, outputs, until, console)
        console.print(f"[dim]{time.time() - started.timestamp():.0f} s in all[/]", highlight=False)
        return True
    if "seal_audit" not in outputs or not outputs["seal_audit"].is_dir():
        raise Med42Error("seal_audit", "no bundle", "one at the end of every run", f"See {place.log}.")
    bundle = place.folder / next(path.name for path in outputs["seal_audit"].glob("*.med42"))
    copy_file(outputs["seal_audit"] / bundle.name, bundle)
    report = write_report(recipe, place.folder, events, outputs)
    print_scores(recipe, outputs, console)
    print_decision(outputs, console)
    console.print(f"report  {_shown(report)}\nbundle  {_shown(bundle)}", highlight=False, soft_wrap=True)
    if "push_model" in outputs:
        kind, _, folder = push_to.partition(":")
        pushed = _shown(Path(folder)) if kind == "directory" else push_to or recipe.push.repo
        console.print(f"pushed  {pushed}", highlight=False, soft_wrap=True)
    passed = print_verdict(bundle, place.folder, console)
    console.print(f"[dim]{time.time() - started.timestamp():.0f} s in all[/]", highlight=False)
    return passed


def _known_stage(recipe: Recipe, until: str) -> str:
    """The stage as its journal calls it; the pipeline's own pages have dashes where that has underscores."""
    for stage in stages_of(recipe):
        if until and stage.replace("_", "-") == until.replace("_", "-"):
            return stage
    if until:
        raise Med42Error("--until", f"'{until}'", f"one of {', '.join(stages_of(recipe))}", "Name a stage of this recipe.")
    return ""


def _tell_end(recipe: Recipe, place: Place, events: list[dict[str, Any]], outputs: dict[str, Path], until: str, console: Console) -> None:
    """Report on a run that stopped where it was told to."""
    report = write_report(recipe, place.folder, events, outputs, until)
    print_accounts(outputs, console)
    if any(name.startswith("evaluate_model-") for name in outputs):
        print_scores(recipe, outputs, console)
    console.print(f"\n[bold green]stopped after {until}[/], as asked: nothing was pushed, and there is no bundle", highlight=False)
    if until in outputs:
        console.print(f"{until}  {_shown(outputs[until])}", highlight=False, soft_wrap=True)
    console.print(f"report  {_shown(report)}", highlight=False, soft_wrap=True)


def _check_arguments(recipe: Recipe, arguments: dict[str, str]) -> None:
    text = dump_recipe(recipe)
    if len(text) > LONGEST_RECIPE:
        raise Med42Error("recipe", f"{len(text):,} characters", f"at most {LONGEST_RECIPE:,}, as it travels on a command line",
                         "Shorten its texts.")
    for key, value in {**arguments, "recipe": text}.items():
        # The engine replaces this word everywhere in a task's command by its own interpreter's path.
        if "python3" in value:
            raise Med42Error(key, f"the word 'python3' in '{value[:200]}'", "a path or text without it",
                             "The local engine would change it; choose another folder or name.")


def _run_pipeline(recipe: Recipe, where: Where, place: Place, job: Job, arguments: dict[str, str], until: str,
                  console: Console) -> None:
    screen = Screen(console, job)
    failure: BaseException | None = None
    stopped: list[tuple[str, str]] = []  # containers that failed, and why
    with screen.live(), _output_into(place.log):
        try:
            _start(recipe, where, place, arguments, until, stopped)
        except BaseException as error:
            failure = error
    if failure is None:
        return
    if isinstance(failure, (Med42Error, KeyboardInterrupt)):
        raise failure
    events = read_journal(job.journal) if job.journal else []
    failed = next((event for event in events if event["event"] == "failed"), None)
    if failed and failed["error"] == "Med42Error":
        raise Med42Error.retold(failed["name"], failed["message"]) from failure
    told = {event["name"] for event in events if event["event"] in ("finished", "failed")}
    silent = [event["name"] for event in events if event["event"] == "started" and event["name"] not in told]
    if failed:
        stage, cause = failed["name"], f"{failed['error']}: {failed['message']}"
    elif stopped:
        stage, cause = stopped[0]
    elif silent:
        stage, cause = silent[-1], "a stage that ended without a word (killed, or out of memory)"
    else:
        stage, cause = "the local engine", f"{type(failure).__name__}: {failure}"
    raise Med42Error(stage, cause, "success", f"The end of the log says more: {place.log}. "
                     "A new run goes on from the last finished stage.") from failure


def _start(recipe: Recipe, where: Where, place: Place, arguments: dict[str, str], until: str, stopped: list[tuple[str, str]]) -> None:
    warnings.filterwarnings("ignore")  # the engine warns of every image whose name does not hold "python"
    try:
        from kfp import local
    except ModuleNotFoundError as error:
        raise Med42Error("kfp", "not installed", "kfp and kfp-kubernetes 2.17.0",
                         "Install this package with its extra 'pipeline'.") from error
    from pipelines.med42_v2 import med42_v2

    pipeline = med42_v2(recipe, where.profile, where.images, until)
    executors = pipeline.pipeline_spec.deployment_spec["executors"]
    if where.runner is Runner.SUBPROCESS:
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(place.folder), raise_on_error=True)
        heavy = any(name.removeprefix("exec-").startswith(stage.replace("_", "-")) for name in executors for stage in STAGES)
        with warm_interpreter() if heavy else contextlib.nullcontext():
            pipeline(**arguments)
        return
    data_root = Path(arguments["data_root"]) if arguments["data_root"] else None
    containers = Containers(connect(), recipe, where.profile, place.work, place.folder, data_root, arguments["push_to"], stopped)
    containers.check(sorted({executor["container"]["image"] for executor in executors.values()}))
    local.init(local.DockerRunner(), pipeline_root=str(place.folder), raise_on_error=True)
    with handling_tasks(containers):
        pipeline(**arguments)


@contextlib.contextmanager
def _output_into(log: Path) -> Iterator[None]:
    """Send what this process and its children print into a file; the screen keeps its own copy of the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(kept, 1):
                os.dup2(copy, number)
                os.close(copy)


def _shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
