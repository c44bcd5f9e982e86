"""BM25 (k1 = 1.2, b = 0.75) by tantivy, fed by our own analysis chain. Robertson and Zaragoza 2009."""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat.errors import MissingDependency
from nanochat.retrieval.analysis import ANALYSIS, MAX_WORD_BYTES, STOP_WORDS, spaced_words
from nanochat.retrieval.base import Hit
from nanochat.retrieval.document import Document

# sums of float32 may differ in their last bits for equal documents: closer than this, relative, is a tie
TIE = 1e-5
_HEAP_BYTES = 128_000_000
_SMALL_HEAP_BYTES = 15_000_000  # the least that tantivy takes


class BM25Retriever:
    """BM25 over title and content in one field.

    `index` only remembers the documents; the tantivy index is made in memory by the first search, or in its folder by
    `save`, so that a knowledge base is written once.
    """

    def __init__(self) -> None:
        self._tantivy = _import_tantivy()
        self._analyzer = self._make_analyzer()
        self._documents: Sequence[Document] = ()
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

    def index(self, documents: Sequence[Document]) -> None:
        """Take these documents; the work is done by the first search or by `save`."""
        self._documents, self._index, self._searcher = documents, None, None

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """The best hits of each query."""
        if self._searcher is None:
            self._use(self._build(None))
        return [self._search(query, top_k) for query in queries]

    def _search(self, query: str, top_k: int) -> list[Hit]:
        counts = Counter(self._analyzer.analyze(spaced_words(query)))
        if not counts or not self._searcher.num_docs:
            return []
        parsed = self._parse(counts)
        limit = top_k + 8
        while True:
            found = self._searcher.search(parsed, limit, count=False).hits
            # ask for more while a tie may continue beyond the last hit
            if len(found) < limit or found[-1][0] < found[top_k - 1][0] * (1 - 2 * TIE):
                break
            limit *= 4
        positions = self._searcher.fast_field_values("position", [address for _, address in found])
        return _order(list(zip(positions, (score for score, _ in found))))[:top_k]

    def _parse(self, counts: Counter[str]) -> Any:
        """Any of the terms; a term that the query repeats counts as often."""
        make, should = self._tantivy.Query, self._tantivy.Occur.Should
        terms = []
        for name, count in counts.items():
            query = make.term_query(self._index.schema, "text", name, "freq")
            terms.append((should, query if count == 1 else make.boost_query(query, float(count))))
        return make.boolean_query(terms)

    def save(self, folder: Path) -> None:
        """Write the tantivy index into the folder."""
        try:
            self._build(folder)
        except ValueError as error:
            # tantivy reports a full disk this way
            raise OSError(f"tantivy cannot write here: {error}") from error
        for lock in folder.glob(".tantivy-*.lock"):
            lock.unlink()

    def load(self, folder: Path) -> None:
        """Open the tantivy index in the folder."""
        if not os.access(folder, os.W_OK):
            # tantivy locks a folder even to read it; one of links will do where the real one cannot be written
            self._links = tempfile.TemporaryDirectory(prefix="nanochat-index-")
            for file in folder.iterdir():
                if not file.name.endswith(".lock"):
                    Path(self._links.name, file.name).symlink_to(file.resolve())
            folder = Path(self._links.name)
        index = self._tantivy.Index.open(str(folder))
        index.register_tokenizer("words", self._analyzer)
        self._use(index)

    def _use(self, index: Any) -> None:
        index.reload()
        self._index, self._searcher = index, index.searcher()

    def _build(self, folder: Path | None) -> Any:
        schema = self._tantivy.SchemaBuilder()
        schema.add_text_field("text", tokenizer_name="words", index_option="freq")
        schema.add_integer_field("position", fast=True)
        index = self._tantivy.Index(schema.build(), str(folder) if folder else None)
        index.register_tokenizer("words", self._analyzer)
        heap = _HEAP_BYTES if len(self._documents) > 5_000 else _SMALL_HEAP_BYTES
        # one thread: the same documents give the same segments
        writer = index.writer(heap_size=heap, num_threads=1)
        for position, document in enumerate(self._documents):
            writer.add_document(self._tantivy.Document(text=spaced_words(document.text), position=position))
        writer.commit()
        writer.wait_merging_threads()
        return index

    def describe(self) -> dict[str, Any]:
        """Analysis chain and parameters."""
        return {"analysis": ANALYSIS, "engine": "tantivy", "k1": 1.2, "b": 0.75}


def _order(found: list[tuple[int, float]]) -> list[Hit]:
    """Hits best first; scores that differ by rounding only are equal, and equal scores go by position."""
    found.sort(key=lambda hit: -hit[1])
    hits: list[Hit] = []
    group: list[int] = []
    score = 0.0
    for position, value in found:
        if group and value < score * (1 - TIE):
            hits += [Hit(place, score) for place in sorted(group)]
            group = []
        if not group:
            score = value
        group.append(position)
    return hits + [Hit(place, score) for place in sorted(group)]


def _import_tantivy() -> Any:
    try:
        import tantivy
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            "No module named 'tantivy': the bm25 retriever needs it",
            hint="pip install tantivy, or use the retriever type simple",
        ) from missing
    return tantivy
