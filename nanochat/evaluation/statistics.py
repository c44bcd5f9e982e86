"""Numbers with their uncertainty: Wilson intervals, seeded bootstrap, and tests of paired answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

Z_95 = 1.959963984540054     # two-sided 95 % point of the normal distribution
NUM_RESAMPLES = 2000
_CHUNK = 2_000_000           # resampled values held in memory at once


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval and the count of cases behind it."""

    value: float
    low: float
    high: float
    num: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % interval of a proportion; honest at 0 and 1 and for few cases.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference". Needs 0 <= successes <= total
    and total > 0.
    """
    assert 0 <= successes <= total and total > 0, f"{successes} successes of {total}"
    share, z_squared = successes / total, Z_95 * Z_95
    center = (share + z_squared / (2 * total)) / (1 + z_squared / total)
    half = Z_95 * math.sqrt(share * (1 - share) / total + z_squared / (4 * total * total)) / (1 + z_squared / total)
    # the exact bounds at the ends; rounding would leave 1e-17 instead
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == total else center + half
    return low, high


def proportion(flags: Sequence[bool]) -> Estimate | None:
    """Share of true flags with its Wilson interval; None when there are no cases."""
    if not flags:
        return None
    successes = sum(map(bool, flags))
    low, high = wilson_interval(successes, len(flags))
    return Estimate(value=successes / len(flags), low=low, high=high, num=len(flags))


def _bootstrap_interval(values: np.ndarray, num_resamples: int, seed: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    rows_at_once = max(1, _CHUNK // len(values))
    means = [
        values[generator.integers(0, len(values), size=(min(rows_at_once, num_resamples - done), len(values)))].mean(1)
        for done in range(0, num_resamples, rows_at_once)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def bootstrap_mean(
    values: Sequence[float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES, least: float = 0.0
) -> Estimate | None:
    """Mean with its percentile bootstrap interval; None when there are no cases. Same seed, same interval.

    Values in [least, 1] that are all alike would have an interval of no width; theirs is that of Wilson for none of so
    many.
    """
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    low, high = _bootstrap_interval(array, num_resamples, seed)
    low, high = _widened(low, high, len(array), least)
    return Estimate(value=float(array.mean()), low=low, high=high, num=len(array))


def _widened(low: float, high: float, num: int, least: float = 0.0) -> tuple[float, float]:
    """Of values in [least, 1] that are all alike: what others could do, as many as Wilson's bound for none allows."""
    if low < high or not least <= low <= 1:
        return low, high
    share = wilson_interval(0, num)[1]
    return low - share * (low - least), low + share * (1 - low)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Estimate | None:
    """Mean of first minus second on the same cases; None without cases.

    Right and wrong (1 and 0) have the interval of Newcombe 1998, "Improved confidence intervals for the difference
    between binomial proportions based on paired data", method 10; other values one from a bootstrap over the pairs.
    """
    assert len(first) == len(second), f"{len(first)} and {len(second)} cases are not pairs"
    if first and set(first) | set(second) <= {0, 1}:
        return _paired_shares(first, second)
    differences = [float(one) - float(other) for one, other in zip(first, second, strict=True)]
    return bootstrap_mean(differences, seed=seed, num_resamples=num_resamples, least=-1.0)


def _paired_shares(first: Sequence[float], second: Sequence[float]) -> Estimate:
    total, ones, others = len(first), round(sum(first)), round(sum(second))
    both = sum(bool(one and other) for one, other in zip(first, second, strict=True))
    product = both * (total - ones - others + both) - (ones - both) * (others - both)
    margins = ones * (total - ones) * others * (total - others)
    # the continuity correction of the paper
    product = max(product - total / 2, 0.0) if product > 0 else product
    return _newcombe(ones, total, others, total, product / math.sqrt(margins) if margins else 0.0)


