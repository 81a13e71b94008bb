"""Our sources beside the paper's table of training data (Table 5), count by count (`docs/paper.md`)."""

from __future__ import annotations

from dataclasses import dataclass

from med42.recipe.derived import expected_rows, sum_of
from med42.recipe.schema import Recipe

# A percentage printed with two decimals stands for anything within half of its last digit.
PRINTED_PERCENT = 0.005


@dataclass(frozen=True)
class Line:
    """A source, or a sum of sources.

    Attributes:
        name: the source's key, or what is summed.
        family: the converter; empty for a sum.
        license: as the recipe names it; empty for a sum.
        rows: what the recipe takes; None where that depends on what the source turns out to hold.
        percent: of all rows.
        printed: the paper's count; None where it prints none.
        printed_percent: the paper's share.
        note: what the rows are, and why they may not be the printed ones.
    """

    name: str
    family: str
    license: str
    rows: int | None
    percent: float | None
    printed: int | None
    printed_percent: float | None
    note: str = ""

    @property
    def is_sum(self) -> bool:
        """Whether it is a sum of other lines."""
        return not self.family

    @property
    def difference(self) -> int | None:
        """Ours less the paper's; None where one of them is missing."""
        return None if self.rows is None or self.printed is None else self.rows - self.printed

    @property
    def share_agrees(self) -> bool | None:
        """Whether our share is the printed one, as far as that is printed; None where one of them is missing."""
        if self.percent is None or self.printed_percent is None:
            return None
        return abs(self.percent - self.printed_percent) <= PRINTED_PERCENT + 1e-9


def data_lines(recipe: Recipe) -> list[Line]:
    """The medical sources and their sum, the general ones and theirs, and the sum of all.

    Where the counts that the paper lists of a domain do not add up to its own sum, the listed ones have a sum of their own.
    """
    sources, rows, paper = recipe.sources, expected_rows(recipe), recipe.paper
    total = sum_of(list(rows.values()))

    def line(title: str, names: list[str], printed: int | None, percent: float | None, note: str = "", family: str = "",
             license: str = "") -> Line:
        count = sum_of([rows[name] for name in names])
        return Line(title, family, license, count, 100 * count / total if count and total else None, printed, percent, note)

    def of_source(name: str) -> Line:
        source = sources[name]
        note = paper.notes.get(name, "") if paper else ""
        return line(name, [name], source.paper_rows, source.paper_percent, note, source.family, source.license)

    def of_domain(domain: str, printed: int | None, percent: float | None) -> list[Line]:
        names = [name for name, source in sources.items() if source.domain == domain]
        listed = [name for name in names if sources[name].paper_rows is not None]
        lines = [of_source(name) for name in listed]
        counts, shares = sum(each.printed or 0 for each in lines), sum(each.printed_percent or 0.0 for each in lines)
        if printed is not None and counts != printed:
            lines.append(line(f"{domain}, as listed", listed, counts, shares, "printed: what its rows add up to"))
        return [*lines, *(of_source(name) for name in names if name not in listed), line(domain, names, printed, percent)]

    return [
        *of_domain("medical", paper.medical_rows if paper else None, paper.medical_percent if paper else None),
        *of_domain("general", paper.general_rows if paper else None, paper.general_percent if paper else None),
        line("all", list(sources), paper.total_rows if paper else None, None),
    ]


def unlisted_rows(recipe: Recipe) -> int:
    """Medical rows that the paper counts in its printed sum and does not list: 405,400 where all its rows are in the recipe."""
    if recipe.paper is None:
        return 0
    return recipe.paper.medical_rows - sum(source.paper_rows or 0 for source in recipe.sources.values() if source.domain == "medical")
