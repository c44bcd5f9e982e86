"""An encoder without a model: latent semantic analysis of the user's own corpus, beside hashed words. Numpy only.

Deerwester et al. 1990, "Indexing by Latent Semantic Analysis"; the hashed half is a random projection of the term
space (Achlioptas 2003), so that words which the learned half has never seen still count.
"""

import functools
import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.common import write_json
from nanochat.retrieval.encoders.base import DESCRIPTION, EncoderError
from nanochat.retrieval.encoders.svd import SparseRows, term_vectors
from nanochat.retrieval.words.analysis import ANALYSIS, analyze

LEARNED, HASHED = 256, 128        # dimensions of the two halves
HASHED_SHARE = 0.5                # weight of the hashed half against the learned one
FIRST_FIT, LAST_FIT, FACTOR = 1_000, 16_000, 4  # texts to learn from; fewer than the first: hashed words only
MAX_TERMS = 50_000                # terms with a learned vector, the most frequent first
_BLOCK = 256                      # texts at a time: their terms' vectors are gathered in memory
_FILE = "lsa.npz"


class LsaEncoder:
    """Sum of term vectors, weighted by (1 + ln tf) * ln(1 + N / df), of length 1.

    A text without any word is the zero vector. Terms are kept as 64-bit hashes: the files hold no readable word.
    """

    dimension = LEARNED + HASHED

    def __init__(self) -> None:
        self.fitted_rows = 0
        self._keys = np.zeros(0, np.uint64)                     # (V,) ascending
        self._counts = np.zeros(0, np.int32)                    # (V,) texts with the term
        self._vectors = np.zeros((0, LEARNED), np.float16)      # (V, LEARNED)

    def rows_to_fit(self, num_rows: int) -> int:
        """0 below 1,000 rows; then 1,000, 4,000 or 16,000."""
        rows = FIRST_FIT
        while rows * FACTOR <= min(num_rows, LAST_FIT):
            rows *= FACTOR
        return rows if num_rows >= FIRST_FIT else 0

    def fit(self, texts: Iterable[str]) -> None:
        """Learn the terms' vectors. The same texts give the same vectors."""
        counted = list(_count(texts))
        self.fitted_rows = len(counted)
        keys, numbers = _distinct(_flat(counted, 0, np.uint64))
        counts = np.bincount(numbers, minlength=len(keys))
        kept = np.sort(np.lexsort((keys, -counts))[:MAX_TERMS])
        places = np.full(len(keys), -1)
        places[kept] = np.arange(len(kept))
        self._keys, self._counts = keys[kept], counts[kept].astype(np.int32)
        columns = places[numbers]
        weights = (_flat(counted, 1, np.float32) * _idf(counts[numbers], self.fitted_rows))[columns >= 0]
        rows = np.repeat(np.arange(len(counted)), [len(one[0]) for one in counted])[columns >= 0]
        matrix = SparseRows.of(rows, columns[columns >= 0], weights, len(counted), len(kept))
        self._vectors = term_vectors(matrix, LEARNED).astype(np.float16)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (N, 384) float32."""
        blocks = [self._encode(texts[start : start + _BLOCK]) for start in range(0, len(texts), _BLOCK)]
        return np.concatenate([np.zeros((0, self.dimension), np.float32), *blocks])

    encode_queries = encode_documents

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        counted = list(_count(texts))
        lengths = np.array([len(one[0]) for one in counted])
        result = np.zeros((len(texts), self.dimension), np.float32)
        keys, numbers = _distinct(_flat(counted, 0, np.uint64))
        if not len(keys):
            return result
        places = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        known[places < len(self._keys)] = (
            self._keys[places[places < len(self._keys)]] == keys[places < len(self._keys)]
        )
        counts = np.zeros(len(keys), np.int32)
        counts[known] = self._counts[places[known]]
        vectors = np.zeros((len(keys), self.dimension), np.float32)
        vectors[known, :LEARNED] = self._vectors[places[known]]
        vectors[:, LEARNED:] = _signs(keys) * (HASHED_SHARE / np.sqrt(HASHED))
        vectors *= _idf(counts, self.fitted_rows)[:, None]
        weights = _flat(counted, 1, np.float32)
        filled = np.flatnonzero(lengths)
        starts = (np.cumsum(lengths) - lengths)[filled]
        result[filled] = np.add.reduceat(vectors[numbers] * weights[:, None], starts, axis=0)
        norms = np.linalg.norm(result, axis=1, keepdims=True)
        return np.divide(result, norms, out=result, where=norms > 0)

    def describe(self) -> dict[str, Any]:
        """The analysis chain, and a fingerprint of what was learned."""
        digest = hashlib.sha256(json.dumps([ANALYSIS, LEARNED, HASHED, HASHED_SHARE, self.fitted_rows]).encode())
        for array in (self._keys, self._counts, self._vectors):
            digest.update(array.tobytes())
        return {
            "encoder": "lsa", "model": "lsa", "fingerprint": digest.hexdigest()[:32], "dimension": self.dimension,
            "normalised": True, "analysis": ANALYSIS, "fitted_rows": self.fitted_rows,
            "documents_path": "numpy", "queries_path": "numpy",
        }

    def save(self, folder: Path) -> None:
        """Write what was learned: about 25 MB at most."""
        np.savez(folder / _FILE, keys=self._keys, counts=self._counts, vectors=self._vectors)
        write_json(folder / DESCRIPTION, self.describe())

    @classmethod
    def load(cls, folder: Path, *, places: Sequence[Path] = ()) -> "LsaEncoder":
        """Read what `save` wrote and check it."""
        encoder = cls()
        try:
            written = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            with np.load(folder / _FILE, allow_pickle=False) as arrays:
                encoder._keys, encoder._counts = arrays["keys"], arrays["counts"]
                encoder._vectors = arrays["vectors"]
            encoder.fitted_rows = int(written["fitted_rows"])
            fits = encoder.describe()["fingerprint"] == written["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise EncoderError(f"The encoder in {folder} cannot be read: {error}", hint=_REBUILD) from error
        if not fits:
            raise EncoderError(f"The encoder in {folder} is damaged or of another version", hint=_REBUILD)
        return encoder


_REBUILD = "build the knowledge base again: python -m nanochat.retrieval --type dense --model lsa ..."


def _count(texts: Iterable[str]) -> Iterator[tuple[list[int], list[float]]]:
    """Keys and damped counts of each text's terms, in order of appearance."""
    for text in texts:
        counts = Counter(map(_key, analyze(text)))
        yield list(counts), [_damped(count) for count in counts.values()]


