"""What `med42 submit` does and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from med42.cluster.request import Wanted, load_requests
from med42.cluster.submit import Pipelines, record_run
from med42.errors import Med42Error


def submit_requests(requests: Sequence[Path], pipelines: Pipelines, package: Path | None, service_account: str, dry: bool, follow: bool,
                    console: Console) -> bool:
    """Submit requests, one after another; one that cannot be submitted does not keep the others from it.

    Returns:
        Whether each has its run and, where they were followed, all ended well.
    """
    well = True
    for wanted in load_requests(requests):
        try:
            well &= _submit(wanted, pipelines, package, service_account, dry, follow, console)
        except Med42Error as error:
            well = False
            console.print(f"[bold red]error[/] {wanted.path}: ", end="")
            console.print(str(error), markup=False, soft_wrap=True)
    return well


def _submit(wanted: Wanted, pipelines: Pipelines, package: Path | None, service_account: str, dry: bool, follow: bool,
            console: Console) -> bool:
    run = pipelines.submit(wanted, package, service_account, dry)
    head = f"{wanted.path}  request {wanted.digest[:12]}"
    if run is None:
        console.print(f"{head}  no run yet; would be submitted as {wanted.name}", highlight=False, soft_wrap=True)
        return True
    done = "submitted" if run.created else f"was submitted before ({run.state.lower() or 'state not known'})"
    console.print(f"{head}  {done}  run {run.id}  {run.name}", highlight=False, soft_wrap=True)
    if dry:
        return True
    console.print(f"[dim]{record_run(wanted.path.with_suffix('.run.json'), wanted, run)}[/]", highlight=False, soft_wrap=True)
    if not follow:
        return True
    return pipelines.follow(run.id, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)) == "SUCCEEDED"
