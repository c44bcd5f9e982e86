"""BM25 (k1 = 1.2, b = 0.75) by tantivy, fed by our own analysis chain. Robertson and Zaragoza 2009."""

import functools
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.errors import MissingDependency
from nanochat.retrieval.base import Hit, hard_link_or_copy
from nanochat.retrieval.document import Document
from nanochat.retrieval.words.analysis import ANALYSIS, MAX_WORD_BYTES, STOP_WORDS, indexed_words, spaced_words

# sums of float32 may differ in their last bits for equal documents: closer than this, relative, is a tie
TIE = 1e-5
_HEAP_BYTES = 128_000_000
_SMALL_HEAP_BYTES = 15_000_000  # the least that tantivy takes


class BM25Retriever:
    """BM25 over title and content in one field, in which a title counts twice.

    Statistics (document frequencies, mean length) are those of all rows, also of rows that are not allowed: which rows
    a knowledge base has deleted does not change the scores of the others. `index` only remembers the documents; the
    tantivy index is made in memory by the first search.

    A stored index is a folder of immutable segments. `write` links those of the previous one and adds to them; tantivy
    merges small segments into new ones, and scores do not depend on the segments.
    """

    def __init__(self) -> None:
        self._tantivy = _import_tantivy()
        self._analyzer = self._make_analyzer()
        self._documents: Sequence[Document] = ()
        self._folder: Path | None = None  # what was loaded
        self._index: Any = None
        self._searcher: Any = None

    def _make_analyzer(self) -> Any:
        # spaced_words has done the rest: this half of the chain runs on every word and is compiled
        keep = self._tantivy.Filter
        builder = self._tantivy.TextAnalyzerBuilder(self._tantivy.Tokenizer.whitespace())
        for step in (
            keep.remove_long(MAX_WORD_BYTES),
            keep.custom_stopword(sorted(STOP_WORDS)),
            keep.stemmer("english"),
        ):
            builder = builder.filter(step)
        return builder.build()

    @property
    def num_rows(self) -> int:
        """Rows of the loaded index, or of the documents that the first search will index."""
        return len(self._documents) if self._searcher is None else self._searcher.num_docs

    def index(self, documents: Sequence[Document]) -> None:
        """Take these documents; the work is done by the first search or by `save`."""
        self._documents, self._folder, self._index, self._searcher = documents, None, None, None

    def search(
        self, queries: Sequence[str], top_k: int, *, allowed: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """The best hits of each query."""
        if self._searcher is None:
            index = self._create(None)
            self._add(index, self._documents, 0)
            self._use(index)
        choice = None if allowed is None else _Allowed(allowed, self._tantivy, self._index.schema)
        return [self._search(query, top_k, choice) for query in queries]

    def _search(self, query: str, top_k: int, allowed: "_Allowed | None") -> list[Hit]:
        counts = Counter(self._analyzer.analyze(spaced_words(query)))
        most = self._searcher.num_docs
        if not counts or not most or top_k < 1 or (allowed and not allowed.count):
            return []
        parsed, limit = self._parse(counts), top_k + 8
        if allowed and allowed.is_named:
            parsed, most = allowed.narrow(parsed), allowed.count
        elif allowed:
            limit = limit * most // allowed.count + 1
        while True:
            limit = min(limit, most)
            found = self._searcher.search(parsed, limit, count=False).hits
            is_all = len(found) < limit or limit == most
            positions, scores = self._ranking(found, is_all)
            if allowed and len(positions):
                kept = allowed.mask[positions]
                positions, scores = positions[kept], scores[kept]
            if is_all or len(positions) >= top_k:
                return [Hit(*hit) for hit in zip(positions[:top_k].tolist(), scores[:top_k].tolist())]
            limit *= 4

    def _ranking(self, found: list[tuple[float, Any]], is_all: bool) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores, best first: scores that differ by rounding only are one, and such rows go by position.

        The last rows are left out where more of the same score may follow.
        """
        scores = np.array([score for score, _ in found])
        # a group begins where the score falls; its score is its highest
        starts = np.append(True, scores[1:] < scores[:-1] * (1 - TIE))[: len(scores)]
        groups = np.cumsum(starts)
        if not is_all:
            groups = groups[: np.searchsorted(groups, groups[-1])]
        addresses = [address for _, address in found[: len(groups)]]
        positions = np.array(self._searcher.fast_field_values("position", addresses), np.int64)
        return positions[np.lexsort((positions, groups))], scores[starts][groups - 1]

    def _parse(self, counts: Counter[str]) -> Any:
        """Any of the terms; a term that the query repeats counts as often."""
        make, should = self._tantivy.Query, self._tantivy.Occur.Should
        terms = []
        for name, count in counts.items():
            query = make.term_query(self._index.schema, "text", name, "freq")
            terms.append((should, query if count == 1 else make.boost_query(query, float(count))))
        return make.boolean_query(terms)

    def save(self, folder: Path) -> None:
        """Write the index of the documents that `index` was given, or links to what was loaded."""
        self.write(folder, self._documents, self._folder)

    def write(self, folder: Path, documents: Sequence[Document], previous: Path | None = None) -> None:
        """Write a tantivy index: links to the segments of the previous one, and new segments."""
        for file in previous.iterdir() if previous else ():
            if not file.name.endswith(".lock"):
                hard_link_or_copy(file, folder / file.name)
        try:
            index = self._open(folder) if previous else self._create(folder)
            if len(documents) or not previous:
                self._add(index, documents, index.searcher().num_docs)
        except ValueError as error:
            # tantivy reports a full disk this way
            raise OSError(f"tantivy cannot write here: {error}") from error
        _remove_locks(folder)

    def load(self, folder: Path) -> None:
        """Open the tantivy index in the folder."""
        self._documents, self._folder = (), folder
        if not os.access(folder, os.W_OK):
            # tantivy locks a folder even to read it; one of links will do where the real one cannot be written
            self._links = tempfile.TemporaryDirectory(prefix="nanochat-index-")
            for file in folder.iterdir():
                if not file.name.endswith(".lock"):
                    Path(self._links.name, file.name).symlink_to(file.resolve())
            folder = Path(self._links.name)
        self._use(self._open(folder))
        _remove_locks(folder)

    def _use(self, index: Any) -> None:
        index.reload()
        self._index, self._searcher = index, index.searcher()

    def _open(self, folder: Path) -> Any:
        index = self._tantivy.Index.open(str(folder))
        # no thread that watches the folder for changes: it never changes
        index.config_reader("manual")
        index.register_tokenizer("words", self._analyzer)
        return index

    def _create(self, folder: Path | None) -> Any:
        schema = self._tantivy.SchemaBuilder()
        schema.add_text_field("text", tokenizer_name="words", index_option="freq")
        schema.add_integer_field("position", fast=True, indexed=True)
        index = self._tantivy.Index(schema.build(), str(folder) if folder else None)
        index.register_tokenizer("words", self._analyzer)
        return index

    def _add(self, index: Any, documents: Sequence[Document], start: int) -> None:
        heap = _HEAP_BYTES if len(documents) > 5_000 else _SMALL_HEAP_BYTES
        # one thread: the same documents give the same segments
        writer = index.writer(heap_size=heap, num_threads=1)
        for position, document in enumerate(documents, start):
            writer.add_document(self._tantivy.Document(text=indexed_words(document), position=position))
        writer.commit()
        writer.wait_merging_threads()

    def describe(self) -> dict[str, Any]:
        """Analysis chain and parameters."""
        return {"analysis": ANALYSIS, "engine": "tantivy", "k1": 1.2, "b": 0.75, "layout": 2}


class _Allowed:
    """The rows that a search may return: a few are named in the query, of more the others are dropped from the hits."""

    def __init__(self, mask: np.ndarray, tantivy: Any, schema: Any) -> None:
        self.mask, self._tantivy, self._schema = mask, tantivy, schema
        self.count = int(np.count_nonzero(mask))
        # naming costs some microseconds a row, dropping a longer list of hits the fewer rows are allowed
        self.is_named = self.count**2 <= len(mask)

    @functools.cached_property
    def _rows(self) -> Any:
        make, should = self._tantivy.Query, self._tantivy.Occur.Should
        rows = np.flatnonzero(self.mask).tolist()
        terms = [(should, make.term_query(self._schema, "position", row, "basic")) for row in rows]
        return make.const_score_query(make.boolean_query(terms), 0.0)

    def narrow(self, query: Any) -> Any:
        """The query, within the rows; scores stay as they are."""
        must = self._tantivy.Occur.Must
        return self._tantivy.Query.boolean_query([(must, query), (must, self._rows)])


def _remove_locks(folder: Path) -> None:
    """Leave the folder as it was: tantivy makes lock files that say nothing once it has opened or written."""
    for lock in folder.glob(".tantivy-*.lock"):
        lock.unlink(missing_ok=True)


def _import_tantivy() -> Any:
    try:
        import tantivy
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            "No module named 'tantivy': the bm25 retriever needs it",
            hint="pip install tantivy, or use the retriever type simple",
        ) from missing
    return tantivy
