"""Resampled means and p values against SciPy's, and against sums by hand."""

from itertools import product

import numpy as np
import pytest

from quals_fast.resampling import exchange_p_value, resampled_means


def skewed(n):
    return np.random.default_rng(3).exponential(1, n) - 0.9


@pytest.mark.parametrize("n", [40, 4096, 4097])
def test_means_are_distributed_as_when_drawn_at_once(n):
    values = skewed(n)
    found = resampled_means(values, 4000, seed=0)
    rng = np.random.default_rng(1)
    expected = [rng.choice(values, n).mean() for _ in range(4000)]
    assert found.shape == (4000,)
    scale = values.std() / n**0.5
    assert np.quantile(found, [0.025, 0.5, 0.975]) == pytest.approx(
        np.quantile(expected, [0.025, 0.5, 0.975]), abs=0.15 * scale
    )
    assert found.std() == pytest.approx(scale, rel=0.05)


def test_every_draw_has_as_many_values():
    assert set(resampled_means(np.ones(10_001), 50, seed=0)) == {1.0}


def test_a_value_in_a_large_part_counts_as_often_as_one_in_a_small_one():
    values = np.zeros(9001)
    values[[0, -1]] = 9001
    counts = resampled_means(values, 5000, seed=0)  # of both: Poisson with mean 2
    assert counts.mean() == pytest.approx(2, abs=0.1)
    assert counts.var() == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_p_value_of_few_is_exact(n):
    differences = skewed(n)
    sums = [np.dot(signs, differences) for signs in product((1, -1), repeat=n)]
    share = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-12)
    assert exchange_p_value(differences, 2**n, seed=0) == pytest.approx(share)


def differences_of(n):
    """Return differences whose mean is 1.5 standard errors."""
    values = skewed(n) - skewed(n).mean()
    return values + 1.5 * values.std() / n**0.5


def test_p_value_of_draws_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats", reason="needs the extra")
    expected = stats.permutation_test(
        (differences_of(50),), np.mean, permutation_type="samples", n_resamples=4000, batch=100,
        vectorized=True, rng=np.random.default_rng(5),
    ).pvalue  # fmt: skip
    found = exchange_p_value(differences_of(50), 4000, seed=0)
    assert found == pytest.approx(expected, abs=0.025)


def test_p_value_of_many_is_that_of_the_normal_distribution():
    assert exchange_p_value(differences_of(4100), 4000, seed=0) == pytest.approx(0.1336, abs=0.02)


def test_a_p_value_of_draws_is_never_0():
    assert exchange_p_value(np.ones(5000), 99, seed=0) == 0.01


def test_equal_scores_have_a_p_value_of_1():
    assert exchange_p_value(np.zeros(30), 100, seed=0) == 1
