"""Lexical engines behind one small form, each run in a process of its own: build, open and search, add.

    python -m bench.lexical_engines build|serve|add ENGINE FOLDER

FOLDER holds passages.jsonl, more.jsonl (to add) and queries.json; figures come out as one JSON line.
"""

import importlib.util
import json
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanochat.errors import MissingDependency
from nanochat.retrieval import Document, make_retriever

TOP_K = 10
_IN_MEMORY = 200_000  # passages; more are read while the index is built, by engines that can
_Search = Callable[[list[str]], list[list[int]]]


class Passages(Sequence[Document]):
    """The passages of a JSONL file, read again and again instead of held."""

    def __init__(self, path: Path) -> None:
        self._path, self._offsets = path, [0]
        with open(path, "rb") as lines:
            for line in lines:
                self._offsets.append(self._offsets[-1] + len(line))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, slice):
            return self[place : place + 1][0]
        start, stop, _ = place.indices(len(self))
        with open(self._path, "rb") as file:
            file.seek(self._offsets[start])
            return [Document(**json.loads(file.readline())) for _ in range(start, stop)]

    def __iter__(self) -> Any:
        with open(self._path, "rb") as lines:
            yield from (Document(**json.loads(line)) for line in lines)


class Ours:
    """A retriever of the table."""

    def __init__(self, name: str) -> None:
        self._retriever = make_retriever(name)

    def build(self, documents: Sequence[Document], folder: Path) -> None:
        self._retriever.write(folder, documents)

    def open(self, folder: Path) -> _Search:
        self._retriever.load(folder)
        return lambda queries: [[hit.position for hit in row] for row in self._retriever.search(queries, TOP_K)]

    def add(self, documents: Sequence[Document], folder: Path, previous: Path) -> None:
        self._retriever.write(folder, documents, previous)


class Bm25s:
    """bm25s as its README uses it; with a stemmer where PyStemmer is installed and asked for."""

    def __init__(self, backend: str = "numpy", stemmer: bool = False) -> None:
        _need("numba", backend == "numba")
        if backend != "numba":
            # bm25s imports numba where it is installed, and holds its memory, also when it is not to use it
            sys.modules["numba"] = None  # type: ignore[assignment]
        import bm25s

        _need("Stemmer", stemmer)
        self._bm25s, self._backend = bm25s, backend
        self._options: dict[str, Any] = {"stopwords": "en", "show_progress": False}
        if stemmer:
            self._options["stemmer"] = importlib.import_module("Stemmer").Stemmer("english")

    def build(self, documents: Sequence[Document], folder: Path) -> None:
        index = self._bm25s.BM25(backend=self._backend)
        tokens = self._bm25s.tokenize([document.text for document in documents], **self._options)
        index.index(tokens, show_progress=False)
        index.save(str(folder), show_progress=False)

    def open(self, folder: Path) -> _Search:
        index = self._bm25s.BM25.load(str(folder))

        def search(queries: list[str]) -> list[list[int]]:
            tokens = self._bm25s.tokenize(queries, return_ids=False, **self._options)
            if self._backend == "numba":
                # it refuses a first query of stop words only
                tokens = [row or [""] for row in tokens]
            return index.retrieve(tokens, k=TOP_K, show_progress=False, n_threads=0)[0].tolist()

        return search


class RankBm25:
    """rank_bm25 with words split at spaces, as its README uses it. It has no files: it is built where it serves."""

    def build(self, documents: Sequence[Document], folder: Path) -> None:
        from rank_bm25 import BM25Okapi

        self._index = BM25Okapi([document.text.lower().split() for document in documents])

    def open(self, folder: Path) -> _Search:
        self.build(Passages(folder.parent / "passages.jsonl"), folder)

        def search(queries: list[str]) -> list[list[int]]:
            rows = (self._index.get_scores(query.lower().split()) for query in queries)
            return [(-scores).argsort(kind="stable")[:TOP_K].tolist() for scores in rows]

        return search


