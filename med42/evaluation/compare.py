"""Models beside one another and beside the paper: gains over a base on the same questions, with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from med42.errors import Med42Error
from med42.evaluation.intervals import Interval
from med42.evaluation.paper import base_of, columns, gain, results
from med42.evaluation.scores import Scores, average_name, averaged
from med42.report import page, plot

AVERAGE = "average"


@dataclass(frozen=True)
class Gain:
    """What one model gains over the base on one benchmark, or on average.

    Attributes:
        label: the model.
        benchmark: a benchmark's name, or what the average is called.
        score: its score.
        gain: score less the base's.
        p_value: McNemar's; None for an average.
        printed: the gain of the paper's model over its own base, in points; None where there is none.
    """

    label: str
    benchmark: str
    score: Interval
    gain: Interval
    p_value: float | None
    printed: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether the paper's gain lies in our interval."""
        return None if self.printed is None else self.gain.low <= self.printed / 100 <= self.gain.high


def gains(scores: Scores, base: str, model: str = "") -> list[Gain]:
    """Every model but the base against the base.

    Args:
        scores: all under one lock.
        base: label of the model that the others are compared with.
        model: of the paper's Table 1; empty for no comparison with it.

    Raises:
        Med42Error: the base was not scored, or the paper has no such model.
    """
    scores.require(base)
    if model:
        base_of(model)  # refuses what is none of the paper's
    others = [label for label in scores.labels if label != base]
    if not others:
        raise Med42Error(scores.where, f"scores of '{base}' alone", "another model beside it", "Give the scores of a later stage.")
    whole = average_name(scores.lock)
    return [found for label in others for found in _of(scores, label, base, model, whole)]


def _of(scores: Scores, label: str, base: str, model: str, whole: str) -> Iterator[Gain]:
    for name in scores.lock["benchmarks"]:
        printed = gain(model, name) if model and name in columns() else None
        yield Gain(label, name, scores.score(label, name), scores.difference(label, base, name), scores.p_value(label, base, name), printed)
    if averaged(scores.lock):
        # The paper's average is of seven columns: it stands beside nothing else.
        printed = gain(model, AVERAGE) if model and whole == AVERAGE else None
        yield Gain(label, whole, scores.score(label, AVERAGE), scores.difference(label, base, AVERAGE), None, printed)


def header(base: str, model: str) -> list[str]:
    """Of the table."""
    printed = [f"{model} less {base_of(model)}", "in our interval"] if model else []
    return ["model", "benchmark", "score [95%]", f"less {base} [95%]", "p", *printed]


def cells(found: Gain, model: str) -> list[str]:
    """One line of the table."""
    told = [found.label, found.benchmark, found.score.told(), found.gain.signed(), "" if found.p_value is None else f"{found.p_value:.2g}"]
    if model:
        told += ["" if found.printed is None else f"{found.printed:+.1f}", {None: "", True: "yes", False: "no"}[found.agrees]]
    return told


def markdown(found: Sequence[Gain], base: str, model: str) -> str:
    """The table as Markdown."""
    lines = [header(base, model), ["---"] * len(header(base, model)), *(cells(one, model) for one in found)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def compare_page(found: Sequence[Gain], base: str, model: str, lock: str) -> str:
    """The table as a page, with a plot of each model's gains and the paper's."""
    names = list(dict.fromkeys(one.benchmark for one in found))
    series = {}
    for label in dict.fromkeys(one.label for one in found):
        of_it = [one for one in found if one.label == label]
        series[label] = (list(range(len(names))), [100 * one.gain.value for one in of_it])
    printed = {one.benchmark: one.printed for one in found if one.printed is not None}
    if printed:
        places = [place for place, name in enumerate(names) if name in printed]
        series[f"{model} (paper)"] = (places, [printed[names[place]] for place in places])
    blocks: list[Markup] = [
        page.figure(plot.lines(series, "", f"points over {base}", places=names), "What each model gains over the base, in points."),
        page.table(header(base, model), [cells(one, model) for one in found]),
        page.paragraph("Scores in percent, gains in points, with 95% intervals: Wilson for a share, else a bootstrap over questions within "
                       "their subject, of 10,000 draws; gains are of the same questions, in pairs. p is McNemar's exact test.", "note"),
        page.paragraph(f"Protocol lock {lock[:16]}.", "note"),
    ]
    if printed:
        blocks.append(page.paragraph("The paper's scores were made by other software: only the gain over a base carries over.", "note"))
    return page.page(f"Gains over {base}", f"{len(series) - bool(printed)} models on the same questions, under one protocol.", blocks)


def paper_rows() -> list[tuple[str, list[float | None], float, float, str]]:
    """Table 4: model, scores by column, printed average, the mean worked out again, note."""
    return [(row.model, [row.scores.get(name) for name in columns()], row.printed, row.mean, row.note) for row in results().values()]
