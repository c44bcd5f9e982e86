"""One ranking out of two: by normalised scores, or by places only."""

from collections.abc import Sequence

import numpy as np

COSINE_MIN = -1.0   # what a cosine can be at least
LEXICAL_MIN = 0.0   # what BM25 gives a document without any term of the query


def normalised(scores: np.ndarray, minimum: float, maximum: float) -> np.ndarray:
    """Scores mapped so that `minimum`, the least a score can ever be, becomes 0 and `maximum` becomes 1.

    All zeros where the two are equal. `maximum` is the query's best score: "theoretical min-max" of Bruch, Gai and
    Ingber 2023, "An Analysis of Fusion Functions for Hybrid Retrieval", arXiv:2210.11934.
    """
    width = maximum - minimum
    return (scores - minimum) / width if width > 0 else np.zeros(len(scores))


def convex(
    dense: np.ndarray, lexical: np.ndarray, *, alpha: float, best_dense: float, best_lexical: float
) -> np.ndarray:
    """alpha * dense + (1 - alpha) * lexical of the same documents (n,), both normalised; float64 in 0 .. 1.

    `best_dense` and `best_lexical` are the query's best scores over the whole collection.
    """
    dense = normalised(np.asarray(dense, np.float64), COSINE_MIN, best_dense)
    lexical = normalised(np.asarray(lexical, np.float64), LEXICAL_MIN, best_lexical)
    return alpha * dense + (1 - alpha) * lexical


def reciprocal_rank(rankings: Sequence[Sequence[int]], *, k: int = 10) -> dict[int, float]:
    """Scores by position: a document at place r (from 1) of a ranking earns 1 / (k + r); earnings are added up.

    Rankings may differ in length and may miss documents. Scores lie in (0, len(rankings) / (k + 1)]. Raises ValueError
    if k < 1. Cormack, Clarke and Buettcher 2009, "Reciprocal Rank Fusion Outperforms Condorcet".
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    earned: dict[int, float] = {}
    for ranking in rankings:
        for place, position in enumerate(ranking, start=1):
            earned[position] = earned.get(position, 0.0) + 1 / (k + place)
    return earned
