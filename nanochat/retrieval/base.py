"""What every retriever promises, and the table of those there are."""

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nanochat.errors import ConfigError, UserError
from nanochat.retrieval.document import Document


class Hit(NamedTuple):
    """One result: the document's position in the indexed sequence, and its score (higher is better, above zero)."""

    position: int
    score: float


class Retriever(Protocol):
    """A ranking of documents for queries.

    Laws, held by one test over the whole table: best first; equal scores in document order; at most `top_k` hits, fewer
    rather than documents that share nothing with the query; a batch equals its queries one by one; any text is a
    legal query, never syntax; loaded equals built.
    """

    def index(self, documents: Sequence[Document]) -> None:
        """Replace what is indexed. The sequence must not change afterwards."""

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The best hits of each query, one list per query."""

    def save(self, folder: Path) -> None:
        """Write the index into an existing empty folder."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises ValueError or OSError when the files do not fit together."""

    def describe(self) -> dict[str, Any]:
        """What the index depends on (analysis chain, parameters), JSON-ready. Equal descriptions mean usable files."""


# name -> module:class; loaded on first use, so that the table costs nothing
RETRIEVERS = {
    "simple": "nanochat.retrieval.simple:SimpleRetriever",
    "bm25": "nanochat.retrieval.bm25:BM25Retriever",
}
PLANNED_RETRIEVERS = ("dense", "hybrid")


def check_retriever_type(name: str) -> str:
    """The name, if a retriever of that name exists; otherwise a UserError that says what to use."""
    if name in RETRIEVERS:
        return name
    if name in PLANNED_RETRIEVERS:
        raise UserError(f"Retriever type {name!r} is not built yet; use bm25 or simple", hint="for example: bm25")
    near = difflib.get_close_matches(name, RETRIEVERS, n=1, cutoff=0.4)
    raise ConfigError(
        f"Unknown retriever type {name!r}; there are: {', '.join(RETRIEVERS)}",
        hint=f"did you mean {near[0]!r}?" if near else "choose one of these",
    )


def make_retriever(name: str) -> Retriever:
    """A new, empty retriever from the table."""
    module, _, attribute = RETRIEVERS[check_retriever_type(name)].partition(":")
    return getattr(importlib.import_module(module), attribute)()
