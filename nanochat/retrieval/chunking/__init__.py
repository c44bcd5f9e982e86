"""Long documents into passages, with exact offsets."""

from nanochat.retrieval.chunking.cutting import (
    Chunking,
    chunk_document,
    chunk_documents,
    spans,
    spans_function,
)
from nanochat.text import sentence_spans

__all__ = ["Chunking", "chunk_document", "chunk_documents", "sentence_spans", "spans", "spans_function"]
