"""Product quantisation with 4 bits per code, scanned by FAISS in registers, for collections too large for exact search.

Jégou, Douze and Schmid 2011, "Product Quantization for Nearest Neighbor Search"; André, Kermarrec and Le Scouarnec
2015, "Cache locality is not enough: High-Performance Nearest Neighbor Search with Product Quantization Fast Scan".
From two million rows on, vectors are also sorted into lists around centroids, of which a query scans the nearest.
"""

import importlib.util
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.retrieval.base import hard_link_or_copy
from nanochat.retrieval.vectors.store import ArrayFile, Span, VectorStore

log = logging.getLogger(__name__)

CODEBOOK = "pq-codebook.npy"
EXACT_ROWS = 20_000        # up to here exact search is fast, and nothing is trained
_DIMENSIONS_PER_CODE = 2   # bench/vectors.py: 3 and 4 need so many more candidates that they save nothing
_TRAINING_ROWS = 20_000
_RETRAIN_GROWTH = 4        # codebooks are learned again when the collection has grown by this factor since
_CODES = 16                # 4 bits
LISTS = "pq-lists.npy"
LISTED_ROWS = 2_000_000    # from here on it pays: all rows take 6 ms per million, the lists 4
_NUM_LISTS = 2_048
_SCANNED_LISTS = 0.4       # share of them; with 0.3, recall@10 in two million rows falls below 0.99
_ROWS_PER_LIST = 40        # to learn the centroids from
_SCAN_ALL = 100            # where more than one row in so many is wanted, all lists are scanned


def has_faiss() -> bool:
    """Whether the package is installed; it is not imported."""
    return importlib.util.find_spec("faiss") is not None


def write_codes(folder: Path, store: VectorStore, previous: Path | None, trained_rows: int) -> int:
    """Write codes beside the vectors of `store`, which are in `folder`; returns how many rows the codebook has seen.

    Codebook and codes of `previous` (learned when it had `trained_rows` rows, 0: there are none) are linked where
    they still serve. 0: no codes, because the collection is small or faiss is not there.
    """
    if store.num_rows <= EXACT_ROWS or not has_faiss():
        return 0
    if previous is None or not trained_rows or store.num_rows > _RETRAIN_GROWTH * trained_rows:
        codebook, previous, trained_rows = _train(store), None, store.num_rows
        np.save(folder / CODEBOOK, codebook, allow_pickle=False)
        if trained_rows >= LISTED_ROWS:
            np.save(folder / LISTS, _train_lists(store), allow_pickle=False)
    else:
        for name in (CODEBOOK, LISTS):
            if (previous / name).is_file():
                hard_link_or_copy(previous / name, folder / name)
        codebook = _read_codebook(folder, store.dimension)
    encoder = _quantiser(codebook, _read_lists(folder, store.dimension))
    for span in store.spans:
        if previous is not None and (previous / span.name("c")).is_file():
            hard_link_or_copy(previous / span.name("c"), folder / span.name("c"))
            continue
        vectors = store.vectors(span)
        with ArrayFile(folder / span.name("c"), (span.rows, encoder.sa_code_size()), np.uint8) as codes:
            for start in range(0, span.rows, 8_192):
                codes.append(encoder.sa_encode(_padded(vectors[start : start + 8_192], encoder.d)))
    return trained_rows


class QuantisedVectors:
    """Candidates for the nearest vectors, from their codes alone. The codes are read by the first search."""

    def __init__(self, folder: Path, spans: Sequence[Span], dimension: int) -> None:
        """Raises ValueError or OSError when the files are not as the spans say."""
        self._codebook = _read_codebook(folder, dimension)
        self._lists = _read_lists(folder, dimension)
        # a code begins with the number of its list
        size = self._codebook.shape[0] // 2 + (0 if self._lists is None else _bytes_of(len(self._lists) - 1))
        self._codes = [np.load(folder / span.name("c"), mmap_mode="r", allow_pickle=False) for span in spans]
        for codes, span in zip(self._codes, spans):
            if codes.shape != (span.rows, size) or codes.dtype != np.uint8:
                raise ValueError(f"{span.name('c')} does not hold {span.rows} codes of {size} bytes")
        self._lock = threading.Lock()
        self._index: Any = None

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray:
        """int64, the rows of about the `count` nearest vectors, in no particular order."""
        with self._lock:
            if self._index is None:
                self._index = self._packed()
        padded = _padded(query[None], self._index.d)
        # one query at a time: the result must not depend on the batch
        rows = self._index.search(padded, min(count, self._index.ntotal), params=self._scanned(count))[1][0]
        return rows[rows >= 0]

    def _scanned(self, count: int) -> Any:
        """How many of the lists a search for `count` rows scans; None where there are none."""
        if self._lists is None:
            return None
        import faiss

        share = 1 if count * _SCAN_ALL > self._index.ntotal else _SCANNED_LISTS
        return faiss.SearchParametersIVF(nprobe=max(1, int(share * len(self._lists))))

    def _packed(self) -> Any:
        import faiss

        plain = _quantiser(self._codebook, self._lists)
        for codes in self._codes:
            plain.add_sa_codes(np.ascontiguousarray(codes))
        self._codes = []
        if self._lists is None:
            return faiss.IndexPQFastScan(plain)
        index = faiss.IndexIVFPQFastScan(plain)
        plain.reset()
        # the new index only points to the centroids of this one
        self._plain = plain
        return index


