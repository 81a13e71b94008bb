"""What `med42 audit verify` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from med42.errors import Med42Error
from med42.lineage.bundle import Bundle, check_artifacts, check_chain, unpack


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and check it against itself.

    Raises:
        Med42Error: it is not as it was sealed, or not there.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Med42Error(path, error.strerror or str(error), "a bundle (*.med42)", "Check the path.") from error
    bundle = unpack(content, path)
    check_chain(bundle, path)
    return bundle


def print_verdict(path: Path, artifacts: Path | None, console: Console) -> bool:
    """Verify and say so in a few lines; True where nothing is wrong.

    Raises:
        Med42Error: the bundle is not as it was sealed.
    """
    bundle = read_bundle(path)
    problems = check_artifacts(bundle, artifacts) if artifacts else []
    for problem in problems:
        console.print(f"[bold red]changed[/] {escape(problem)}", soft_wrap=True)
    scope = f"{len(bundle.records)} records, chain complete to {bundle.subject.name}"
    if artifacts and not problems:
        scope += f", every file of {len(bundle.records)} artifacts as recorded"
    if problems:
        console.print(f"[bold red]FAILED[/] {path}: {len(problems)} problems")
    else:
        console.print(f"[bold green]verified[/] {path}: {scope}", soft_wrap=True)
    return not problems
