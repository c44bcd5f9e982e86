"""TF-IDF with damped counts and pivoted length normalisation, over an inverted index in plain numpy arrays."""

import array
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.retrieval.analysis import ANALYSIS, analyze, spaced_words, term
from nanochat.retrieval.base import Hit
from nanochat.retrieval.document import Document

# between 0 (document length does not matter) and 1 (full cosine); chosen once on training questions of four sets
SLOPE = 0.3
_BLOCK = 20_000  # documents counted at a time, to bound memory


class SimpleRetriever:
    """Ranks by the sum over shared terms of document weight * query weight.

    Document weight: 1 + ln(1 + ln tf), divided by (1 - slope) * mean length + slope * length, where length is the
    Euclidean norm of the document's weights; query weight: (1 + ln tf) * ln(1 + N / df). Singhal, Buckley and Mitra
    1996, "Pivoted Document Length Normalization"; Singhal et al. 1998, "AT&T at TREC-7" (the double logarithm).

    The inverted index is in compressed rows: term i owns positions[offsets[i]:offsets[i + 1]] (documents, ascending)
    and the weights beside them. No dependency but numpy.
    """

    def __init__(self) -> None:
        self._set([], np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), 0)

    def _set(self, terms: list[str], offsets: Any, positions: Any, weights: Any, num_documents: int) -> None:
        self._terms = {name: number for number, name in enumerate(terms)}
        self._offsets, self._positions, self._weights = offsets, positions, weights
        self._num_documents = num_documents

    def index(self, documents: Sequence[Document]) -> None:
        """Count the terms of all documents and weigh them."""
        terms = _Terms()
        keys, counts = zip(*_count_blocks(documents, terms)) if len(documents) else ((), ())
        keys = np.concatenate([np.zeros(0, np.int64), *keys])
        counts = np.concatenate([np.zeros(0, np.int64), *counts])
        # a key is (term, document) in one number: sorted, it is the inverted index
        order = np.argsort(keys, kind="stable")
        rows, positions = np.divmod(keys[order], max(len(documents), 1))
        offsets = np.searchsorted(rows, np.arange(len(terms.names) + 1))
        weights = 1 + np.log1p(np.log(counts[order]))
        lengths = np.sqrt(np.bincount(positions, weights**2, minlength=len(documents)))
        pivot = lengths.mean() if len(documents) else 1.0
        weights /= ((1 - SLOPE) * pivot + SLOPE * lengths)[positions]
        arrays = offsets.astype(np.int64), positions.astype(np.int32), weights.astype(np.float32)
        self._set(terms.names, *arrays, len(documents))

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The best hits of each query."""
        return [self._search(query, top_k) for query in queries]

    def _search(self, query: str, top_k: int) -> list[Hit]:
        counts: dict[int, int] = {}
        for name in analyze(query):
            number = self._terms.get(name)
            if number is not None:
                counts[number] = counts.get(number, 0) + 1
        scores = np.zeros(self._num_documents)
        # ascending term numbers: the order of additions must not depend on the order of words
        for number in sorted(counts):
            start, end = self._offsets[number], self._offsets[number + 1]
            idf = _idf(end - start, self._num_documents)
            # a term's documents are distinct, so the indexed addition is safe
            scores[self._positions[start:end]] += (1 + np.log(counts[number])) * idf * self._weights[start:end]
        return best_hits(scores, top_k)

    def save(self, folder: Path) -> None:
        """Write terms.txt and three .npy arrays."""
        (folder / "terms.txt").write_text("".join(f"{name}\n" for name in self._terms), encoding="utf-8")
        for name, value in self._arrays().items():
            np.save(folder / f"{name}.npy", value, allow_pickle=False)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; the arrays stay on disk until they are used."""
        terms = (folder / "terms.txt").read_text(encoding="utf-8").split("\n")[:-1]
        arrays = {
            name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in self._arrays()
        }
        offsets = arrays["offsets"]
        if len(offsets) != len(terms) + 1 or not offsets[-1] == len(arrays["positions"]) == len(arrays["weights"]):
            raise ValueError("terms and arrays do not belong together")
        self._set(terms, offsets, arrays["positions"], arrays["weights"], int(arrays["num_documents"]))

    def _arrays(self) -> dict[str, Any]:
        return {
            "offsets": self._offsets,
            "positions": self._positions,
            "weights": self._weights,
            "num_documents": np.int64(self._num_documents),
        }

    def describe(self) -> dict[str, Any]:
        """Analysis chain and weighting."""
        return {"analysis": ANALYSIS, "weights": "dtn.ltn pivoted", "slope": SLOPE}


def best_hits(scores: Any, top_k: int) -> list[Hit]:
    """The `top_k` highest of the scores (N,) that are above zero, best first, ties by position."""
    found = np.flatnonzero(scores > 0)
    if len(found) > top_k:
        values = scores[found]
        # everything at or above the k-th value: ties at the border are cut by position below, not by luck
        found = found[values >= np.partition(values, -top_k)[-top_k]]
    found = found[np.argsort(-scores[found], kind="stable")][:top_k]
    return [Hit(position, score) for position, score in zip(found.tolist(), scores[found].tolist())]


def _idf(document_frequency: Any, num_documents: int) -> Any:
    return np.log1p(num_documents / np.maximum(document_frequency, 1))


class _Terms(dict):
    """Word -> term number, filled on first sight; -1 for words that are not indexed."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        name = term(word)
        number = -1
        if name:
            number = self._numbers.setdefault(name, len(self._numbers))
            if number == len(self.names):
                self.names.append(name)
        self[word] = number
        return number


def _count_blocks(documents: Sequence[Document], terms: _Terms) -> Iterator[tuple[Any, Any]]:
    """Per block of documents: keys (term * num_documents + document), distinct, and how often each occurs."""
    for start in range(0, len(documents), _BLOCK):
        block = documents[start : start + _BLOCK]
        words = [spaced_words(document.text).split() for document in block]
        numbers = np.frombuffer(array.array("q", map(terms.__getitem__, chain.from_iterable(words))), np.int64)
        owners = np.repeat(np.arange(start, start + len(block)), [len(row) for row in words])
        keys = numbers * len(documents) + owners
        yield np.unique(keys[numbers >= 0], return_counts=True)
