"""The steps of bench.knowledge_base_scale, each run in a process of its own; figures come out as one JSON line.

    python -m bench.knowledge_base_steps STEP FOLDER [ARGUMENT]

FOLDER holds files/ (the documents), queries.json, more_<n>.jsonl (to add) and, once it is built, kb/.
"""

import contextlib
import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.retrieval.document import Document
from nanochat.retrieval.encoders.lsa import LsaEncoder
from nanochat.retrieval.knowledge_base import KnowledgeBase
from nanochat.retrieval.writing.sync import documents_from

SETTINGS = {"model": "lsa"}
TOP_K = 10
Figures = dict[str, Any]


class Spent:
    """Wall and processor time of a block of code, the reading processes included."""

    def __enter__(self) -> "Spent":
        self._wall, self._cpu = time.perf_counter(), _cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, _cpu() - self._cpu

    def milliseconds(self, name: str) -> Figures:
        return {f"{name}_ms": 1000 * self.wall, f"{name}_cpu_ms": 1000 * self.cpu}

    def seconds(self, name: str) -> Figures:
        return {f"{name}_s": self.wall, f"{name}_cpu_s": self.cpu}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class WatchedEncoder:
    """Counts what the LSA encoder of this process does."""

    def __init__(self) -> None:
        self.texts, self.wall, self.cpu = 0, 0.0, 0.0
        for name in ("fit", "encode_documents"):
            setattr(LsaEncoder, name, self._watched(getattr(LsaEncoder, name), name != "fit"))

    def _watched(self, method: Callable[..., Any], counts: bool) -> Callable[..., Any]:
        def watched(encoder: LsaEncoder, texts: Any) -> Any:
            with Spent() as spent:
                result = method(encoder, texts)
            self.wall, self.cpu = self.wall + spent.wall, self.cpu + spent.cpu
            self.texts += len(result) if counts else 0
            return result

        return watched

    def figures(self) -> Figures:
        return {"encoded": self.texts, "encode_s": self.wall, "encode_cpu_s": self.cpu}


