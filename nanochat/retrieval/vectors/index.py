"""A folder of vectors that can be searched and extended: exact when small, quantised with refinement when large."""

import json
import logging
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.retrieval.base import Hit
from nanochat.retrieval.vectors.exact import near_best, rescored, search_exact
from nanochat.retrieval.vectors.quantised import QuantisedVectors, has_faiss, write_codes
from nanochat.retrieval.vectors.store import Span, VectorStore, to_float32, write_spans

log = logging.getLogger(__name__)

_CANDIDATES = 150          # that are scored exactly, at least, in 100,000 rows; more in more rows, by this power:
_CANDIDATES_GROWTH = 0.3
_CANDIDATES_PER_HIT = 4    # so many for each hit wanted
_GATHER_ROWS = 5_000       # so few allowed rows are scored one by one
_MATRIX_BYTES = 2 << 30    # exact search keeps float32 vectors in memory up to here


class VectorIndex:
    """Vectors of rows 0 .. num_rows - 1, from a folder that `write_vectors` filled."""

    def __init__(self, folder: Path, record: Mapping[str, Any], *, exact: bool = False) -> None:
        """`record` is what `write_vectors` returned. Raises ValueError or OSError when files do not fit it."""
        spans = [Span(int(first), int(rows)) for first, rows in record["spans"]]
        self.store = VectorStore(folder, spans, int(record["dimension"]))
        self.num_rows, self.dimension = self.store.num_rows, self.store.dimension
        self.trained_rows = int(record["trained_rows"])
        self._quantised: QuantisedVectors | None = None
        if self.trained_rows and not exact:
            if has_faiss():
                self._quantised = QuantisedVectors(folder, spans, self.dimension)
            else:
                log.warning("faiss is not installed: %s rows are searched one by one", f"{self.num_rows:,}")
        self._matrix: np.ndarray | None = None
        self._lock = threading.Lock()

    def search(self, queries: np.ndarray, top_k: int, allowed: np.ndarray | None = None) -> list[list[Hit]]:
        """The rows nearest to float32 queries (Q, dimension), by inner product; a query of zeros finds nothing.

        allowed: bool (num_rows,), the rows that may be returned.
        """
        found: list[list[Hit]] = [[] for _ in queries]
        usable = np.flatnonzero(queries.any(axis=1))
        if not self.num_rows or not len(usable) or top_k < 1:
            return found
        if self._quantised is None:
            hits = self._exact(queries[usable], top_k, allowed)
        else:
            hits = [self._refined(queries[number], top_k, allowed) for number in usable]
        for number, row in zip(usable.tolist(), hits):
            found[number] = row
        return found

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """float32 (len(rows),), the scores that `search` gives these rows."""
        return np.vecdot(self.store.gather(rows), query)

    def _refined(self, query: np.ndarray, top_k: int, allowed: np.ndarray | None) -> list[Hit]:
        growth = max(1.0, self.num_rows / 100_000) ** _CANDIDATES_GROWTH
        wanted = max(int(_CANDIDATES * growth), _CANDIDATES_PER_HIT * top_k)
        if allowed is None:
            return rescored(self._quantised.candidates(query, wanted), query, top_k, self.store.gather)
        num_allowed = int(np.count_nonzero(allowed))
        if num_allowed <= max(_GATHER_ROWS, wanted):
            return rescored(np.flatnonzero(allowed), query, top_k, self.store.gather)
        # so many candidates hold enough allowed ones, if those are spread evenly; more if they are not
        count = int(1.2 * wanted * self.num_rows / num_allowed)
        while True:
            rows = self._quantised.candidates(query, count)
            rows = rows[allowed[rows]]
            if len(rows) >= wanted or count >= self.num_rows:
                return rescored(rows, query, top_k, self.store.gather)
            count *= 4

    def _exact(self, queries: np.ndarray, top_k: int, allowed: np.ndarray | None) -> list[list[Hit]]:
        if 4 * self.num_rows * self.dimension <= _MATRIX_BYTES:
            with self._lock:
                if self._matrix is None:
                    self._matrix = self.store.matrix()
            return search_exact(self._matrix, queries, top_k, allowed)
        scores = np.empty((len(queries), self.num_rows), np.float32)
        for first, block in self.store.blocks():
            scores[:, first : first + len(block)] = queries @ to_float32(block).T
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        return [rescored(near_best(row, top_k), query, top_k, self.store.gather) for row, query in zip(scores, queries)]


def write_vectors(
    folder: Path, previous: VectorIndex | None, blocks: Iterable[tuple[np.ndarray, np.ndarray]], num_new: int,
    dimension: int,
) -> dict[str, Any]:
    """Write the vectors of `previous` followed by `num_new` rows, which come in blocks of keys and vectors.

    Returns the record that `VectorIndex` opens the folder with, JSON-ready.
    """
    spans = write_spans(folder, previous.store if previous else None, blocks, num_new, dimension)
    store = VectorStore(folder, spans, dimension)
    trained_rows = write_codes(
        folder, store, previous.store.folder if previous else None, previous.trained_rows if previous else 0
    )
    return {"dimension": dimension, "spans": [list(span) for span in spans], "trained_rows": trained_rows}


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError when it is none."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return record
