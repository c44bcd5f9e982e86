"""Numbers with their uncertainty: Wilson intervals for proportions, seeded bootstrap for means and differences."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
