"""The table of a knowledge base: documents and passages in immutable parts, read from disk as they are needed."""

from nanochat.retrieval.table.part import Part, PartRecord, Spans, merge_parts, write_part
from nanochat.retrieval.table.passages import Rows, Table
from nanochat.retrieval.table.records import document_hash, encode_document

__all__ = [
    "Part", "PartRecord", "Rows", "Spans", "Table", "document_hash", "encode_document", "merge_parts", "write_part",
]  # fmt: skip
