"""Intervals against what the statistics libraries say, and against drawing questions one by one."""

import numpy as np
import pytest
from scipy import stats

from med42.evaluation.intervals import (
    DRAWS,
    average_interval,
    calibration,
    difference_interval,
    mcnemar,
    mean_of,
    score_interval,
    wilson,
)


def marks(seed: int, count: int, share: float) -> list[bool]:
    return [bool(value) for value in np.random.default_rng(seed).random(count) < share]


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (63, 100), (979, 1273), (1, 3)])
def test_wilson_is_scipys(right, count):
    expected = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
    told = wilson(right, count)
    assert told.value == right / count
    assert (told.low, told.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize(("gained", "lost", "same"), [(0, 0, 5), (5, 0, 3), (0, 1, 9), (30, 45, 200), (7, 7, 1), (400, 300, 500)])
def test_mcnemar_is_the_exact_binomial_test(gained, lost, same):
    ours = [True] * gained + [False] * lost + [True] * same
    theirs = [False] * gained + [True] * lost + [True] * same
    expected = stats.binomtest(min(gained, lost), gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(ours, theirs) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(theirs, ours) == mcnemar(ours, theirs)


def test_counts_drawn_at_once_give_the_interval_of_questions_drawn_one_by_one():
    ours, theirs = marks(1, 400, 0.7), marks(2, 400, 0.62)
    told = difference_interval([{"": ours}], [{"": theirs}])
    gaps, draw = np.asarray(ours, int) - np.asarray(theirs, int), np.random.default_rng(9)
    drawn = [gaps[draw.integers(0, 400, 400)].mean() for _ in range(4000)]
    assert told.value == pytest.approx(gaps.mean())
    assert (told.low, told.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.006)


def test_a_great_difference_of_subjects_of_few_questions_is_no_smaller_for_what_is_added():
    ours, theirs = ({name: [right] * 7 + [not right] for name in "abcdef"} for right in (False, True))
    told = difference_interval([ours], [theirs])
    assert told.value == pytest.approx(-0.75)
    assert (told.low + told.high) / 2 == pytest.approx(told.value, abs=0.05)


def test_pairs_tell_more_than_two_scores_alone():
    ours = marks(1, 1000, 0.7)
    theirs = ours[:30] + [False] * 5 + ours[35:]
    both = difference_interval([{"": ours}], [{"": theirs}])
    alone = score_interval({"": ours})
    assert both.high - both.low < (alone.high - alone.low) / 4


@pytest.mark.parametrize(("count", "about"), [(20, 0.1), (200, 0.01), (4000, 0.0006)])
def test_two_models_that_agree_are_shown_to_be_equal_by_many_questions_alone(count, about):
    same = [{"": marks(3, count, 0.5)}]
    told = difference_interval(same, same)
    assert told.value == 0
    assert about / 2 < told.high <= 1.5 * about and told.low == pytest.approx(-told.high, abs=1.01 / count)


def test_subjects_count_alike_whatever_their_size():
    by_subject = {"large": [True] * 90 + [False] * 10, "small": [False] * 10}
    assert mean_of(by_subject) == pytest.approx(0.45)
    told = score_interval(by_subject)
    assert told.value == pytest.approx(0.45)
    # With half a question added to right and to wrong, a quarter to each subject, also the small one has a variance.
    small = 0.25 / 10.5
    spread = (0.9 * 0.1 / 100 + small * (1 - small) / 10) ** 0.5 / 2
    assert told.high - told.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_an_average_of_many_benchmarks_is_surer_than_each():
    benchmarks = [{"": marks(seed, 200, 0.6)} for seed in range(7)]
    each = score_interval(benchmarks[0])
    told = average_interval(benchmarks)
    assert told.value == pytest.approx(np.mean([mean_of(one) for one in benchmarks]))
    assert told.high - told.low == pytest.approx((each.high - each.low) / 7**0.5, rel=0.15)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_interval_covers_the_truth_about_19_times_of_20(share):
    covered = 0
    for seed in range(400):
        one, other = marks(seed, 150, share), marks(10_000 + seed, 150, share)
        told = difference_interval([{"": one}], [{"": other}])
        covered += told.low <= 0 <= told.high
    assert 0.91 <= covered / 400 <= 0.985


def test_of_many_looks_one_gives_a_false_alarm_no_more_often_than_one_look_alone():
    alarms = 0
    for seed in range(150):
        pairs = [(marks(100 * seed + place, 80, 0.6), marks(10**6 + 100 * seed + place, 80, 0.6)) for place in range(6)]
        alarms += any(difference_interval([{"": one}], [{"": other}], looks=6).high < 0 for one, other in pairs)
    assert alarms / 150 < 0.06


def test_the_same_marks_give_the_same_interval():
    one, other = [{"a": marks(1, 30, 0.4), "b": marks(2, 40, 0.4)}], [{"a": marks(3, 30, 0.4), "b": marks(4, 40, 0.4)}]
    assert difference_interval(one, other) == difference_interval(one, other)
    assert DRAWS == 10_000


def test_different_questions_do_not_pair():
    with pytest.raises(ValueError, match="different questions"):
        difference_interval([{"a": [True]}], [{"a": [True, False]}])


def test_calibration():
    told = calibration([0.95] * 10 + [0.35] * 10, [True] * 9 + [False] + [True] * 3 + [False] * 7)
    assert told["bins"] == [[0.3, 0.4, 10, 0.35, 0.3], [0.9, 1.0, 10, 0.95, 0.9]]
    assert told["error"] == pytest.approx(0.05)
    assert calibration([1.0, 0.0], [True, False])["error"] == 0


def test_numbers_as_people_read_them():
    assert wilson(628, 1000).told() == "62.8 [59.8, 65.7]"
    told = difference_interval([{"": [True] * 60 + [False] * 40}], [{"": [True] * 50 + [False] * 50}])
    assert told.signed().startswith("+10.0 [+")
