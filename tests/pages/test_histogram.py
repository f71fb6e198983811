"""Every score is in a bin, edges are round, and outliers do not squeeze the others."""

from itertools import pairwise

import numpy as np
import pytest

from quals_fast.pages.histogram import Axis, count_ticks

NORMAL = np.random.default_rng(0).normal(-1.5, 0.5, 1000)


@pytest.mark.parametrize(
    "scores",
    [
        [-1.0],
        [0.0],
        [-1.25] * 50,
        [-2.0, -1.0],
        [0.0, 0.5, 1.0] * 20,
        NORMAL,
        [*NORMAL, -1e6, 300.0],
        [1.0] * 999 + [0.0],
        [1e-9, 2e-9],
        [-1e9, 1e9],
        np.linspace(-3, 0, 31),
    ],
    ids="one zero equal two qags normal outliers almost-equal tiny huge edges".split(),
)
def test_every_score_is_counted_in_its_bin(scores):
    scores = np.array(scores, dtype=float)
    axis = Axis(scores)
    bins = axis.bins(scores)
    assert sum(one.n for one in bins) == len(scores)
    assert 1 <= len(bins) <= 102
    assert (bins[0].low, bins[-1].high) == (axis.low, axis.high)
    assert axis.place(axis.low) == 0 and axis.place(axis.high) == 100
    for before, after in pairwise(bins):
        assert before.high == after.low
    for one in bins[1:-1]:
        assert one.n == np.sum((scores >= one.low) & (scores < one.high))
    assert len({one.label for one in bins}) == len(bins)


def test_bins_have_round_edges():
    bins = Axis(NORMAL).bins(NORMAL)
    assert 20 <= len(bins) <= 70
    assert all(one.low == pytest.approx(round(one.low, 2)) for one in bins)
    middle = bins[len(bins) // 2]
    assert middle.label == f"{middle.low:.2f} to {middle.high:.2f}".replace("0 ", " ").rstrip("0")


def test_few_scores_get_few_bins():
    scores = NORMAL[:30]
    assert 5 <= len(Axis(scores).bins(scores)) <= 12


def test_outliers_are_in_the_first_and_last_bin_which_say_so():
    scores = np.array([*NORMAL, -1e6, 300.0])
    axis = Axis(scores)
    assert -6 < axis.low < axis.high < 3
    bins = axis.bins(scores)
    assert bins[0].label.startswith("below -")
    assert bins[-1].label.endswith(" or more")
    assert bins[0].n == np.sum(scores < bins[0].high) >= 1
    assert bins[-1].n == np.sum(scores >= bins[-1].low) >= 1
    assert axis.place(-1e6) == 0 and axis.place(300.0) == 100
    plain = Axis(NORMAL[np.abs(NORMAL + 1.5) < 1])
    assert not {"below", "more"} & set(plain.bins(NORMAL)[0].label.split())


def test_one_is_in_the_last_bin_of_scores_up_to_one():
    scores = np.array([0.0, 1.0] * 10)
    axis = Axis(scores)
    assert (axis.low, axis.high) == (0.0, 1.0)
    assert axis.bins(scores)[-1].n == 10
    assert axis.ticks()[0] == (0.0, "0.0") and axis.ticks()[-1] == (100.0, "1.0")


def test_zero_has_no_sign():
    axis = Axis(np.array([-0.5, 0.5]))
    assert (50.0, "0.0") in [(round(place, 6), label) for place, label in axis.ticks()]


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [
        (0, [0]),
        (1, [0, 1]),
        (3, [0, 1, 2, 3]),
        (7, [0, 2, 4, 6, 8]),
        (51, [0, 20, 40, 60]),
        (2400, [0, 1000, 2000, 3000]),
    ],
)
def test_ticks_of_counts_are_round_and_reach_the_highest(highest, ticks):
    assert count_ticks(highest) == ticks
