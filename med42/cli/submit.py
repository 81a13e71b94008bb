"""What `med42 submit` does and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from med42.cluster.request import Wanted, check_names, load_request
from med42.cluster.submit import Pipelines, record_run
from med42.errors import Med42Error


def submit_requests(requests: Sequence[Path], pipelines: Pipelines, package: Path | None, service_account: str, dry: bool, follow: bool,
                    console: Console) -> bool:
    """Submit requests, one after another; one that is wrong does not keep the others from it.

    Returns:
        Whether each has its run and, where they were followed, all ended well.

    Raises:
        Med42Error: two requests name different recipes of one name; none is submitted.
    """
    wanted, well = list[Wanted](), True
    for path in requests:
        try:
            wanted.append(load_request(path))
        except Med42Error as error:
            well = _tell(error, console)
    check_names(wanted)
    for one in wanted:
        try:
            well &= _submit(one, pipelines, package, service_account, dry, follow, console)
        except Med42Error as error:
            well = _tell(error, console)
    return well


def _tell(error: Med42Error, console: Console) -> bool:
    console.print("[bold red]error[/] ", end="")
    console.print(str(error), markup=False, soft_wrap=True)
    return False


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
