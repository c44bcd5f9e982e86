"""A sentence-transformers model as an encoder, computed on the fastest numeric path that is installed."""

import json
import logging
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.common import write_json
from nanochat.retrieval.encoders.base import DESCRIPTION, EncoderError
from nanochat.retrieval.encoders.models import DEFAULT, find_model
from nanochat.retrieval.encoders.paths import PATHS, Run, choose_path, is_installed, load_path
from nanochat.retrieval.encoders.sentence_folder import read_sentence_folder
from nanochat.retrieval.encoders.tokens import Tokens

logger = logging.getLogger(__name__)
_REBUILD = "build the knowledge base again: python -m nanochat.retrieval --type dense --model {model} ..."


class TransformerEncoder:
    """Vectors of length 1 by a model's own tokenizer, transformer, pooling and prefixes.

    The folder is read at once; weights load (and are converted, the first time on a machine) at the first encoding.
    """

    fitted_rows = 0

    def __init__(self, folder: Path, *, model: str = "", path: str = "auto") -> None:
        self._sentence = read_sentence_folder(folder)
        self._model = model or DEFAULT
        self._folder = folder
        # "documents,queries" or one for both
        documents, _, queries = path.partition(",")
        self._documents_path, self._queries_path = choose_path(documents), choose_path(queries or documents)
        # the engines' requests hold one input at a time, and threads of a server share an encoder
        self._lock = threading.Lock()
        self.dimension: int = self._sentence.dimension

    @cached_property
    def _tokens(self) -> Tokens:
        return Tokens(self._sentence)

    @cached_property
    def _documents(self) -> Run:
        return load_path(self._documents_path, self._sentence, for_queries=False)

    @cached_property
    def _queries(self) -> Run:
        if self._queries_path == self._documents_path and PATHS[self._queries_path].shared:
            return self._documents
        return load_path(self._queries_path, self._sentence, for_queries=True)

    def rows_to_fit(self, num_rows: int) -> int:
        """0: nothing is learned from the corpus."""
        return 0

    def fit(self, texts: Iterable[str]) -> None:
        """Nothing to do."""

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (N, dimension) float32 of what is searched."""
        return self._encode(texts, self._sentence.document_prefix, lambda: self._documents)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (N, dimension) float32 of what people ask."""
        return self._encode(texts, self._sentence.query_prefix, lambda: self._queries)

    def _encode(self, texts: Sequence[str], prefix: str, load: Any) -> np.ndarray:
        result = np.zeros((len(texts), self.dimension), np.float32)
        rows = self._tokens.encode([prefix + text for text in texts] if prefix else texts)
        groups, batches = self._tokens.batches(rows)
        # a text without any token keeps the zero vector
        with self._lock:
            for places, vectors in zip(groups, load()(batches) if groups else ()):
                result[places] = vectors
        bad = np.flatnonzero(~np.isfinite(result).all(axis=1))
        if len(bad):
            raise EncoderError(
                f"The model {self._model} gives a vector that is not finite for {len(bad)} texts, the first: "
                f"{texts[bad[0]][:60]!r}",
                hint="the model's weights are damaged, or too large for 8 bits: try the numeric path torch",
            )
        return result

    def describe(self) -> dict[str, Any]:
        """All that decides the vectors."""
        sentence = self._sentence
        return {
            "encoder": "transformer", "model": self._model, "fingerprint": sentence.fingerprint,
            "dimension": self.dimension, "pooling": sentence.pooling, "normalised": True,
            "max_tokens": sentence.max_tokens, "query_prefix": sentence.query_prefix,
            "document_prefix": sentence.document_prefix,
            "documents_path": self._documents_path, "queries_path": self._queries_path,
        }

    def save(self, folder: Path) -> None:
        """Write which model it is, by name (or folder, as it was given) and fingerprint."""
        write_json(folder / DESCRIPTION, self.describe())

    @classmethod
    def load(cls, folder: Path, *, places: Sequence[Path] = ()) -> "TransformerEncoder":
        """The encoder that `save` wrote: from `places`/fingerprint, or by its name.

        Documents keep the numeric path they were encoded with where it is installed; another one is logged.
        """
        written = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        model, fingerprint = written["model"], written["fingerprint"]
        path = _path_of(written)
        for place in places:
            if (place / fingerprint).is_dir():
                return cls(place / fingerprint, model=model, path=path)
        try:
            encoder = cls(find_model(model), model=model, path=path)
        except EncoderError as missing:
            raise EncoderError(
                f"The vectors were made with the model {model} (fingerprint {fingerprint}), which is not there",
                hint=f"put its folder back, or here: {[*places, Path('models')][0] / fingerprint}; "
                f"or {_REBUILD.format(model='all-MiniLM-L6-v2')}",
            ) from missing
        found = encoder.describe()["fingerprint"]
        if found != fingerprint:
            raise EncoderError(
                f"The model {model} is another one now: fingerprint {found}, the vectors were made with {fingerprint}",
                hint=_REBUILD.format(model=model),
            )
        return encoder


def _path_of(written: dict[str, Any]) -> str:
    path = written["documents_path"]
    if path in PATHS and is_installed(path):
        queries = written.get("queries_path", path)
        return f"{path},{queries if queries in PATHS and is_installed(queries) else path}"
    instead = choose_path("auto")
    logger.warning(
        "Vectors were made on the numeric path %s, which is not installed here; using %s. Rankings differ a little: "
        "install the packages of that path, or build the knowledge base again.", path, instead,
    )
    return instead
