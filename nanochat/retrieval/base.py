"""What every retriever promises, and the table of those there are."""

import difflib
import importlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nanochat.errors import ConfigError
from nanochat.retrieval.document import Document

if TYPE_CHECKING:
    import numpy as np


class Hit(NamedTuple):
    """One result: the row of the document in what is indexed, and its score (higher is better)."""

    position: int
    score: float


class Retriever(Protocol):
    """A ranking of documents for queries.

    Laws, held by one test over the whole table: best first; equal scores in document order; at most `top_k` hits; a
    batch equals its queries one by one; any text is a legal query, never syntax; a query without a word finds nothing;
    loaded equals built; written in pieces equals written at once. The lexical types return fewer hits rather than
    documents that share no word with the query.
    """

    @property
    def num_rows(self) -> int:
        """How many documents are indexed or loaded."""

    def index(self, documents: Sequence[Document]) -> None:
        """Replace what is indexed. The sequence must not change afterwards."""

    def search(
        self, queries: Sequence[str], top_k: int, *, allowed: "np.ndarray | None" = None
    ) -> list[list[Hit]]:
        """The best hits of each query, one list per query.

        allowed: bool (num_rows,), the rows that may be returned; None allows all. The result is that of a search
        without it, less the rows that are not allowed.
        """

    def save(self, folder: Path) -> None:
        """Write the index into an existing empty folder."""

    def load(self, folder: Path) -> None:
        """Read what `save` or `write` wrote. Raises ValueError or OSError when the files do not fit together."""

    def write(self, folder: Path, documents: Sequence[Document], previous: Path | None = None) -> None:
        """Write the index of `previous`, a folder of this type, followed by `documents`, into an empty folder.

        Unchanged files are hard links; `previous` is never changed, nor is what this object has loaded.
        """

    def describe(self) -> dict[str, Any]:
        """What the index depends on (analysis chain, parameters), JSON-ready. Equal descriptions mean usable files."""


# name -> module:class; loaded on first use, so that the table costs nothing
RETRIEVERS = {
    "simple": "nanochat.retrieval.retrievers.simple:SimpleRetriever",
    "bm25": "nanochat.retrieval.retrievers.bm25:BM25Retriever",
    "dense": "nanochat.retrieval.retrievers.dense:DenseRetriever",
    "hybrid": "nanochat.retrieval.retrievers.hybrid:HybridRetriever",
}
# types made of others: a knowledge base stores the indexes of these
COMPONENTS = {"hybrid": ("bm25", "dense")}


def check_retriever_type(name: str) -> str:
    """The name, if a retriever of that name exists; otherwise a ConfigError with the nearest."""
    if name in RETRIEVERS:
        return name
    near = difflib.get_close_matches(name, RETRIEVERS, n=1, cutoff=0.4)
    raise ConfigError(
        f"Unknown retriever type {name!r}; there are: {', '.join(RETRIEVERS)}",
        hint=f"did you mean {near[0]!r}?" if near else "choose one of these",
    )


def make_retriever(name: str, settings: Mapping[str, Any] | None = None) -> Retriever:
    """A new, empty retriever from the table. `settings` are its class's keyword arguments, such as the model."""
    module, _, attribute = RETRIEVERS[check_retriever_type(name)].partition(":")
    return getattr(importlib.import_module(module), attribute)(**(settings or {}))


def hard_link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name, which costs no space; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
