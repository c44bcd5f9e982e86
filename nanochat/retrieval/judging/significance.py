"""Is one ranker better than another, or was it luck? The paired randomisation test."""

from collections.abc import Sequence

import numpy as np

_BLOCK = 4_000_000  # signs held in memory at once
_EXACT = 13  # up to so many differences all sign patterns are tried: 2 ** 13 = 8192


def randomisation_test(
    first: Sequence[float], second: Sequence[float], *, num_permutations: int = 10_000, seed: int = 0
) -> float:
    """How probable a mean difference at least this large is (either way) if the two rankers were interchangeable.

    first, second: scores of the same queries in the same order. Swapping the two scores of a query flips the sign of
    its difference; p is the share of random flips that differ as much as what was seen, which is one of them itself:
    p >= 1 / (num_permutations + 1). Few differences are flipped in all ways, and p is exact. Equal scores give 1.

    Same seed, same p; swapping first and second does not change it. Raises ValueError for lists of unequal length.
    Smucker, Allan and Carterette 2007, "A Comparison of Statistical Significance Tests for Information Retrieval
    Evaluation".
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} scores are not pairs")
    if num_permutations < 1:
        raise ValueError(f"num_permutations must be at least 1, not {num_permutations}")
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    # queries with equal scores are the same whichever way they are swapped
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    # rounding must not decide whether a pattern differs as much as what was seen
    limit = abs(differences.sum()) - 1e-9
    if len(differences) <= _EXACT:
        patterns = np.arange(1 << len(differences))[:, None] >> np.arange(len(differences)) & 1
        return float(np.mean(_sums(patterns, differences) >= limit))
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(differences))
    extreme = 0
    for done in range(0, num_permutations, rows):
        shape = (min(rows, num_permutations - done), len(differences))
        bits = np.unpackbits(generator.integers(0, 256, (shape[0], -(-shape[1] // 8)), np.uint8), axis=1)
        extreme += int(np.count_nonzero(_sums(bits[:, : shape[1]], differences) >= limit))
    return (extreme + 1) / (num_permutations + 1)


def _sums(flips: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """|sum of the differences| with those flipped (0 or 1) negated; flips (N, num_differences)."""
    return np.abs(differences.sum() - 2 * (flips.astype(np.float64) @ differences))
