"""Hits into rankings of documents: what a search found, under the names that judgements use."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nanochat.retrieval.base import Hit, Retriever
from nanochat.retrieval.document import Document

if TYPE_CHECKING:
    from nanochat.retrieval.knowledge_base import KnowledgeBase

Search = Callable[[Sequence[str], int], list[list[Hit]]]  # queries, top_k -> hits of each query
_BATCH = 256  # queries searched together


class Found(NamedTuple):
    """One place of a ranking: a document, and its best hit."""

    id: str
    position: int  # row of the passage that was found
    score: float


def rank(search: Search, name_of: Callable[[int], str], queries: Sequence[str], top_k: int) -> list[list[Found]]:
    """For each query the first `top_k` names, each once, with the best of the hits that bear it.

    `name_of` gives the name of a row: that of its document, when passages are searched and documents judged. More hits
    are asked for until there are `top_k` names or no further hits.
    """
    rankings: list[list[Found]] = []
    for start in range(0, len(queries), _BATCH):
        rankings += _rank(search, name_of, queries[start : start + _BATCH], top_k)
    return rankings


def _rank(search: Search, name_of: Callable[[int], str], queries: Sequence[str], top_k: int) -> list[list[Found]]:
    rankings: list[list[Found]] = [[] for _ in queries]
    waiting, limit = list(range(len(queries))), top_k
    while waiting:
        still = []
        for place, hits in zip(waiting, search([queries[place] for place in waiting], limit), strict=True):
            rankings[place] = merge(hits, name_of)[:top_k]
            if len(rankings[place]) < top_k and len(hits) >= limit:
                still.append(place)
        waiting, limit = still, 4 * limit
    return rankings


def merge(hits: Iterable[Hit], name_of: Callable[[int], str]) -> list[Found]:
    """The names of the hits, each at the place of its first and best."""
    found: dict[str, Found] = {}
    for position, score in hits:
        name = name_of(position)
        if name not in found:
            found[name] = Found(name, position, score)
    return list(found.values())


class Ranker:
    """One retriever of one version of a knowledge base, asked for documents by the names that judgements use.

    Where passages are searched and documents judged, a document has the place of its best passage. `by_passage` True
    ranks the passages themselves.
    """

    def __init__(
        self, knowledge_base: "KnowledgeBase", retriever_type: str | None = None, *, label: str = "",
        retriever: Retriever | None = None,
    ) -> None:
        """`retriever` over the same rows stands in for the knowledge base's own."""
        self.knowledge_base = knowledge_base
        self.retriever_type = retriever_type or knowledge_base.retriever_type
        self.label = label or self.retriever_type
        self.by_passage = False
        self._retriever = retriever or knowledge_base.retriever(self.retriever_type)
        self._allowed = knowledge_base.allowed()
        self._table = knowledge_base.snapshot.table
        self._names: dict[int, str] = {}

    def rank(self, queries: Sequence[str], top_k: int) -> list[list[Found]]:
        """The first `top_k` documents of each query."""
        return rank(lambda some, limit: self._retriever.search(some, limit, allowed=self._allowed), self._name_of,
                    queries, top_k)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Judged names that are not in the knowledge base. Where some are names of passages, sets `by_passage`."""
        missing, self.by_passage = [], False
        for name in names:
            rows = self._table.find(name)
            if not rows:
                missing.append(name)
            elif self._is_part(self._table.passage(rows[0]), name):
                self.by_passage = True
        return missing

    def document(self, name: str) -> Document | None:
        """What a judged name stands for: a document, or the passage of that name."""
        rows = self._table.find(name)
        return self._table.document(name) or (self._table.passage(rows[0]) if rows else None)

    def _name_of(self, row: int) -> str:
        if row not in self._names:
            passage = self._table.passage(row)
            is_merged = not self.by_passage and self._is_part(passage, passage.id)
            self._names[row] = passage.metadata["parent"] if is_merged else passage.id
        return self._names[row]

    @staticmethod
    def _is_part(passage: Document, name: str) -> bool:
        # a user's own key may be called parent, too
        parent = passage.metadata.get("parent")
        return isinstance(parent, str) and passage.id == name and name.startswith(f"{parent}#")
