"""How far chance alone moves a score, or the difference of two models on the same questions.

A score is a mean over questions of right (1) or wrong (0), or, for MMLU and USMLE, the unweighted mean of its subjects' means.
Intervals are 95% intervals of a bootstrap over questions, within each subject. Two models are compared in pairs, on the same
questions. Drawing n questions with replacement and counting how many have a difference of -1, 0 and +1 is one draw of a multinomial
distribution with these shares: so no question is drawn one by one, and 10,000 draws of all benchmarks take milliseconds. Half a question
of a benchmark is added to each way in which two models can answer (Agresti and Min 2005: right or wrong twice), and to right and wrong of
one model: a plain bootstrap of 20 questions on which two models agree would prove that they are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from med42.lineage import scores

DRAWS = 10_000
COVERAGE = 0.95

# Right or not, by subject; one subject '' where a benchmark is a plain mean over questions.
Marks = Mapping[str, Sequence[bool]]


@dataclass(frozen=True)
class Interval:
    """A number with its 95% interval; of a score or of a difference of scores, as shares."""

    value: float
    low: float
    high: float

    def told(self, digits: int = 1) -> str:
        """In percent, as `62.8 [60.1, 65.4]`."""
        return f"{100 * self.value:.{digits}f} [{100 * self.low:.{digits}f}, {100 * self.high:.{digits}f}]"

    def signed(self, digits: int = 1) -> str:
        """In points, as `+2.9 [+0.4, +5.3]`."""
        return f"{100 * self.value:+.{digits}f} [{100 * self.low:+.{digits}f}, {100 * self.high:+.{digits}f}]"


def wilson(right: int, count: int) -> Interval:
    """A share with Wilson's interval, which holds also near 0 and 1."""
    return Interval(right / count, *scores.wilson(right / count, count))


def mean_of(marks: Marks) -> float:
    """The unweighted mean of the subjects' means."""
    return sum(sum(right) / len(right) for right in marks.values()) / len(marks)


def score_interval(marks: Marks) -> Interval:
    """A benchmark's score; of a plain mean by Wilson, of a mean of subjects by the bootstrap."""
    if len(marks) == 1:
        (right,) = marks.values()
        return wilson(sum(right), len(right))
    return _interval(mean_of(marks), _draws_of_score(marks))


def average_interval(benchmarks: Sequence[Marks]) -> Interval:
    """The plain mean of several benchmarks."""
    draws = [_draws_of_score(marks, place) for place, marks in enumerate(benchmarks)]
    return _interval(sum(map(mean_of, benchmarks)) / len(benchmarks), np.mean(draws, axis=0))


def difference_interval(ours: Sequence[Marks], theirs: Sequence[Marks], looks: int = 1) -> Interval:
    """Ours less theirs, averaged over some benchmarks; subjects and questions of both stand in the same order.

    Args:
        ours: marks of one model, by benchmark.
        theirs: those of the other.
        looks: how many such differences are looked at for the worst one (Bonferroni): each interval is then so wide that the chance
            of a false alarm among all of them is that of one interval of 95%.
    """
    value = sum(mean_of(one) - mean_of(other) for one, other in zip(ours, theirs, strict=True)) / len(ours)
    draws = [_draws_of_difference(one, other, place) for place, (one, other) in enumerate(zip(ours, theirs, strict=True))]
    return _interval(value, np.mean(draws, axis=0), (1 - COVERAGE) / looks)


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Exact two-sided p-value of McNemar's test on paired marks.

    Of the n questions that one alone has right, k fall to the weaker side; if both were equal, n fair coins would:
    p = 2 (C(n, 0) + ... + C(n, k)) / 2^n, at most 1.
    """
    gained = sum(one and not other for one, other in zip(ours, theirs, strict=True))
    lost = sum(other and not one for one, other in zip(ours, theirs, strict=True))
    count, term, total = gained + lost, 1, 0
    for chosen in range(min(gained, lost) + 1):
        total += term
        term = term * (count - chosen) // (chosen + 1)
    return min(1.0, (2 * total) / (1 << count)) if count else 1.0


def calibration(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> dict[str, Any]:
    """How far a model's probability of its own answer is from how often it is right.

    Returns:
        `error`: the mean distance over bins of equal width, weighted by their questions; `bins`: (from, to, questions, mean
        confidence, share right) of those that hold any.
    """
    places = np.minimum((np.asarray(confidences) * bins).astype(int), bins - 1)
    told, error = [], 0.0
    for place in range(bins):
        inside = places == place
        if count := int(inside.sum()):
            confidence, share = float(np.asarray(confidences)[inside].mean()), float(np.asarray(right)[inside].mean())
            told.append([place / bins, (place + 1) / bins, count, round(confidence, 6), round(share, 6)])
            error += count / len(right) * abs(confidence - share)
    return {"error": round(error, 6), "bins": told}


def _draws_of_score(marks: Marks, seed: int = 0) -> NDArray[np.float64]:
    draw, parts = np.random.default_rng(seed), []
    for right in marks.values():
        added = 0.5 / len(marks)
        share = (sum(right) + added) / (len(right) + 2 * added)
        parts.append(draw.binomial(len(right), share, DRAWS) / len(right))
    return np.mean(parts, axis=0)


def _draws_of_difference(ours: Marks, theirs: Marks, seed: int) -> NDArray[np.float64]:
    if {name: len(right) for name, right in ours.items()} != {name: len(right) for name, right in theirs.items()}:
        raise ValueError("the two models were asked different questions")
    draw, parts = np.random.default_rng(seed), []
    for subject, right in ours.items():
        gaps = np.asarray(right, int) - np.asarray(theirs[subject], int)
        added = 0.5 / len(ours)
        counts = np.asarray([(gaps == gap).sum() + more * added for gap, more in ((-1, 1), (0, 2), (1, 1))])
        parts.append(draw.multinomial(len(gaps), counts / counts.sum(), DRAWS) @ np.asarray([-1, 0, 1]) / len(gaps))
    return np.mean(parts, axis=0)


def _interval(value: float, draws: NDArray[np.float64], outside: float = 1 - COVERAGE) -> Interval:
    low, high = np.quantile(draws, [outside / 2, 1 - outside / 2])
    return Interval(value, min(value, float(low)), max(value, float(high)))