def _newcombe(ones: int, total: int, others: int, other_total: int, correlation: float = 0.0) -> Estimate:
    """Difference of two shares from the Wilson intervals of both."""
    one, other = ones / total, others / other_total
    (low, high), (other_low, other_high) = wilson_interval(ones, total), wilson_interval(others, other_total)

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))

    return Estimate(value=one - other, low=one - other - reach(one - low, other_high - other),
                    high=one - other + reach(high - one, other - other_low), num=min(total, other_total))


def bootstrap(
    rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, seed: int = 0,
    num_resamples: int = NUM_RESAMPLES, is_spread: bool = False,
) -> Estimate | None:
    """A statistic of questions in [0, 1], such as a spread over columns, with its percentile bootstrap interval.

    rows (N, C): one row per question. statistic: (R, N, C) resampled rows -> (R,). None without rows. is_spread: chance
    alone makes a spread larger in every resample, so the interval is mirrored at the value (the basic bootstrap) and
    ends at 0. The value is always inside, and where all resamples are alike the interval is as in `bootstrap_mean`.
    """
    if not len(rows):
        return None
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // rows.size)
    drawn = [statistic(rows[generator.integers(0, len(rows), size=(min(at_once, num_resamples - done), len(rows)))])
             for done in range(0, num_resamples, at_once)]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    value = float(statistic(rows[None])[0])
    if is_spread:
        low, high = max(0.0, 2 * value - high), min(1.0, 2 * value - low)
    low, high = _widened(min(float(low), value), max(float(high), value), len(rows))
    return Estimate(value=value, low=low, high=high, num=len(rows))


def difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Estimate | None:
    """Mean of first minus mean of second for different questions; None without cases.

    num is the smaller number of cases. Right and wrong (1 and 0) have the interval of Newcombe 1998, "Interval
    estimation for the difference between independent proportions", method 10; of other values both are resampled.
    """
    if not first or not second:
        return None
    if set(first) | set(second) <= {0, 1}:
        return _newcombe(round(sum(first)), len(first), round(sum(second)), len(second))
    generator = np.random.default_rng(seed)
    means = []
    for values in (np.asarray(first, np.float64), np.asarray(second, np.float64)):
        at_once = max(1, _CHUNK // len(values))
        means.append(np.concatenate([
            values[generator.integers(0, len(values), size=(min(at_once, NUM_RESAMPLES - done), len(values)))].mean(1)
            for done in range(0, NUM_RESAMPLES, at_once)]))
    low, high = np.percentile(means[0] - means[1], [2.5, 97.5])
    value = float(np.mean(np.asarray(first, np.float64)) - np.mean(np.asarray(second, np.float64)))
    return Estimate(value=value, low=float(low), high=float(high), num=min(len(first), len(second)))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """How probable so uneven a split of the pairs that differ is, either way, if neither were better.

    The exact binomial form: of the questions that one got right and the other wrong, each is as likely to favour the
    first as the second. 1 where none differs. McNemar 1947, "Note on the sampling error of the difference between
    correlated proportions".
    """
    assert len(first) == len(second), f"{len(first)} and {len(second)} cases are not pairs"
    gained = sum(bool(one) and not other for one, other in zip(first, second, strict=True))
    lost = sum(bool(other) and not one for one, other in zip(first, second, strict=True))
    total = gained + lost
    tail = sum(math.comb(total, count) for count in range(min(gained, lost) + 1))
    # whole numbers to the end: 2 ** 1100 is no float
    return min(1.0, float(Fraction(2 * tail, 2**total)))


def holm(probabilities: Sequence[float]) -> list[float]:
    """The probabilities corrected for how many are claimed together, in the order given.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(probabilities)), key=lambda one: probabilities[one])
    corrected = [0.0] * len(probabilities)
    so_far = 0.0
    for rank, one in enumerate(order):
        so_far = max(so_far, min(1.0, (len(probabilities) - rank) * probabilities[one]))
        corrected[one] = so_far
    return corrected
