"""Source code and configuration: one document per file, its definitions as headings."""

from collections.abc import Iterator
from pathlib import Path

from nanochat.retrieval.chunking.markup import find_definitions
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.parts import documents_of
from nanochat.retrieval.readers.text import checked_text


def read_code(path: Path, name: str) -> Iterator[tuple[int, Document]]:
    """(1, Document) of a file of source code, the text as it is; its title is its relative path."""
    text, metadata = checked_text(path)
    for document in documents_of(text, name, title=name, headings=find_definitions(text, name), metadata=metadata):
        yield 1, document
