"""Words and meaning together: BM25 and dense retrieval, fused."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.errors import ConfigError
from nanochat.retrieval.base import Hit, make_retriever
from nanochat.retrieval.document import Document
from nanochat.retrieval.retrievers.bm25 import BM25Retriever
from nanochat.retrieval.retrievers.dense import DenseRetriever
from nanochat.retrieval.retrievers.fusion import convex, reciprocal_rank

FUSIONS = ("convex", "rrf")
ALPHA = 0.65
LSA_ALPHA = 0.2   # its vectors know little that BM25 does not
RRF_K = 10
_DEPTH = 50    # candidates of each side, at least; and so many for each hit wanted:
_DEPTH_PER_HIT = 3
_MOSTLY = 0.8  # of the rows: where more than these are allowed, the others are dropped from the hits


class HybridRetriever:
    """Ranks the candidates of BM25 and of dense retrieval by both scores.

    fusion "convex": alpha * dense + (1 - alpha) * BM25, each mapped to 0 .. 1 by the least score there can be and the
    query's best; a candidate of one side gets its score from the other as well. "rrf": reciprocal rank fusion, for
    scores that cannot be compared. alpha None takes what suits the encoder. The other arguments are those of
    `DenseRetriever`.
    """

    def __init__(
        self, model: str = "", path: str = "auto", exact: bool | str = "auto", fusion: str = "convex",
        alpha: float | None = None,
    ) -> None:
        if fusion not in FUSIONS:
            raise ConfigError(f"Unknown fusion {fusion!r}; there are: {', '.join(FUSIONS)}", hint="choose one of these")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ConfigError(f"alpha must lie in 0 .. 1, not {alpha}", hint="0.65 is a good weight of the dense side")
        self._fusion, self._alpha = fusion, alpha
        self.bm25: BM25Retriever = make_retriever("bm25")
        self.dense = DenseRetriever(model, path, exact)

    @classmethod
    def of(
        cls, bm25: BM25Retriever, dense: DenseRetriever, *, fusion: str = "convex", alpha: float | None = None
    ) -> "HybridRetriever":
        """Over two retrievers that are loaded and hold the same rows."""
        hybrid = cls(fusion=fusion, alpha=alpha)
        hybrid.bm25, hybrid.dense = bm25, dense
        return hybrid

    @property
    def num_rows(self) -> int:
        """How many rows are indexed or loaded."""
        return self.dense.num_rows

    @property
    def alpha(self) -> float:
        """The weight of the dense side."""
        if self._alpha is not None:
            return self._alpha
        described = self.dense.describe()["encoder"]
        # a tuned encoder has another inside
        return LSA_ALPHA if described.get("base", described["encoder"]) == "lsa" else ALPHA

    def index(self, documents: Sequence[Document]) -> None:
        """Both indexes."""
        self.bm25.index(documents)
        self.dense.index(documents)

    def search(
        self, queries: Sequence[str], top_k: int, *, allowed: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """The best hits of each query; convex scores lie in 0 .. 1 for the best candidates of the collection."""
        if not self.num_rows or not queries:
            return [[] for _ in queries]
        vectors = self.dense.query_vectors(queries)
        depth = max(_DEPTH, _DEPTH_PER_HIT * top_k)
        lexical, best_lexical = _candidates(partial(self.bm25.search, queries), depth, allowed)
        dense, best_dense = _candidates(partial(self.dense.search_vectors, vectors), depth, allowed)
        if self._fusion == "rrf":
            return [_by_rank(pair, top_k) for pair in zip(lexical, dense)]
        return [
            self._by_score(query, vectors[row], lexical[row], dense[row], top_k,
                           best_lexical=_best(best_lexical[row], 0.0), best_dense=_best(best_dense[row], -1.0))
            for row, query in enumerate(queries)
        ]

    def _by_score(
        self, query: str, vector: np.ndarray, lexical: list[Hit], dense: list[Hit], top_k: int,
        *, best_lexical: float, best_dense: float,
    ) -> list[Hit]:
        if not dense:
            # no vector, such as for words the encoder does not know: every document is equally far
            return [Hit(row, (1 - self.alpha) * score / best_lexical) for row, score in lexical[:top_k]]
        of_dense, of_lexical = dict(dense), dict(lexical)
        rows = np.array(sorted(of_dense.keys() | of_lexical.keys()), np.int64)
        missing = [row for row in rows.tolist() if row not in of_dense]
        of_dense.update(zip(missing, self.dense.vectors.scores(vector, np.array(missing, np.int64)).tolist()))
        if lexical:
            of_lexical.update(self._bm25_scores(query, [row for row in rows.tolist() if row not in of_lexical]))
        scores = convex(
            np.array([of_dense[row] for row in rows.tolist()]),
            np.array([of_lexical.get(row, 0.0) for row in rows.tolist()]),
            alpha=self.alpha, best_dense=best_dense, best_lexical=best_lexical,
        )
        order = np.lexsort((rows, -scores))[:top_k]
        return [Hit(row, score) for row, score in zip(rows[order].tolist(), scores[order].tolist())]

    def _bm25_scores(self, query: str, rows: list[int]) -> dict[int, float]:
        only = np.zeros(self.num_rows, bool)
        only[rows] = True
        return dict(self.bm25.search([query], len(rows), allowed=only)[0]) if rows else {}

    def save(self, folder: Path) -> None:
        """Write both indexes into folders of their own."""
        for name, retriever in self._parts():
            (folder / name).mkdir()
            retriever.save(folder / name)

    def load(self, folder: Path) -> None:
        """Load both indexes."""
        for name, retriever in self._parts():
            retriever.load(folder / name)
        if self.bm25.num_rows != self.dense.num_rows:
            raise ValueError(f"bm25 has {self.bm25.num_rows} rows, dense has {self.dense.num_rows}")

    def write(self, folder: Path, documents: Sequence[Document], previous: Path | None = None) -> None:
        """Write both indexes of `previous` followed by `documents`."""
        for name, retriever in self._parts():
            (folder / name).mkdir()
            retriever.write(folder / name, documents, previous / name if previous else None)

    def describe(self) -> dict[str, Any]:
        """Both parts and how they are fused."""
        fusion = {"fusion": "rrf", "k": RRF_K} if self._fusion == "rrf" else {"fusion": "convex", "alpha": self.alpha}
        return {**fusion, **{name: retriever.describe() for name, retriever in self._parts()}}

    def _parts(self) -> list[tuple[str, Any]]:
        return [("bm25", self.bm25), ("dense", self.dense)]


def _candidates(
    search: Callable[..., list[list[Hit]]], depth: int, allowed: np.ndarray | None
) -> tuple[list[list[Hit]], list[list[Hit]]]:
    """The best `depth` allowed hits of each query, and hits whose first is the best of the whole collection: scores
    must not depend on the filter."""
    if allowed is None or np.count_nonzero(allowed) > _MOSTLY * len(allowed):
        # little is left out: one search serves both
        wanted = depth if allowed is None else int(depth / _MOSTLY) + 1
        found = search(wanted)
        kept = found if allowed is None else [[hit for hit in hits if allowed[hit.position]][:depth] for hits in found]
        if all(len(few) == depth or len(hits) < wanted for few, hits in zip(kept, found)):
            return kept, found
    return search(depth, allowed=allowed), search(1)


def _best(hits: list[Hit], otherwise: float) -> float:
    return hits[0].score if hits else otherwise


def _by_rank(rankings: Sequence[list[Hit]], top_k: int) -> list[Hit]:
    earned = reciprocal_rank([[hit.position for hit in hits] for hits in rankings], k=RRF_K)
    return [Hit(*item) for item in sorted(earned.items(), key=lambda item: (-item[1], item[0]))[:top_k]]
