"""Plain text: one document per file, as it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.opening import read_text
from nanochat.retrieval.readers.parts import documents_of


def read_plain(path: Path, name: str) -> Iterator[tuple[int, Document]]:
    """(1, Document) of a text file, more of them where it is very long. The title is the name of the file."""
    text, metadata = checked_text(path)
    for document in documents_of(text, name, metadata=metadata):
        yield 1, document


def checked_text(path: Path) -> tuple[str, dict[str, Any]]:
    """Text of a file, and its encoding as metadata where it is not UTF-8. Raises DocumentError where there is none."""
    text, encoding = read_text(path)
    if not text.strip():
        raise DocumentError(f"{path}: holds no text", hint="remove it, or write something into it")
    return text, {} if encoding == "utf-8" else {"encoding": encoding}