def _train(store: VectorStore) -> np.ndarray:
    """Codebook (codes per vector, 16, dimensions per code), learned from a sample that depends on nothing but the rows.

    """
    import faiss

    rows = np.arange(store.num_rows)
    if store.num_rows > _TRAINING_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(store.num_rows, _TRAINING_ROWS, replace=False))
    num_codes = num_codes_of(store.dimension)
    quantiser = faiss.IndexPQ(num_codes * _DIMENSIONS_PER_CODE, num_codes, 4, faiss.METRIC_INNER_PRODUCT)
    quantiser.train(_padded(store.gather(rows), quantiser.d))
    return faiss.vector_to_array(quantiser.pq.centroids).reshape(num_codes, _CODES, _DIMENSIONS_PER_CODE)


def num_codes_of(dimension: int) -> int:
    """Codes per vector: an even number, so that they fill whole bytes."""
    return -(-dimension // (2 * _DIMENSIONS_PER_CODE)) * 2


def _train_lists(store: VectorStore) -> np.ndarray:
    """Centroids (lists, dimension) float32 of length 1, learned from a sample like `_train`."""
    import faiss

    size = min(store.num_rows, _NUM_LISTS * _ROWS_PER_LIST)
    rows = np.sort(np.random.default_rng(1).choice(store.num_rows, size, replace=False))
    kmeans = faiss.Kmeans(store.dimension, _NUM_LISTS, niter=8, spherical=True, seed=0,
                          min_points_per_centroid=1, max_points_per_centroid=_ROWS_PER_LIST)
    kmeans.train(store.gather(rows))
    return np.ascontiguousarray(kmeans.centroids, np.float32)


def _quantiser(codebook: np.ndarray, lists: np.ndarray | None) -> Any:
    """An empty FAISS index with this codebook, and with lists around these centroids if there are any."""
    import faiss

    num_codes, _, width = codebook.shape
    if lists is None:
        quantiser = faiss.IndexPQ(num_codes * width, num_codes, 4, faiss.METRIC_INNER_PRODUCT)
    else:
        centroids = faiss.IndexFlatIP(num_codes * width)
        centroids.add(_padded(lists, num_codes * width))
        quantiser = faiss.IndexIVFPQ(centroids, centroids.d, len(lists), num_codes, 4, faiss.METRIC_INNER_PRODUCT)
        quantiser.by_residual, quantiser.use_precomputed_table = False, -1
    faiss.copy_array_to_vector(np.ascontiguousarray(codebook, np.float32).ravel(), quantiser.pq.centroids)
    quantiser.is_trained = True
    return quantiser


def _read_lists(folder: Path, dimension: int) -> np.ndarray | None:
    if not (folder / LISTS).is_file():
        return None
    lists = np.load(folder / LISTS, allow_pickle=False)
    if lists.shape != (len(lists), dimension) or not len(lists) or lists.dtype != np.float32:
        raise ValueError(f"{LISTS} holds {lists.shape} {lists.dtype}")
    return lists


def _bytes_of(number: int) -> int:
    return -(-number.bit_length() // 8)


def _read_codebook(folder: Path, dimension: int) -> np.ndarray:
    codebook = np.load(folder / CODEBOOK, allow_pickle=False)
    if codebook.shape != (num_codes_of(dimension), _CODES, _DIMENSIONS_PER_CODE) or codebook.dtype != np.float32:
        raise ValueError(f"{CODEBOOK} holds {codebook.shape} {codebook.dtype}")
    return codebook


def _padded(vectors: np.ndarray, width: int) -> np.ndarray:
    """float32, with zero columns up to `width`."""
    if vectors.shape[1] == width:
        return np.ascontiguousarray(vectors, np.float32)
    wide = np.zeros((len(vectors), width), np.float32)
    wide[:, : vectors.shape[1]] = vectors
    return wide