@functools.lru_cache(maxsize=1 << 18)
def _key(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode("utf-8"), digest_size=8).digest(), "little")


@functools.cache
def _damped(count: int) -> float:
    return 1.0 + float(np.log(count))


def _flat(counted: Sequence[tuple[list, list]], which: int, kind: Any) -> np.ndarray:
    return np.array([value for one in counted for value in one[which]], kind)


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different keys, ascending, and the place of each key among them.

    np.unique would import masked arrays, which takes longer than a query.
    """
    order = np.argsort(keys, kind="stable")
    ascending = keys[order]
    starts = np.append(True, ascending[1:] != ascending[:-1])[: len(keys)]
    places = np.empty(len(keys), np.int64)
    places[order] = np.cumsum(starts) - 1
    return ascending[starts], places


def _idf(counts: np.ndarray, num_rows: int) -> np.ndarray:
    return np.log1p(max(num_rows, 1) / np.maximum(counts, 1)).astype(np.float32)


def _signs(keys: np.ndarray) -> np.ndarray:
    """(n, HASHED) of -1 and 1 that look random and depend on each key alone (splitmix64)."""
    steps = np.arange(1, HASHED // 64 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = keys[:, None] + steps
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    bits = np.unpackbits(mixed.astype("<u8").view(np.uint8), axis=1)
    return bits.astype(np.float32) * 2 - 1