# name -> how to make it; rank_bm25 scores every passage in Python and is left out above 100,000
ENGINES: dict[str, Callable[[], Any]] = {
    "simple": lambda: Ours("simple"),
    "bm25": lambda: Ours("bm25"),
    "bm25s": Bm25s,
    "bm25s, stemmer": lambda: Bm25s(stemmer=True),
    "bm25s, numba": lambda: Bm25s(backend="numba"),
    "rank_bm25": RankBm25,
}
SMALL_ONLY = {"rank_bm25": 100_000}


def _need(module: str, wanted: bool) -> None:
    if wanted and importlib.util.find_spec(module) is None:
        raise MissingDependency(f"No module named {module!r}", hint="this row is left out")


def _build(engine: Any, name: str, folder: Path) -> dict[str, Any]:
    documents: Sequence[Document] = Passages(folder / "passages.jsonl")
    if len(documents) <= _IN_MEMORY:
        documents = list(documents)
    index = folder / name
    shutil.rmtree(index, ignore_errors=True)
    index.mkdir()
    wall, cpu = time.perf_counter(), time.process_time()
    engine.build(documents, index)
    return {
        "build_cpu_s": round(time.process_time() - cpu, 2), "build_wall_s": round(time.perf_counter() - wall, 2),
        "build_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "disk_mb": round(sum(file.stat().st_size for file in index.iterdir()) / 1e6, 1),
    }


def _serve(engine: Any, name: str, folder: Path) -> dict[str, Any]:
    queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    start, cpu = time.perf_counter(), time.process_time()
    search = engine.open(folder / name)
    open_ms, open_cpu_ms = (time.perf_counter() - start) * 1e3, (time.process_time() - cpu) * 1e3
    start = time.perf_counter()
    found = search(queries[:1])
    first_ms = (time.perf_counter() - start) * 1e3
    queries = queries[: 50 if name == "rank_bm25" else None]
    walls, cpus, found = [], [], []
    for query in queries:
        start, cpu = time.perf_counter(), time.process_time()
        found += search([query])
        cpus.append((time.process_time() - cpu) * 1e3)
        walls.append((time.perf_counter() - start) * 1e3)
    cpu = time.process_time()
    assert search(queries) == found, f"{name}: a batch differs from its queries one by one"
    batch_ms = (time.process_time() - cpu) * 1e3 / len(queries)
    slowest = sorted(cpus)[int(len(cpus) * 0.95)]
    return {
        "open_ms": round(open_ms, 2), "open_cpu_ms": round(open_cpu_ms, 2), "first_query_ms": round(first_ms, 2),
        "query_cpu_ms_p50": round(statistics.median(cpus), 3), "query_wall_ms_p50": round(statistics.median(walls), 3),
        "query_cpu_ms_p95": round(slowest, 3), "batch_cpu_ms": round(batch_ms, 3), "resident_mb": _resident_mb(),
        "found": found,
    }


def _add(engine: Any, name: str, folder: Path) -> dict[str, Any]:
    if not hasattr(engine, "add"):
        return {}
    documents = list(Passages(folder / "more.jsonl"))
    target = folder / f"{name}-added"
    target.mkdir()
    wall, cpu = time.perf_counter(), time.process_time()
    engine.add(documents, target, folder / name)
    return {"add_1000_s": round(time.perf_counter() - wall, 3), "add_1000_cpu_s": round(time.process_time() - cpu, 3)}


def _resident_mb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) // 1024
    return 0


def main(step: str, name: str, folder: str) -> int:
    # one core: what runs in threads counts as well
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    try:
        engine = ENGINES[name]()
    except (MissingDependency, ModuleNotFoundError) as missing:
        print(json.dumps({"missing": str(missing)}))
        return 0
    print(json.dumps({"build": _build, "serve": _serve, "add": _add}[step](engine, name, Path(folder))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:4]))
