"""The front door to retrieval: a knowledge base, a retriever type, and a cache of recent queries."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nanochat.errors import ConfigError
from nanochat.retrieval.base import Retriever
from nanochat.retrieval.document import ScoredDocument
from nanochat.retrieval.filters import Condition, Filter, parse_filters
from nanochat.retrieval.knowledge_base import KnowledgeBase, search
from nanochat.retrieval.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from nanochat.retrieval.retrievers.rerank import Reranker

# query, top_k, how often the manager had moved on, filters, neighbours
_Key = tuple[str, int, int, tuple[Condition, ...], int]


class CacheInfo(NamedTuple):
    """How often the cache had the answer, and how many it holds."""

    hits: int
    misses: int
    size: int


class RetrievalManager:
    """Searches one knowledge base. Safe in threads.

    `retriever_type` None takes the type the knowledge base was built with; another type is built from the stored
    documents. It keeps the version it has opened (the current one, or `version`) until `refresh`. The cache keeps the
    latest `cache_size` results by query, `top_k`, version and filters. rerank: the folder of a cross-encoder that
    scores the best hits again.
    """

    def __init__(
        self,
        retriever_type: str | None = None,
        knowledge_base_path: str | Path | None = None,
        *,
        cache_size: int = 1024,
        settings: Mapping[str, Any] | None = None,
        rerank: str | Path | None = None,
        version: int | None = None,
    ) -> None:
        if knowledge_base_path is None:
            raise ConfigError(
                "RetrievalManager needs a knowledge_base_path",
                hint='RetrievalManager(knowledge_base_path="data/my_kb"), built by python -m nanochat.retrieval',
            )
        self.knowledge_base = KnowledgeBase.open(knowledge_base_path, version)
        self.retriever_type = retriever_type or self.knowledge_base.retriever_type
        self._settings = settings
        self._reranker = _reranker(rerank)
        self._cache: OrderedDict[_Key, list[ScoredDocument]] = OrderedDict()
        self._cache_size = cache_size
        self._hits = self._misses = 0
        self._lock = threading.Lock()  # of the cache: several requests may search at once
        self._open = self._opened(0)

    def _opened(self, moves: int) -> tuple[Snapshot, Retriever, int]:
        retriever = self.knowledge_base.retriever(self.retriever_type, self._settings)
        # asked for last: adding a missing index moves the knowledge base on
        return self.knowledge_base.snapshot, retriever, moves

    @property
    def _retriever(self) -> Retriever:
        return self._open[1]

    def refresh(self) -> bool:
        """Move on to the current version of the knowledge base; whether it was another one. Searches that are under
        way end with the version they began with."""
        if not self.knowledge_base.refresh():
            return False
        self._open = self._opened(self._open[2] + 1)
        return True

    def retrieve(
        self, query: str, top_k: int = 5, *, filters: Filter | None = None, neighbours: int = 0
    ) -> list[ScoredDocument]:
        """The best documents for one query, best first; the lexical types find only those that share a word with it.

        filters: only documents whose metadata passes, such as "source=handbook" (see nanochat.retrieval.filters).
        neighbours: of a passage, also so many passages before and after it from its document, with its score, in the
        order of the document; a passage comes once.
        """
        return self.retrieve_batch([query], top_k, filters=filters, neighbours=neighbours)[0]

    def retrieve_batch(
        self, queries: Sequence[str], top_k: int = 5, *, filters: Filter | None = None, neighbours: int = 0
    ) -> list[list[ScoredDocument]]:
        """The best documents for each query, in the order of the queries."""
        if not isinstance(top_k, int) or top_k < 1:
            raise ConfigError(f"top_k must be at least 1 and whole, not {top_k!r}", hint="5 is a good start")
        for query in queries:
            if not isinstance(query, str):
                raise ConfigError(f"A query must be text, not {query!r}", hint='retrieve("return policy", top_k=5)')
        if neighbours < 0:
            raise ConfigError(f"neighbours is {neighbours}", hint="give 0 or more")
        snapshot, retriever, moves = self._open
        conditions = parse_filters(filters)
        # not the number of the version: a folder that was built anew counts from 1 again
        keys = [(query, top_k, moves, conditions, neighbours) for query in queries]
        with self._lock:
            known = {key: self._cache[key] for key in keys if key in self._cache}
            self._hits += sum(key in known for key in keys)
            self._misses += sum(key not in known for key in keys)
        missing = list(dict.fromkeys(key for key in keys if key not in known))
        rows = self._search(snapshot, retriever, [key[0] for key in missing], top_k, conditions, neighbours)
        fresh = dict(zip(missing, rows))
        results = [fresh[key] if key in fresh else known[key] for key in keys]
        self._remember(dict(zip(keys, results)))
        # copies: a caller may change its list
        return [list(result) for result in results]

    def _search(
        self, snapshot: Snapshot, retriever: Retriever, queries: Sequence[str], top_k: int,
        conditions: tuple[Condition, ...], neighbours: int,
    ) -> list[list[ScoredDocument]]:
        if not queries:
            return []
        wanted = top_k if self._reranker is None else max(top_k, self._reranker.top_n)
        found = search(snapshot, retriever, queries, wanted, conditions)
        if self._reranker is not None:
            found = [self._reranker.best(query, row, top_k) for query, row in zip(queries, found)]
        return [with_neighbours(snapshot, row, neighbours) for row in found] if neighbours else found

    def cache_info(self) -> CacheInfo:
        """Hits and misses since the start, and the number of results held."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, len(self._cache))

    def _remember(self, results: Mapping[_Key, list[ScoredDocument]]) -> None:
        with self._lock:
            for key, result in results.items():
                self._cache[key] = result
                self._cache.move_to_end(key)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)


def with_neighbours(snapshot: Snapshot, found: Sequence[ScoredDocument], count: int) -> list[ScoredDocument]:
    """Each passage between its neighbours in its document, those with its score; none comes twice."""
    table, wide = snapshot.table, []
    mine = {document.id for document in found}
    seen: set[str] = set()
    for document in found:
        rows = table.find(document.id)
        around = table.passages(table.neighbours(rows[0], count, count)) if rows else []
        for neighbour in around or [document]:
            # a hit of its own keeps its own place and score
            if neighbour.id not in seen and (neighbour.id == document.id or neighbour.id not in mine):
                seen.add(neighbour.id)
                wide.append(document if neighbour.id == document.id else ScoredDocument.of(neighbour, document.score))
    return wide


def _reranker(folder: str | Path | None) -> "Reranker | None":
    if not folder:
        return None
    from nanochat.retrieval.retrievers.rerank import Reranker

    return Reranker(folder)
