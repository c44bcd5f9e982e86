"""Texts and laws that every encoder's tests share."""

import json

import numpy as np

from nanochat.retrieval.encoders import ENCODERS

WORDS = "red kite over the hill blue whale deep sea bread oven salt city wall river stone light green fast".split()
TEXTS = [" ".join(WORDS[(place * step) % len(WORDS)] for place in range(1, 3 + step * 4)) for step in range(1, 8)]
ODD = ["", " ", "?!", "\ud800 half", "a" * 5_000, "\x00\x01", "水在 kite", "kite\n\n\tkite", "<|bos|> [SEP] [PAD]"]


def check_laws(encoder, *, tolerance: float = 1e-3) -> None:
    assert ENCODERS[encoder.describe()["encoder"]]
    for encode in (encoder.encode_documents, encoder.encode_queries):
        vectors = encode(TEXTS + ODD)
        assert vectors.shape == (len(TEXTS + ODD), encoder.dimension) and vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        lengths = np.linalg.norm(vectors, axis=1)
        assert np.all((np.abs(lengths - 1) < 1e-3) | (lengths == 0)), lengths
        assert np.all(lengths[: len(TEXTS)] > 0)
        one_by_one = np.concatenate([encode([text]) for text in TEXTS + ODD])
        assert np.abs(one_by_one - vectors).max() <= tolerance, "a vector depends on its batch"
        backwards = encode((TEXTS + ODD)[::-1])[::-1]
        assert np.abs(backwards - vectors).max() <= tolerance, "a vector depends on the order"
        assert encode([]).shape == (0, encoder.dimension)
    described = json.loads(json.dumps(encoder.describe()))
    assert {"encoder", "model", "fingerprint", "dimension", "normalised", "documents_path"} <= described.keys()
