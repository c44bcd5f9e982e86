"""What tuning works on: passages of a knowledge base with their vectors, pseudo-queries, and hard negatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nanochat.errors import KnowledgeBaseError, MissingDependency
from nanochat.retrieval.base import Retriever, make_retriever
from nanochat.retrieval.document import Document
from nanochat.retrieval.encoders import Encoder
from nanochat.retrieval.tuning.negatives import groups_of, hard_negatives, near_duplicate
from nanochat.retrieval.tuning.pseudo_queries import SPLITS, PseudoQuery, make_queries, name_of

if TYPE_CHECKING:
    from nanochat.retrieval.knowledge_base import KnowledgeBase

NUM_NEGATIVES = 8
_LEAST = 20  # queries of every split


@dataclass(frozen=True)
class Arena:
    """Passages that compete: all of a knowledge base, or a random sample of a large one."""

    documents: Sequence[Document]
    rows: np.ndarray        # int64 (N,), of the passages in the knowledge base
    vectors: np.ndarray     # float32 (N, D), of length 1
    groups: np.ndarray      # int64 (N,), equal for passages of one document
    near: float             # cosine from which two passages say the same

    @classmethod
    def of(cls, documents: Sequence[Document], vectors: np.ndarray, rows: np.ndarray | None = None) -> "Arena":
        """Of passages with their vectors; `rows` None counts them."""
        rows = np.arange(len(documents)) if rows is None else rows
        return cls(documents, rows, vectors, groups_of([name_of(document) for document in documents]),
                   near_duplicate(vectors))


@dataclass(frozen=True)
class Examples:
    """Queries with their passages. Q queries, D dimensions, K negatives."""

    queries: np.ndarray     # float32 (Q, D), as the encoder gives them
    places: np.ndarray      # int64 (Q,), of the passage that is wanted, in the arena
    negatives: np.ndarray   # int64 (Q, K), places of hard negatives; -1: none

    def take(self, rows: np.ndarray) -> "Examples":
        """Some of them."""
        return Examples(self.queries[rows], self.places[rows], self.negatives[rows])


def read_arena(knowledge_base: "KnowledgeBase", max_passages: int, seed: int = 0) -> Arena:
    """At most so many live passages of a knowledge base with a dense index, with the vectors from there."""
    snapshot = knowledge_base.snapshot
    store = knowledge_base.retriever("dense").vectors.store
    live = snapshot.table.live
    rows = np.arange(snapshot.table.num_rows) if live is None else np.flatnonzero(live)
    if len(rows) > max_passages:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_passages, replace=False))
    return Arena.of(list(snapshot.table.passages(rows)), store.gather(rows), rows)


def lexical_over(documents: Sequence[Document]) -> Retriever:
    """An index of words over the passages of an arena, in memory: bm25 where its package is there."""
    try:
        retriever = make_retriever("bm25")
        retriever.index(documents)
    except MissingDependency:
        retriever = make_retriever("simple")
        retriever.index(documents)
    return retriever


def make_examples(
    arena: Arena, encoder: Encoder, lexical: Retriever, count: int, seed: int = 0
) -> tuple[dict[str, Examples], list[PseudoQuery]]:
    """Pseudo-queries by split, and all of them. Raises KnowledgeBaseError where there are too few to learn from."""
    queries = make_queries(arena.documents, count, seed=seed)
    splits = np.array([query.split for query in queries])
    counts = {split: int(np.sum(splits == split)) for split in SPLITS}
    if min(counts.values()) < _LEAST:
        found = ", ".join(f"{number} for {split}" for split, number in counts.items())
        raise KnowledgeBaseError(
            f"Too few passages to learn from: {len(arena.documents)} give {found}; at least {_LEAST} each are needed",
            hint="tuning pays from some hundred documents on; search works without it",
        )
    examples = Examples(
        encoder.encode_queries([query.text for query in queries]),
        np.array([query.place for query in queries], np.int64),
        hard_negatives(queries, lexical, arena.vectors, arena.groups, NUM_NEGATIVES),
    )
    return {split: examples.take(np.flatnonzero(splits == split)) for split in SPLITS}, queries
