"""Exact nearest vectors by inner product, in blocks, with scores that do not depend on batch or block."""

from collections.abc import Callable

import numpy as np

from nanochat.retrieval.base import Hit

# matrix products round differently for other shapes; what is this close to the border is looked at again
_ROUNDING = 1e-5
_QUERY_BLOCK = 32


def exact_scores(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """float32 (n,): inner products of vectors (n, D) with a query (D,), each computed on its own.

    Slower than a matrix product, but a row's score never depends on its neighbours.
    """
    return np.vecdot(vectors, query)


def search_exact(
    matrix: np.ndarray, queries: np.ndarray, top_k: int, allowed: np.ndarray | None = None
) -> list[list[Hit]]:
    """The best rows of a float32 matrix (n, D) for queries (Q, D), best first, ties by row.

    allowed: bool (n,), the rows that may be returned; None allows all.
    """
    rows = None if allowed is None else np.flatnonzero(allowed)
    if rows is not None and len(rows) <= len(matrix) // 4:
        # few rows: look at nothing else
        matrix, allowed = matrix[rows], None
    elif rows is not None:
        rows = None
    found: list[list[Hit]] = []
    for start in range(0, len(queries), _QUERY_BLOCK):
        block = queries[start : start + _QUERY_BLOCK]
        for query, scores in zip(block, block @ matrix.T if len(block) > 1 else (matrix @ block[0])[None]):
            if allowed is not None:
                scores[~allowed] = -np.inf
            found.append(rescored(near_best(scores, top_k), query, top_k, matrix.__getitem__, rows))
    return found


def near_best(scores: np.ndarray, top_k: int) -> np.ndarray:
    """The places of the `top_k` highest scores, and of all that may be among them but for rounding."""
    if len(scores) <= top_k:
        return np.flatnonzero(scores > -np.inf)
    border = np.partition(scores, -top_k)[-top_k]
    return np.flatnonzero(scores >= max(border - _ROUNDING, np.finfo(np.float32).min))


def rescored(
    places: np.ndarray, query: np.ndarray, top_k: int, gather: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray | None = None,
) -> list[Hit]:
    """The best `top_k` of these places by exact score; `rows` translates places into rows."""
    scores = exact_scores(gather(places), query)
    positions = places if rows is None else rows[places]
    order = np.lexsort((positions, -scores))[:top_k]
    return [Hit(row, score) for row, score in zip(positions[order].tolist(), scores[order].tolist())]
