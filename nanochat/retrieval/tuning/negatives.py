"""Hard negatives: passages that share a query's words and do not answer it, as far as can be told."""

from collections.abc import Sequence

import numpy as np

from nanochat.retrieval.base import Retriever
from nanochat.retrieval.tuning.pseudo_queries import PseudoQuery

DEPTH = 30              # hits of the lexical retriever that are looked at
_NEAR = 0.1             # passages so much nearer than two random ones, as a share of that distance, say the same


def hard_negatives(
    queries: Sequence[PseudoQuery], lexical: Retriever, vectors: np.ndarray, groups: np.ndarray, count: int
) -> np.ndarray:
    """int64 (len(queries), count): places of the best lexical hits that may count as wrong; -1 where there are fewer.

    vectors (N, D), of length 1, and groups (N,) belong to the passages that `lexical` has indexed. Not counted as
    wrong are passages of the query's own document (`groups` says which), and those whose vectors are nearly that of
    its passage.
    """
    near = near_duplicate(vectors)
    found = np.full((len(queries), count), -1, np.int64)
    hits = lexical.search([query.text for query in queries], DEPTH)
    for row, query in enumerate(queries):
        places = np.array([hit.position for hit in hits[row]], np.int64)
        is_wrong = groups[places] != groups[query.place]
        is_wrong &= vectors[places] @ vectors[query.place] < near
        chosen = places[is_wrong][:count]
        found[row, : len(chosen)] = chosen
    return found


def near_duplicate(vectors: np.ndarray) -> float:
    """The cosine from which two passages count as saying the same, for vectors (N, D) of length 1.

    0.9 where random passages are at right angles, more for encoders that put all texts into a narrow cone.
    """
    # the mean over all pairs
    usual = float(np.square(vectors.mean(axis=0, dtype=np.float64)).sum())
    return 1 - _NEAR * (1 - min(usual, 1.0))


def groups_of(names: Sequence[str]) -> np.ndarray:
    """int64 (len(names),): equal numbers for equal names."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
