"""Engines of vector search behind one small form: our index, FAISS and numpy."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nanochat.common import write_json
from nanochat.retrieval.vectors.index import VectorIndex, read_record, write_vectors
from nanochat.retrieval.vectors.store import KEY_BYTES


class Engine(Protocol):
    """A search among vectors that come in float16 blocks."""

    has_filter: bool

    def build(self, folder: Path, blocks: Iterator[np.ndarray], count: int, dimension: int) -> None: ...

    def open(self, folder: Path) -> None: ...

    def search(self, query: np.ndarray, top_k: int, allowed: np.ndarray | None) -> np.ndarray: ...

    def add(self, folder: Path, previous: Path, blocks: Iterator[np.ndarray], count: int) -> None: ...


class Ours:
    """The index of the dense retriever."""

    has_filter = True

    def __init__(self, exact: bool = False) -> None:
        self._exact = exact

    def build(self, folder: Path, blocks: Iterator[np.ndarray], count: int, dimension: int) -> None:
        write_json(folder / "record.json", write_vectors(folder, None, _keyed(blocks), count, dimension))

    def open(self, folder: Path) -> None:
        self._index = VectorIndex(folder, read_record(folder / "record.json"), exact=self._exact)

    def search(self, query: np.ndarray, top_k: int, allowed: np.ndarray | None) -> np.ndarray:
        return np.array([row for row, _ in self._index.search(query[None], top_k, allowed)[0]])

    def add(self, folder: Path, previous: Path, blocks: Iterator[np.ndarray], count: int) -> None:
        old = VectorIndex(previous, read_record(previous / "record.json"))
        write_json(folder / "record.json", write_vectors(folder, old, _keyed(blocks), count, old.dimension))


class Faiss:
    """A FAISS index, written to one file; a filter is a bitmap of the rows."""

    has_filter = True

    def __init__(self, make: Callable[[Any, int], Any]) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._faiss, self._make = faiss, make

    def build(self, folder: Path, blocks: Iterator[np.ndarray], count: int, dimension: int) -> None:
        index = self._make(self._faiss, dimension)
        for block in blocks:
            index.add(block.astype(np.float32))
        self._faiss.write_index(index, str(folder / "index.faiss"))

    def open(self, folder: Path) -> None:
        self._index = self._faiss.read_index(str(folder / "index.faiss"))

    def search(self, query: np.ndarray, top_k: int, allowed: np.ndarray | None) -> np.ndarray:
        params = None
        if allowed is not None:
            selector = self._faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            kind = self._faiss.SearchParametersHNSW if "HNSW" in type(self._index).__name__ else (
                self._faiss.SearchParameters)
            params = kind(sel=selector)
            if hasattr(self._index, "hnsw"):
                params.efSearch = self._index.hnsw.efSearch
        found = self._index.search(query[None], top_k, params=params)[1][0]
        return found[found >= 0]

    def add(self, folder: Path, previous: Path, blocks: Iterator[np.ndarray], count: int) -> None:
        index = self._faiss.read_index(str(previous / "index.faiss"))
        for block in blocks:
            index.add(block.astype(np.float32))
        self._faiss.write_index(index, str(folder / "index.faiss"))


class Numpy:
    """A float32 matrix in memory."""

    has_filter = True

    def build(self, folder: Path, blocks: Iterator[np.ndarray], count: int, dimension: int) -> None:
        np.save(folder / "vectors.npy", np.concatenate([block.astype(np.float32) for block in blocks]))

    def open(self, folder: Path) -> None:
        self._matrix = np.load(folder / "vectors.npy", allow_pickle=False)

    def search(self, query: np.ndarray, top_k: int, allowed: np.ndarray | None) -> np.ndarray:
        scores = self._matrix @ query
        if allowed is not None:
            scores[~allowed] = -np.inf
        best = np.argpartition(scores, -top_k)[-top_k:]
        return best[np.argsort(-scores[best])]

    def add(self, folder: Path, previous: Path, blocks: Iterator[np.ndarray], count: int) -> None:
        old = np.load(previous / "vectors.npy", allow_pickle=False)
        np.save(folder / "vectors.npy", np.concatenate([old, *(block.astype(np.float32) for block in blocks)]))


def _keyed(blocks: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return ((np.zeros((len(block), KEY_BYTES), np.uint8), block) for block in blocks)


def _hnsw(faiss: Any, dimension: int) -> Any:
    index = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 100, 256
    return index


ENGINES: dict[str, Callable[[], Engine]] = {
    "ours": Ours,
    "ours exact": lambda: Ours(exact=True),
    "numpy": Numpy,
    "faiss flat": lambda: Faiss(lambda faiss, dimension: faiss.IndexFlatIP(dimension)),
    "faiss fp16": lambda: Faiss(lambda faiss, dimension: faiss.IndexScalarQuantizer(
        dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)),
    "faiss HNSW32 ef256": lambda: Faiss(_hnsw),
}
# engines that take too long, or too much memory, for more rows
SMALL_ONLY = {"faiss HNSW32 ef256": 200_000, "ours exact": 200_000}
