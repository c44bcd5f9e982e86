"""Intervals: published values, known limits, seeds."""

import numpy as np
import pytest

from nanochat.evaluation.statistics import (
    bootstrap,
    bootstrap_mean,
    difference,
    paired_difference,
    proportion,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_contains_the_share():
    for successes in range(11):
        low, high = wilson_interval(successes, 10)
        other_low, other_high = wilson_interval(10 - successes, 10)
        assert 0.0 <= low <= successes / 10 <= high <= 1.0
        assert (low, high) == pytest.approx((1 - other_high, 1 - other_low))


def test_no_cases_give_no_estimate():
    assert proportion([]) is None
    assert bootstrap_mean([]) is None
    assert paired_difference([], []) is None


def test_bootstrap_is_seeded_and_near_the_normal_interval():
    values = [index % 10 / 10 for index in range(1000)]
    estimate = bootstrap_mean(values, seed=1)
    assert estimate == bootstrap_mean(values, seed=1)
    assert estimate != bootstrap_mean(values, seed=2)
    # mean 0.45, standard deviation 0.2872: half width 1.96 * 0.2872 / sqrt(1000) = 0.0178
    assert estimate.value == pytest.approx(0.45)
    assert estimate.low == pytest.approx(0.45 - 0.0178, abs=0.003)
    assert estimate.high == pytest.approx(0.45 + 0.0178, abs=0.003)


def test_values_that_are_all_alike_have_an_interval_of_some_width():
    # as Wilson for 0 and 12 of 12: 12 / (12 + 1.96 ** 2) = 0.757
    assert (bootstrap_mean([1.0] * 12).low, bootstrap_mean([1.0] * 12).high) == pytest.approx((0.7575, 1.0), abs=1e-3)
    half = bootstrap_mean([0.5] * 12)
    assert (half.low, half.high) == pytest.approx((0.5 - 0.2425 / 2, 0.5 + 0.2425 / 2), abs=1e-3)
    rows = np.ones((12, 3))
    same = bootstrap(rows, lambda drawn: np.ptp(drawn.mean(1), axis=1), is_spread=True)
    assert (same.value, same.low) == (0.0, 0.0) and same.high == pytest.approx(0.2425, abs=1e-3)
    apart = paired_difference([1.0] * 12, [0.0] * 12)
    assert apart.value == apart.high == 1.0 and 0.6 < apart.low < 0.7


def test_differences_of_shares_equal_published_values():
    # Newcombe 1998, paired data: 36 both, 12 the first only, 2 the second only, 0 neither
    pairs = [(1, 1)] * 36 + [(1, 0)] * 12 + [(0, 1)] * 2
    found = paired_difference([float(one) for one, _ in pairs], [float(other) for _, other in pairs])
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-4)
    # Newcombe 1998, independent proportions: 56 of 70 and 48 of 80
    found = difference([1.0] * 56 + [0.0] * 14, [1.0] * 48 + [0.0] * 32)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-4)


@pytest.mark.parametrize(("first", "second", "num"), [(0.98, 0.05, 12), (0.95, 0.9, 30), (0.99, 0.99, 24)])
def test_intervals_of_shares_cover_the_truth_as_often_as_they_say(first, second, num):
    generator = np.random.default_rng(0)
    covered = {paired_difference: 0, difference: 0}
    for _ in range(400):
        one, other = ((generator.random(num) < share).astype(float).tolist() for share in (first, second))
        for estimate in covered:
            found = estimate(one, other)
            covered[estimate] += found.low - 1e-9 <= first - second <= found.high + 1e-9
    assert min(covered.values()) / 400 > 0.93, covered


def test_a_spread_lies_inside_its_interval():
    generator = np.random.default_rng(0)
    for num in (12, 150):
        rows = (generator.random((num, 5)) < 0.95).astype(float)
        found = bootstrap(rows, lambda drawn: np.ptp(drawn.mean(1), axis=1), is_spread=True)
        assert 0 <= found.low <= found.value <= found.high
        # five equal columns: the spread that chance makes is not clearly above 0
        assert found.low < 0.02


def test_pairs_narrow_the_difference():
    second = [float(index % 2) for index in range(200)]
    first = [value + 0.1 for value in second]
    estimate = paired_difference(first, second)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.1, 0.1, 0.1), abs=0.03)
    assert estimate.num == 200
    with pytest.raises(AssertionError, match="are not pairs"):
        paired_difference([1.0], [])
