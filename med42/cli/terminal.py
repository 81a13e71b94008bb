"""How commands speak: to a terminal or a pipe, and of errors in plain words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from med42.errors import Med42Error


def console() -> Console:
    """The terminal, or, where output goes to a file or a pipe, lines wide enough for the tables."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Print an error that a person can mend, without a traceback, and exit with 1."""
    try:
        yield
    except Med42Error as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error[/] {escape(str(error))}")
        raise typer.Exit(1) from error