def memory(name: str) -> Figures:
    """Megabytes of this process now: all, and those that are no mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return {f"{name}_mb": kilobytes["VmRSS"] / 1024, f"{name}_own_mb": kilobytes["RssAnon"] / 1024}


def peak() -> Figures:
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def build(work: Path, target: str = "kb") -> Figures:
    """A hybrid knowledge base of the folder of files."""
    encoder, sources, skipped = WatchedEncoder(), {}, []
    with Spent() as spent:
        documents = documents_from(work / "files", sources, skipped)
        kb = KnowledgeBase.build(documents, work / target, "hybrid", settings=SETTINGS, sources=sources)
    assert not skipped
    size = sum(file.stat().st_size for file in (work / target).rglob("*") if file.is_file())
    figures = {**spent.seconds("build"), **encoder.figures(), **peak()}
    return {"passages": len(kb.documents), **figures, "disk_mb": size / 1e6}


def _import_all() -> None:
    for module in ("nanochat.retrieval.retrievers.hybrid", "nanochat.retrieval.filters", "tantivy", "faiss"):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)


def open_(work: Path) -> Figures:
    """Open, with the retriever and the mask of rows; then the first query."""
    _import_all()
    with Spent() as spent:
        kb = KnowledgeBase.open(work / "kb")
        kb.retriever()
        kb.allowed()
    opened = {**spent.milliseconds("open"), **memory("opened")}
    query = _queries(work)[0]
    with Spent() as spent:
        kb.search([query], TOP_K)
    return {**opened, **spent.milliseconds("first_query")}


def query(work: Path, kind: str) -> Figures:
    """Median of queries one by one through `KnowledgeBase.search`; hybrid also with vectors that are there already."""
    _import_all()
    kb, queries = KnowledgeBase.open(work / "kb"), _queries(work)
    figures = _timed(kind, queries, lambda query: kb.search([query], TOP_K, retriever_type=kind))
    if kind == "hybrid":
        retriever, allowed = kb.retriever(), kb.allowed()
        vectors = dict(zip(queries, retriever.dense.query_vectors(queries)))
        retriever.dense.query_vectors = lambda queries: np.stack([vectors[query] for query in queries])
        figures |= _timed("encoded", queries, lambda query: retriever.search([query], TOP_K, allowed=allowed))
    return {**figures, **memory(kind)}


def _timed(name: str, queries: list[str], search: Callable[[str], Any]) -> Figures:
    search(queries[0])
    walls, times = [], []
    for query in queries:
        with Spent() as spent:
            search(query)
        walls.append(1000 * spent.wall)
        times.append(1000 * spent.cpu)
    ninety_fifth = sorted(times)[int(0.95 * len(times))]
    return {f"{name}_p50_ms": statistics.median(walls), f"{name}_p50_cpu_ms": statistics.median(times),
            f"{name}_p95_cpu_ms": ninety_fifth}


def add(work: Path, number: str) -> Figures:
    """Add 1,000 documents."""
    _import_all()
    encoder, kb = WatchedEncoder(), KnowledgeBase.open(work / "kb")
    documents = list(_read(work / f"more_{number}.jsonl"))
    with Spent() as spent:
        change = kb.add(documents)
    assert change.added == len(documents)
    figures = {**spent.seconds("add"), **encoder.figures(), **peak()}
    return {**figures, "add_without_encoding_s": spent.wall - encoder.wall}


def delete(work: Path, number: str) -> Figures:
    """Delete one document."""
    _import_all()
    kb = KnowledgeBase.open(work / "kb")
    identifier = kb.passage(1000 + 10 * int(number)).id
    with Spent() as spent:
        assert kb.delete([identifier]).deleted == 1
    return spent.milliseconds("delete")


def previous(work: Path) -> Figures:
    """Open the version before the current one, with its retriever and mask."""
    _import_all()
    version = KnowledgeBase.open(work / "kb").version - 1
    with Spent() as spent:
        kb = KnowledgeBase.open(work / "kb", version)
        kb.retriever()
        kb.allowed()
    return spent.milliseconds("previous")


def rollback(work: Path) -> Figures:
    """Back to the version before."""
    _import_all()
    kb = KnowledgeBase.open(work / "kb")
    with Spent() as spent:
        kb.rollback(kb.version - 1)
    return spent.milliseconds("rollback")


def verify(work: Path) -> Figures:
    """Hash all files."""
    kb = KnowledgeBase.open(work / "kb")
    with Spent() as spent:
        _, size = kb.verify()
    return {**spent.seconds("verify"), "verified_mb": size / 1e6}


def sync(work: Path) -> Figures:
    """Compare the folder, of which nothing changed."""
    _import_all()
    kb = KnowledgeBase.open(work / "kb")
    with Spent() as spent:
        change = kb.sync(work / "files")
    assert not (change.added or change.updated or change.deleted or change.skipped)
    return spent.seconds("sync")


def same(work: Path, arguments: str) -> Figures:
    """How many queries a knowledge base that grew in 50 additions answers as one that was built at once."""
    kind, count = arguments.split(",")
    documents = [document for document, _ in zip(_documents(work), range(int(count)))]
    settings = {} if kind in ("simple", "bm25") else SETTINGS
    whole = KnowledgeBase.build(documents, work / f"{kind}_whole", kind, settings=settings)
    step = -(-len(documents) // 50)
    grown = KnowledgeBase.build(documents[:step], work / f"{kind}_grown", kind, settings=settings)
    for start in range(step, len(documents), step):
        grown.add(documents[start : start + step])
    rows, difference = 0, 0.0
    queries = _queries(work)
    pairs = zip(whole.search(queries, TOP_K), grown.search(queries, TOP_K), strict=True)
    for ours, theirs in pairs:
        equal = [hit.id for hit in ours] == [hit.id for hit in theirs]
        rows += equal
        if equal:
            difference = max([difference, *(abs(a.score - b.score) for a, b in zip(ours, theirs))])
    return {"documents": len(documents), "versions": grown.version, "queries": len(queries), "alike": rows,
            "largest_score_difference": difference}


def _documents(work: Path) -> Iterator[Document]:
    for path in sorted((work / "files").iterdir()):
        yield from _read(path)


def _read(path: Path) -> Iterator[Document]:
    with open(path, encoding="utf-8") as lines:
        yield from (Document.from_dict(json.loads(line)) for line in lines)


def _queries(work: Path) -> list[str]:
    return json.loads((work / "queries.json").read_text(encoding="utf-8"))


STEPS: dict[str, Callable[..., Figures]] = {
    "build": build, "open": open_, "query": query, "add": add, "delete": delete, "previous": previous,
    "rollback": rollback, "verify": verify, "sync": sync, "same": same,
}

if __name__ == "__main__":
    print(json.dumps(STEPS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))
