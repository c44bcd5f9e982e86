"""Texts into blocks of keys and vectors, taking what is known already from an earlier index or a journal."""

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat.retrieval.vectors.known import Journal, KnownVectors, text_keys
from nanochat.retrieval.vectors.store import VectorStore
from nanochat.retrieval.vectors.texts import Texts

if TYPE_CHECKING:
    from nanochat.retrieval.encoders import Encoder

BLOCK_ROWS = 1_024
_QUERY_SIDE = ("model", "queries_path", "query_prefix")


def document_side(description: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an encoder's description that decides the vectors of documents."""
    return {name: value for name, value in description.items() if name not in _QUERY_SIDE}


def encoded_blocks(
    texts: Texts, encoder: "Encoder", *, journal: Path | None = None, reuse: VectorStore | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys uint8 (n, 16) and vectors float16 (n, dimension) of the texts, in blocks of at most 1,024.

    Equal texts of a block are encoded once. Vectors of texts in `reuse`, which the same encoder must have made, and in
    the journal folder are taken over. Finished blocks are added to the journal.
    """
    known = KnownVectors()
    if reuse is not None:
        known.add_store(reuse)
    notes = None
    if journal is not None:
        identity = json.dumps(document_side(encoder.describe()), sort_keys=True)
        notes = Journal(journal / f"vectors-{blake2b(identity.encode(), digest_size=8).hexdigest()}")
        notes.load(known, encoder.dimension)
    for start in range(0, len(texts), BLOCK_ROWS):
        block = texts.block(start, start + BLOCK_ROWS)
        keys = text_keys(block)
        vectors = np.empty((len(block), encoder.dimension), np.float16)
        missing = np.flatnonzero(~known.fill(keys, vectors))
        if len(missing):
            _, firsts, copies = np.unique(keys[missing], axis=0, return_index=True, return_inverse=True)
            fresh = np.asarray(encoder.encode_documents([block[row] for row in missing[firsts]]), np.float16)
            vectors[missing] = fresh[copies.ravel()]
            if notes is not None:
                notes.save(keys[missing], vectors[missing])
        yield keys, vectors
