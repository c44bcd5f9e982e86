"""The front door to retrieval: a knowledge base, a retriever type, and a cache of recent queries."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from nanochat.errors import ConfigError
from nanochat.retrieval.document import ScoredDocument
from nanochat.retrieval.knowledge_base import KnowledgeBase


class RetrievalManager:
    """Searches one knowledge base.

    `retriever_type` None takes the type the knowledge base was built with; another type is built from the stored
    documents. The cache keeps the latest `cache_size` results by query, `top_k` and content of the knowledge base.
    """

    def __init__(
        self,
        retriever_type: str | None = None,
        knowledge_base_path: str | Path | None = None,
        *,
        cache_size: int = 1024,
    ) -> None:
        if knowledge_base_path is None:
            raise ConfigError(
                "RetrievalManager needs a knowledge_base_path",
                hint='RetrievalManager(knowledge_base_path="data/my_kb"), built by python -m nanochat.retrieval',
            )
        self.knowledge_base = KnowledgeBase.open(knowledge_base_path)
        self.retriever_type = retriever_type or self.knowledge_base.retriever_type
        self._retriever = self.knowledge_base.retriever(self.retriever_type)
        self._cache: OrderedDict[tuple[str, int, str], list[ScoredDocument]] = OrderedDict()
        self._cache_size = cache_size
        self._lock = threading.Lock()  # of the cache: several requests may search at once

    def retrieve(self, query: str, top_k: int = 5) -> list[ScoredDocument]:
        """The best documents for one query, best first; fewer than `top_k` when fewer share a word with it."""
        return self.retrieve_batch([query], top_k)[0]

    def retrieve_batch(self, queries: Sequence[str], top_k: int = 5) -> list[list[ScoredDocument]]:
        """The best documents for each query, in the order of the queries."""
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}", hint="5 is a good start")
        keys = [(query, top_k, self.knowledge_base.fingerprint) for query in queries]
        with self._lock:
            known = {key: self._cache[key] for key in keys if key in self._cache}
        missing = list(dict.fromkeys(key for key in keys if key not in known))
        hits = self._retriever.search([query for query, _, _ in missing], top_k) if missing else []
        documents = self.knowledge_base.documents
        fresh = {
            key: [ScoredDocument.of(documents[position], score) for position, score in row]
            for key, row in zip(missing, hits)
        }
        results = [fresh[key] if key in fresh else known[key] for key in keys]
        self._remember(dict(zip(keys, results)))
        # copies: a caller may change its list
        return [list(result) for result in results]

    def _remember(self, results: dict[tuple[str, int, str], list[ScoredDocument]]) -> None:
        with self._lock:
            for key, result in results.items():
                self._cache[key] = result
                self._cache.move_to_end(key)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
