"""What `med42 check` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from med42.recipe import Recipe, recipe_digest
from med42.recipe.derived import Fact, derived_facts


def print_check(recipe: Recipe, console: Console) -> None:
    """The recipe's digest and what follows from its keys, beside the paper's figures where it has them."""
    console.print(f"[bold]{recipe.name}[/] {recipe.title}\nrecipe digest {recipe_digest(recipe)}\n", highlight=False)
    table = Table("what follows", "ours", "paper", "", "note", box=None, header_style="dim", pad_edge=False)
    for fact in derived_facts(recipe):
        table.add_row(fact.name, _number(fact.ours), _number(fact.paper), _mark(fact), fact.note)
    console.print(table)


def _mark(fact: Fact) -> str:
    """The same number, one that agrees within what rounding hides, or another."""
    if fact.agrees is None:
        return ""
    if not fact.agrees:
        return "[bold red]differs[/]"
    return "[green]same[/]" if _number(fact.ours) == _number(fact.paper) else "[green]agrees[/]"


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
