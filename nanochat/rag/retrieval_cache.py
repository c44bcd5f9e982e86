"""Retrieval for training, done once before the loop and kept on disk: by query, number of documents and index."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from nanochat.common import base_dir, write_folder

Search = Callable[[Sequence[str], int], list[list[int]]]
AT_ONCE = 512  # queries of one call
NOTHING = -1  # fills the rows of queries that find fewer documents
MAX_KEPT = 64  # indexes whose results are kept; the ones not used for longest go first


class RetrievalCache:
    """A search that remembers, in memory and in a folder.

    `search` maps queries and a number of documents to positions, best first. `index` says what the positions depend on
    beside the query: the knowledge base's documents, its version, the retriever and its settings. Results of another
    index are never returned; a damaged file counts as absent. `folder` "" keeps nothing on disk.
    """

    def __init__(self, search: Search, index: object, folder: str | Path | None = None) -> None:
        self._search = search
        self._digest = hashlib.sha256(json.dumps(index, sort_keys=True, default=str).encode()).hexdigest()
        self.folder = base_dir() / "cache" / "retrieval" if folder is None else Path(folder) if folder else None
        self._rows: dict[tuple[int, bytes], list[int]] = {}
        self._read: set[int] = set()
        self.num_searched = 0  # queries that were not known, and the seconds they took
        self.seconds = 0.0

    def __call__(self, queries: Sequence[str], top_k: int) -> list[list[int]]:
        """Positions for each query, best first; what is not known yet is searched, and kept in memory."""
        keys = [(top_k, _key(query)) for query in queries]
        missing = {key: query for key, query in zip(keys, queries, strict=True) if key not in self._rows}
        if missing:
            start = time.perf_counter()
            self._rows.update(zip(missing, self._search(list(missing.values()), top_k), strict=True))
            self.num_searched += len(missing)
            self.seconds += time.perf_counter() - start
        # copies: a caller may change its list
        return [list(self._rows[key]) for key in keys]

    def warm(self, queries: Iterable[str], top_k: int) -> tuple[int, int]:
        """Search all queries that neither memory nor disk knows, and write the file; returns how many queries there
        are and how many of them had to be searched.
        """
        wanted = list(dict.fromkeys(queries))
        self._load(top_k)
        before = self.num_searched
        for start in range(0, len(wanted), AT_ONCE):
            self(wanted[start : start + AT_ONCE], top_k)
        num_new = self.num_searched - before
        if num_new:
            self._store(top_k)
        return len(wanted), num_new

    def _place(self, top_k: int) -> Path | None:
        return self.folder / f"{self._digest[:24]}-{top_k}" if self.folder is not None else None

    def _load(self, top_k: int) -> None:
        place = self._place(top_k)
        if place is None or top_k in self._read or not place.is_dir():
            return
        self._read.add(top_k)
        try:
            keys = np.load(place / "queries.npy", allow_pickle=False)
            rows = np.load(place / "positions.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return
        if keys.dtype == np.uint8 and keys.ndim == rows.ndim == 2 and keys.shape[1] == 16 and len(keys) == len(rows):
            for key, row in zip(keys, rows.tolist(), strict=True):
                self._rows.setdefault((top_k, key.tobytes()), [position for position in row if position != NOTHING])

    def _store(self, top_k: int) -> None:
        place = self._place(top_k)
        if place is None:
            return
        mine = {key: row for (depth, key), row in self._rows.items() if depth == top_k}
        rows = np.full((len(mine), top_k), NOTHING, dtype=np.int32)
        for number, row in enumerate(mine.values()):
            rows[number, : len(row)] = row[:top_k]
        with write_folder(place) as temporary:
            np.save(temporary / "queries.npy", np.frombuffer(b"".join(mine), dtype=np.uint8).reshape(-1, 16),
                    allow_pickle=False)
            np.save(temporary / "positions.npy", rows, allow_pickle=False)
        self._prune(place)

    def _prune(self, newest: Path) -> None:
        """Keep the latest few indexes; another run may be writing or deleting at the same time."""
        import shutil

        kept = sorted((path for path in newest.parent.glob("[!.]*") if path != newest), key=_written)
        for path in kept[: max(0, len(kept) + 1 - MAX_KEPT)]:
            shutil.rmtree(path, ignore_errors=True)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _key(query: str) -> bytes:
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).digest()[:16]
