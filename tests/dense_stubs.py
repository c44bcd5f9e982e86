"""Small encoders for the tests of dense retrieval: words become fixed random directions."""

import json
import zlib
from pathlib import Path

import numpy as np

from nanochat.retrieval.retrievers import dense
from nanochat.retrieval.words.analysis import analyze

DIMENSION = 64


class WordEncoder:
    """The sum of a random vector per word, of length 1. Class attributes count and limit the encoded texts."""

    dimension = DIMENSION
    fingerprint = "a1"
    encoded = 0
    fail_after: int | None = None

    def __init__(self):
        self.fitted_rows = 0

    def rows_to_fit(self, num_rows):
        return 0

    def vector(self, text):
        words = [self.word(term) for term in analyze(text)]
        total = np.sum(words, axis=0) if words else np.zeros(DIMENSION)
        return (total / max(np.linalg.norm(total), 1e-9)).astype(np.float32)

    def word(self, term):
        return np.random.default_rng(zlib.crc32(term.encode())).standard_normal(DIMENSION)

    def encode_documents(self, texts):
        kind = type(self)
        kind.encoded += len(texts)
        if kind.fail_after is not None and kind.encoded > kind.fail_after:
            raise RuntimeError("crash")
        return self.encode_queries(texts)

    def encode_queries(self, texts):
        return np.stack([self.vector(text) for text in texts])

    def describe(self):
        return {"encoder": "words", "model": "words", "fingerprint": self.fingerprint, "dimension": DIMENSION,
                "fitted_rows": self.fitted_rows}

    def save(self, folder: Path):
        (folder / "encoder.json").write_text(json.dumps(self.describe()))

    @classmethod
    def load(cls, folder: Path):
        encoder = cls()
        encoder.fitted_rows = json.loads((folder / "encoder.json").read_text())["fitted_rows"]
        return encoder


class LearningEncoder(WordEncoder):
    """Vectors depend on how many texts it has learned from: the first 10 or 40."""

    fits: list[int] = []

    def rows_to_fit(self, num_rows):
        return 0 if num_rows < 10 else 10 if num_rows < 40 else 40

    def fit(self, texts):
        self.fitted_rows = len(list(texts))
        type(self).fits.append(self.fitted_rows)

    def word(self, term):
        return super().word(f"{term}{self.fitted_rows}")


def stub_encoders(monkeypatch, kind):
    """Make dense retrieval use encoders of a fresh subclass of `kind`, which is returned."""
    fresh = type(kind.__name__, (kind,), {"encoded": 0, "fail_after": None, "fits": []})
    monkeypatch.setattr(dense, "find_encoder", lambda model, path="auto": fresh())
    monkeypatch.setattr(dense, "load_encoder", fresh.load)
    return fresh
