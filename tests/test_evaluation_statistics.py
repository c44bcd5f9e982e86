"""Intervals: published values, known limits, seeds."""

import pytest

from nanochat.evaluation.statistics import bootstrap_mean, paired_difference, proportion, wilson_interval


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
    assert bootstrap_mean([0.5] * 7).low == bootstrap_mean([0.5] * 7).high == 0.5


def test_pairs_narrow_the_difference():
    second = [float(index % 2) for index in range(200)]
    first = [value + 0.1 for value in second]
    estimate = paired_difference(first, second)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.1, 0.1, 0.1))
    assert estimate.num == 200
    with pytest.raises(AssertionError, match="are not pairs"):
        paired_difference([1.0], [])
