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


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> Estimate | None:
    """Mean with its percentile bootstrap interval; None when there are no cases. Same seed, same interval."""
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    low, high = _bootstrap_interval(array, num_resamples, seed)
    return Estimate(value=float(array.mean()), low=low, high=high, num=len(array))


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Estimate | None:
    """Mean of first minus second on the same cases, with a bootstrap interval over the pairs; None without cases."""
    assert len(first) == len(second), f"{len(first)} and {len(second)} cases are not pairs"
    differences = [float(one) - float(other) for one, other in zip(first, second, strict=True)]
    return bootstrap_mean(differences, seed=seed, num_resamples=num_resamples)


def bootstrap(
    rows: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Estimate | None:
    """A statistic of questions, such as a spread over columns, with its percentile bootstrap interval.

    rows (N, C): one row per question. statistic: (R, N, C) resampled rows -> (R,). None without rows.
    """
    if not len(rows):
        return None
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // rows.size)
    drawn = [statistic(rows[generator.integers(0, len(rows), size=(min(at_once, num_resamples - done), len(rows)))])
             for done in range(0, num_resamples, at_once)]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    return Estimate(value=float(statistic(rows[None])[0]), low=float(low), high=float(high), num=len(rows))


def difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Estimate | None:
    """Mean of first minus mean of second for different questions, each resampled on its own; None without cases.

    num is the smaller number of cases.
    """
    if not first or not second:
        return None
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
