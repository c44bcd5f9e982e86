"""Vectors of large text collections, computed once and kept: what benches of indexes and of quality share."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nanochat.retrieval.encoders import Encoder

BLOCK = 1_024  # texts in one file of the cache


def encode_cached(
    encoder: Encoder, texts: Sequence[str], cache_folder: str | Path, *, for_queries: bool = False
) -> np.ndarray:
    """The vectors (N, D) float32 of the texts. Blocks that are in the folder are read; the others are added to it.

    An interrupted run goes on where it stopped. The folder may hold vectors of many encoders and collections.
    """
    folder = Path(cache_folder)
    folder.mkdir(parents=True, exist_ok=True)
    known = encoder.describe()
    what = [known["fingerprint"], known["queries_path" if for_queries else "documents_path"], for_queries]
    blocks = [np.zeros((0, encoder.dimension), np.float32)]
    for start in range(0, len(texts), BLOCK):
        part = list(texts[start : start + BLOCK])
        name = hashlib.sha256(json.dumps([what, part]).encode()).hexdigest()[:32]
        file = folder / f"{name}.npy"
        if not file.is_file():
            vectors = encoder.encode_queries(part) if for_queries else encoder.encode_documents(part)
            temporary = folder / f"{name}.tmp.npy"
            np.save(temporary, vectors)
            temporary.replace(file)
        blocks.append(np.load(file, allow_pickle=False))
    return np.concatenate(blocks)
