"""Retrieval by meaning: texts become vectors, and the vectors nearest to the query's are found."""

import tempfile
import threading
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.common import write_json
from nanochat.errors import KnowledgeBaseError
from nanochat.retrieval.base import Hit, hard_link_or_copy
from nanochat.retrieval.document import Document
from nanochat.retrieval.encoders import Encoder, find_encoder, load_encoder
from nanochat.retrieval.vectors.encoding import document_side, encoded_blocks
from nanochat.retrieval.vectors.index import VectorIndex, read_record, write_vectors
from nanochat.retrieval.vectors.store import VectorStore
from nanochat.retrieval.vectors.texts import TEXTS, Texts, read_texts
from nanochat.retrieval.words.analysis import analyze

_RECORD = "dense.json"
_OWN_FILES = (_RECORD, TEXTS, "v-", "k-", "c-", "pq-")  # what is not of these belongs to the encoder
_EVER = 1 << 60  # more rows than there will be


class DenseRetriever:
    """Cosine similarity between the vectors of query and documents.

    Returns up to `top_k` hits whether or not they share a word with the query; scores lie in -1 .. 1. A query without
    any search term finds nothing. Up to 20,000 rows, or always with `exact=True`, the search is exact; above, product
    quantisation proposes 150 or more candidates whose exact scores decide (bench/vectors.py measures how many of the
    best ten that finds).

    model, path: see `nanochat.retrieval.encoders.find_encoder`.
    """

    def __init__(self, model: str = "", path: str = "auto", exact: bool | str = "auto") -> None:
        # a folder where `write` keeps finished blocks, so that it goes on there after a crash; the caller removes it
        self.journal: Path | None = None
        # an index whose vectors `write` takes over for equal texts, where the encoder is the same
        self.reuse: Path | None = None
        self._model, self._path, self._always_exact = model, path, exact is True
        self._folder: Path | None = None
        self._described: Mapping[str, Any] | None = None
        self._encoder: Encoder | None = None
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._lock = threading.Lock()
        self.vectors: VectorIndex | None = None  # what is searched; None while there are no rows

    @property
    def num_rows(self) -> int:
        """How many rows are indexed or loaded."""
        return self.vectors.num_rows if self.vectors else 0

    def index(self, documents: Sequence[Document]) -> None:
        """Encode all documents, into files in a temporary folder."""
        temporary = tempfile.TemporaryDirectory(prefix="nanochat-dense-")
        self.write(Path(temporary.name), documents)
        self.load(Path(temporary.name))
        self._temporary = temporary

    def search(
        self, queries: Sequence[str], top_k: int, *, allowed: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """The nearest rows of each query; the score is the cosine."""
        return self.search_vectors(self.query_vectors(queries), top_k, allowed=allowed)

    def search_vectors(
        self, vectors: np.ndarray, top_k: int, *, allowed: np.ndarray | None = None
    ) -> list[list[Hit]]:
        """`search` for queries that are encoded already: float32 (Q, dimension)."""
        return self.vectors.search(vectors, top_k, allowed) if self.vectors else [[] for _ in vectors]

    def query_vectors(self, queries: Sequence[str]) -> np.ndarray:
        """float32 (Q, dimension); zeros for a query without any search term."""
        vectors = np.zeros((len(queries), self.vectors.dimension if self.vectors else 0), np.float32)
        rows = [row for row, query in enumerate(queries) if self.vectors and analyze(query)]
        if rows:
            vectors[rows] = self._loaded_encoder().encode_queries([queries[row] for row in rows])
        return vectors

    def save(self, folder: Path) -> None:
        """Link or copy the files of the index."""
        if self._folder is None:
            return self.write(folder, [])
        for file in self._folder.iterdir():
            hard_link_or_copy(file, folder / file.name)

    def load(self, folder: Path) -> None:
        """Map the files of an index; the encoder is loaded by the first search."""
        record = read_record(folder / _RECORD)
        try:
            described = record["encoder"]
            vectors = VectorIndex(folder, record["vectors"], exact=self._always_exact) if described else None
            if described:
                self._check_model(described)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{_RECORD} is not as it was written: {error!r}") from error
        self._folder, self.vectors, self._described = folder, vectors, described
        self._encoder = self._temporary = None

    def write(self, folder: Path, documents: Sequence[Document], previous: Path | None = None) -> None:
        """Write the index of `previous` followed by `documents` into an empty folder.

        An encoder that learns from the texts learns anew at a few sizes; the vectors of all rows are new then.
        """
        old = DenseRetriever(self._model, self._path)
        if previous is not None:
            old.load(previous)
        encoder = old._loaded_encoder() if old.vectors else self._new_encoder()
        texts = Texts(documents)
        to_fit = encoder.rows_to_fit(old.num_rows + len(texts))
        may_learn_anew = to_fit < encoder.rows_to_fit(_EVER)
        if may_learn_anew or to_fit != encoder.fitted_rows:
            everything = Texts(documents, read_texts(previous / TEXTS, old.num_rows) if old.vectors else ())
            if may_learn_anew:
                everything.write(folder / TEXTS)
            if to_fit != encoder.fitted_rows:
                encoder = find_encoder(encoder.describe()["model"], path=self._path)
                encoder.fit(islice(everything, to_fit))
                old, texts = DenseRetriever(), everything
        if not len(texts) and not old.vectors:
            write_json(folder / _RECORD, {"encoder": None})
            return
        if old.vectors:
            _link_encoder(old._folder, folder)
        else:
            encoder.save(folder)
        blocks = encoded_blocks(texts, encoder, journal=self.journal, reuse=self._reusable(encoder))
        record = write_vectors(folder, old.vectors, blocks, len(texts), encoder.dimension)
        write_json(folder / _RECORD, {"encoder": encoder.describe(), "vectors": record})

    def describe(self) -> dict[str, Any]:
        """The encoder that made the vectors; the one that would, before anything is indexed."""
        return {"encoder": dict(self._described or find_encoder(self._model, path=self._path).describe()), "format": 1}

    def _loaded_encoder(self) -> Encoder:
        with self._lock:
            if self._encoder is None:
                self._encoder = load_encoder(self._folder)
            return self._encoder

    def _new_encoder(self) -> Encoder:
        """The one asked for; where the index to reuse was tuned on these documents, that one goes on."""
        tuned = tuned_encoder(self.reuse) if self.reuse is not None else None
        return tuned or find_encoder(self._model, path=self._path)

    def _reusable(self, encoder: Encoder) -> VectorStore | None:
        """The vectors of the index to reuse, if that very encoder made them."""
        if self.reuse is None:
            return None
        other = DenseRetriever()
        try:
            other.load(self.reuse)
        except (ValueError, OSError):
            return None
        same = other.vectors and document_side(other.describe()["encoder"]) == document_side(encoder.describe())
        return other.vectors.store if same else None

    def _check_model(self, described: Mapping[str, Any]) -> None:
        """Refuse to search vectors of one model with queries of another that was asked for by name."""
        if not self._model or self._model == described["model"]:
            return
        asked = find_encoder(self._model, path=self._path).describe()
        # a tuned encoder goes by the name of the one inside
        if asked["fingerprint"] != described.get("base_fingerprint", described["fingerprint"]):
            raise KnowledgeBaseError(
                f"The dense index was made with the encoder {described['model'] or described['encoder']} "
                f"(fingerprint {described['fingerprint']}), not with {self._model} ({asked['fingerprint']})",
                hint=f"python -m nanochat.retrieval --type dense --model {self._model} --documents ... --output ..., "
                "or leave the model out",
            )


def _link_encoder(old: Path, folder: Path) -> None:
    for file in old.iterdir():
        if not file.name.startswith(_OWN_FILES):
            hard_link_or_copy(file, folder / file.name)


def tuned_encoder(folder: Path) -> Encoder | None:
    """The tuned encoder of an index; None where the index has another one, or is none."""
    try:
        described = read_record(folder / _RECORD)["encoder"]
        return load_encoder(folder) if described and described["encoder"] == "tuned" else None
    except (ValueError, OSError, KeyError, TypeError):
        return None


def write_with_encoder(folder: Path, previous: Path, encoder: Encoder) -> None:
    """Write the index of `previous` with another encoder into an empty folder.

    The encoder must give documents the vectors that they have; only queries may differ, as with a tuned one.
    """
    record = read_record(previous / _RECORD)
    for file in previous.iterdir():
        if file.name.startswith(_OWN_FILES) and file.name not in (_RECORD, TEXTS):
            hard_link_or_copy(file, folder / file.name)
    encoder.save(folder)
    write_json(folder / _RECORD, {**record, "encoder": encoder.describe()})
