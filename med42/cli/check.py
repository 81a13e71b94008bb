"""What `med42 check` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from med42.recipe import Recipe, recipe_digest
from med42.recipe.derived import Fact, derived_facts
from med42.recipe.table_5 import Line, data_lines, unlisted_rows

# Beside the eight other columns; on a narrower screen the notes stand below the table.
WIDE_ENOUGH_FOR_NOTES = 132


def print_check(recipe: Recipe, console: Console) -> None:
    """The recipe's digest and what follows from its keys, beside the paper's figures where it has them."""
    console.print(f"[bold]{recipe.name}[/] {recipe.title}\nrecipe digest {recipe_digest(recipe)}\n", highlight=False)
    table = Table("what follows", "ours", "paper", "", "note", box=None, header_style="dim", pad_edge=False)
    for fact in derived_facts(recipe):
        table.add_row(fact.name, _number(fact.ours), _number(fact.paper), _mark(fact), fact.note)
    console.print(table)
    console.print()
    _print_data(recipe, console)


def _print_data(recipe: Recipe, console: Console) -> None:
    """The sources; in a recipe of the paper's beside its Table 5."""
    lines, wide = data_lines(recipe), console.width >= WIDE_ENOUGH_FOR_NOTES
    columns = [Column("data"), Column("family"), Column("licence"), Column("rows", justify="right"), Column("%", justify="right")]
    if recipe.paper:
        columns[4:4] = [Column("Table 5", justify="right"), Column("differ by", justify="right")]
        columns += [Column("Table 5", justify="right"), *([Column("note")] if wide else [])]
    table = Table(*columns, box=None, header_style="dim", padding=(0, 1, 0, 0), pad_edge=False)
    for line in lines:
        printed = [_number(line.printed), _difference(line)] if recipe.paper else []
        shares = [_share(line), _number(line.printed_percent), *([line.note] if wide else [])] if recipe.paper else [_number(line.percent)]
        table.add_row(line.name, line.family, line.license, _number(line.rows), *printed, *shares, style="bold" if line.is_sum else "",
                      end_section=line.is_sum)
    console.print(table)
    if recipe.paper and not wide:
        notes = Table.grid(padding=(0, 2, 0, 0))
        for line in lines:
            if line.note:
                notes.add_row(Text(line.name), Text(line.note))
        console.print()
        console.print(notes)
    if recipe.paper:
        console.print("\n[dim]rows: what the recipe asks for; where a source holds fewer, a run tells by how much[/]", highlight=False)
    if missing := unlisted_rows(recipe):
        console.print(_gap(recipe, lines, missing), highlight=False)


def _gap(recipe: Recipe, lines: list[Line], missing: int) -> str:
    """What the paper counts and does not list, and what stands there in ours."""
    assert recipe.paper is not None
    medical = recipe.paper.medical_rows
    instead = [name for name, source in recipe.sources.items() if source.domain == "medical" and source.paper_rows is None]
    general = next(line for line in lines if line.name == "general")
    share = "general rows have a share that is not known beforehand" if general.percent is None else f"{general.percent:.2f}% are general"
    told = f"Table 5 does not add up: it prints {medical:,} medical rows and lists {medical - missing:,}. [bold]{missing:,} have no row[/]."
    if instead:
        return f"{told} Here {', '.join(instead)}, which the paper does not name, stands in for them; {share}."
    return f"{told} Here nothing stands in for them; {share}, where the paper prints {recipe.paper.general_percent:.2f}%."


def _difference(line: Line) -> str:
    if line.difference is None:
        return "-"
    return "[green]0[/]" if line.difference == 0 else f"[red]{line.difference:+,}[/]"


def _share(line: Line) -> str:
    """Our share, marked where it is not the printed one."""
    return f"[red]{_number(line.percent)}[/]" if line.share_agrees is False and not line.is_sum else _number(line.percent)


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
