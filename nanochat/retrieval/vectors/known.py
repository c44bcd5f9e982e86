"""Vectors that need not be computed again: of an earlier index, and of a write that was interrupted."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nanochat.retrieval.vectors.store import KEY_BYTES, VectorStore


def text_keys(texts: Sequence[str]) -> np.ndarray:
    """uint8 (len(texts), 16): a hash of each text."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest() for text in texts)
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, KEY_BYTES)


class KnownVectors:
    """Finds vectors by the key of their text. All sources must come from one and the same encoder."""

    def __init__(self) -> None:
        self._keys: list[np.ndarray] = []
        self._vectors: list[np.ndarray] = []
        self._sorted: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """A source: uint8 (n, 16) and float16 (n, dimension)."""
        self._keys.append(keys)
        self._vectors.append(vectors)
        self._sorted = None

    def add_store(self, store: VectorStore) -> None:
        """All vectors of an index."""
        for span in store.spans:
            self.add(store.keys(span), store.vectors(span))

    def fill(self, keys: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Put the vectors that are known into `vectors` (n, dimension); returns bool (n,), which ones they are."""
        if not sum(map(len, self._keys)):
            return np.zeros(len(keys), bool)
        if self._sorted is None:
            self._sorted = self._sort()
        everything, starts, order, firsts = self._sorted
        places = np.searchsorted(starts, _first_half(keys))
        places[places == len(starts)] = 0
        rows = order[places]
        # two keys with the same first half: costs an encoding, never gives a wrong vector
        found = (everything[rows] == keys).all(axis=1)
        sources = np.searchsorted(firsts, rows, side="right") - 1
        for source in np.unique(sources[found]):
            mine = found & (sources == source)
            vectors[mine] = self._vectors[source][rows[mine] - firsts[source]]
        return found

    def _sort(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All keys, their first halves in order, the rows in that order, and the first row of each source."""
        everything = np.concatenate(self._keys)
        halves = _first_half(everything)
        order = np.argsort(halves, kind="stable")
        firsts = np.cumsum([0, *(len(keys) for keys in self._keys)])[:-1]
        return everything, halves[order], order, firsts


class Journal:
    """Finished blocks of a write in a folder, so that the next attempt does not encode them again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, known: KnownVectors, dimension: int) -> None:
        """Add the blocks that are there. A block that a crash left unfinished is passed over."""
        for path in sorted(self._folder.glob("*.keys.npy")):
            try:
                keys = np.load(path, allow_pickle=False)
                # mapped, because all blocks of a large build together do not belong in memory
                file = path.with_name(path.name.replace(".keys.", ".vectors."))
                vectors = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError, EOFError):
                continue
            if keys.shape == (len(vectors), KEY_BYTES) and vectors.shape[1:] == (dimension,):
                known.add(keys, vectors)

    def save(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Keep a finished block: vectors first, so that keys without vectors cannot be."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = keys[0].tobytes().hex()
        for kind, array in (("vectors", vectors), ("keys", keys)):
            temporary = self._folder / f"{name}.{kind}.tmp"
            with open(temporary, "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._folder / f"{name}.{kind}.npy")


def _first_half(keys: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64).ravel()
