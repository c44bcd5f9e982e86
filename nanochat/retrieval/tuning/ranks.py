"""Where a query's own passage comes in the ranking of all passages, and what that is worth."""

import numpy as np

from nanochat.retrieval.tuning.negatives import near_duplicate

_BLOCK = 128


def ranks(queries: np.ndarray, places: np.ndarray, vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """int64 (Q,), from 1: 1 + the number of other passages that are nearer to the query than its own.

    queries (Q, D); places (Q,), the own passage of each among vectors (N, D). Passages of the same document (groups,
    (N,)) and near duplicates do not count: they may well be answers, too.
    """
    near = near_duplicate(vectors)
    found = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        scores = queries[block] @ vectors.T
        is_ahead = scores > np.take_along_axis(scores, places[block][:, None], axis=1)
        is_ahead &= groups[places[block]][:, None] != groups[None]
        is_ahead &= vectors[places[block]] @ vectors.T < near
        found[block] = 1 + is_ahead.sum(axis=1)
    return found


def ndcg(ranking: np.ndarray, k: int = 10) -> np.ndarray:
    """float64 (Q,): nDCG at k with one relevant passage, from its ranks."""
    return np.where(ranking <= k, 1 / np.log2(1 + ranking), 0.0)
