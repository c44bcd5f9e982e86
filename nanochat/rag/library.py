"""The documents that questions are made from, and what making and filtering needs to know of all of them together."""

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from nanochat.rag.spans import Vocabulary
from nanochat.retrieval.words.analysis import analyze, spaced_words

Record = dict[str, Any]
# queries, number of results, which positions may be found (None: all) -> positions, best first, per query
Search = Callable[[Sequence[str], int, Sequence[bool] | None], list[list[int]]]


class Library:
    """Documents (records with id, title, content and maybe metadata) behind a retriever.

    Positions count documents from 0. What the retriever finds are such positions.
    """

    def __init__(self, documents: Sequence[Mapping[str, Any]], search: Search) -> None:
        self.documents = documents
        self.search = search
        self.position_of = {document["id"]: position for position, document in enumerate(documents)}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Which words are rare, and which are names."""
        return Vocabulary([text_of(document) for document in self.documents])

    @cached_property
    def _folded(self) -> list[str]:
        return [folded(text_of(document)) for document in self.documents]

    @cached_property
    def _terms(self) -> list[set[str]]:
        found: list[set[str]] = [set() for _ in self.documents]
        for term, places in self.vocabulary.places.items():
            for position in places:
                found[position].add(term)
        return found

    def holds(self, position: int, words: str) -> bool:
        """Whether a document has these words in this order; case, accents and punctuation do not count."""
        needle = _folded(words)
        return len(needle) > 2 and needle in self._folded[position]

    def speaks_of(self, position: int, words: str) -> bool:
        """Whether a document has every content word of `words`, or a relative of it."""
        return self._terms[position].issuperset(_terms(words))

    def holders(self, words: str) -> list[int]:
        """Positions of all documents that have these words in this order."""
        terms = set(analyze(words))
        if not terms:
            return []
        rarest = min((self.vocabulary.places.get(term, []) for term in terms), key=len)
        return [position for position in rarest if self.holds(position, words)]

    def parent(self, position: int) -> str:
        """The id of the whole document that a position belongs to."""
        document = self.documents[position]
        parent = (document.get("metadata") or {}).get("parent")
        return parent if isinstance(parent, str) else document["id"]


def text_of(document: Mapping[str, Any]) -> str:
    """Title and content."""
    return f"{document.get('title', '')}\n{document['content']}"


def folded(text: str) -> str:
    """The words of a text in lower case and without accents, one space before, between and after."""
    return f" {' '.join(spaced_words(text).split())} "


# one question is compared with fifty documents
_folded = functools.lru_cache(maxsize=1024)(folded)


@functools.lru_cache(maxsize=1024)
def _terms(words: str) -> frozenset[str]:
    return frozenset(analyze(words))


def normal(text: str) -> str:
    """A text with its white space folded."""
    return " ".join(text.split())
