"""An encoder with a linear map behind it, learned from a knowledge base; only the vectors of queries pass through it.

Vectors of documents are those of the encoder inside, so that a tuned encoder can take over an index as it is.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.common import write_json
from nanochat.retrieval.base import hard_link_or_copy
from nanochat.retrieval.encoders.base import DESCRIPTION, Encoder, EncoderError, load_encoder

_MAP = "query-map.npy"
_BASE = "base-"  # before the names of the files of the encoder inside
_REBUILD = "go back to an older version: nanochat kb versions; or build the knowledge base again"


class TunedEncoder:
    """Query vectors q of `base` become q @ query_map, of length 1 again; zeros stay zeros.

    query_map: float32 (dimension, dimension). `tuning` says how it was learned, JSON-ready.
    """

    def __init__(self, base: Encoder, query_map: np.ndarray, tuning: Mapping[str, Any] | None = None) -> None:
        shape = (base.dimension, base.dimension)
        assert query_map.shape == shape, f"a map of {query_map.shape} for vectors of {base.dimension}"
        self.base, self.query_map, self.tuning = base, np.ascontiguousarray(query_map, np.float32), dict(tuning or {})
        self.dimension = base.dimension

    @property
    def fitted_rows(self) -> int:
        """What the encoder inside has learned from; it learns no more, for the map would not fit it then."""
        return self.base.fitted_rows

    def rows_to_fit(self, num_rows: int) -> int:
        """Always what has been learned from already."""
        return self.fitted_rows

    def fit(self, texts: Iterable[str]) -> None:
        """Nothing to do."""

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of the encoder inside."""
        return self.base.encode_documents(texts)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Mapped vectors (N, dimension) float32."""
        return mapped(self.base.encode_queries(texts), self.query_map)

    def describe(self) -> dict[str, Any]:
        """That of the encoder inside, with a fingerprint of both."""
        inside = self.base.describe()
        digest = hashlib.sha256(inside["fingerprint"].encode() + self.query_map.tobytes())
        return {
            **inside, "encoder": "tuned", "fingerprint": digest.hexdigest()[:32],
            "base": inside["encoder"], "base_fingerprint": inside["fingerprint"], "tuning": self.tuning,
        }

    def save(self, folder: Path) -> None:
        """Write the map, and beside it what the encoder inside writes."""
        with tempfile.TemporaryDirectory(prefix="nanochat-encoder-") as inside:
            self.base.save(Path(inside))
            for file in Path(inside).iterdir():
                (folder / f"{_BASE}{file.name}").write_bytes(file.read_bytes())
        np.save(folder / _MAP, self.query_map, allow_pickle=False)
        write_json(folder / DESCRIPTION, self.describe())

    @classmethod
    def load(cls, folder: Path, *, places: Sequence[Path] = ()) -> "TunedEncoder":
        """Read what `save` wrote and check it."""
        with tempfile.TemporaryDirectory(prefix="nanochat-encoder-") as inside:
            for file in folder.glob(f"{_BASE}*"):
                hard_link_or_copy(file, Path(inside) / file.name.removeprefix(_BASE))
            base = load_encoder(Path(inside), places=places)
        try:
            written = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            query_map = np.load(folder / _MAP, allow_pickle=False)
            if query_map.shape != (base.dimension, base.dimension) or query_map.dtype != np.float32:
                raise ValueError(f"{_MAP} holds {query_map.shape} {query_map.dtype}")
            encoder = cls(base, query_map, written["tuning"])
            fits = encoder.describe()["fingerprint"] == written["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise EncoderError(f"The encoder in {folder} cannot be read: {error}", hint=_REBUILD) from error
        if not fits:
            raise EncoderError(f"The encoder in {folder} is damaged or of another version", hint=_REBUILD)
        return encoder


def mapped(vectors: np.ndarray, query_map: np.ndarray) -> np.ndarray:
    """float32 (N, D): vectors @ query_map with rows of length 1; rows of zeros stay zeros."""
    moved = vectors @ query_map
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.divide(moved, lengths, out=np.zeros_like(moved), where=lengths > 0)
