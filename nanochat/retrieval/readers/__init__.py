"""Files in, documents out: the table of readers and the checks that hold for all of them."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.jsonl import read_jsonl

log = logging.getLogger(__name__)

# Each entry is (line, Document) or (line, DocumentError): a reader goes on after a bad record where it can.
Entry = tuple[int, Document | DocumentError]

# file name ending -> reader; each ending may be followed by .gz
READERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
}


def find_reader(path: Path) -> Callable[[Path], Iterator[Entry]]:
    """The reader for a file, by the ending of its name. Raises DocumentError for a missing file or unknown ending."""
    name = path.name.lower().removesuffix(".gz")
    if not path.exists():
        raise DocumentError(
            f"{path}: file not found",
            hint="check the path, or make an example file: "
            "python -m scripts.prepare_rag_dataset --mode example --output data/rag_examples",
        )
    if path.is_dir():
        raise DocumentError(f"{path}: is a folder, not a file", hint="name a file: --documents my_documents.jsonl")
    for ending, reader in READERS.items():
        if name.endswith(ending):
            return reader
    raise DocumentError(
        f"{path}: no reader for this kind of file",
        hint=f"readable endings, each also with .gz: {', '.join(READERS)}",
    )


def scan_documents(path: str | Path, limit: int | None = None) -> Iterator[Entry]:
    """Documents and errors of a file in order, at most `limit` documents; a repeated id is an error, too."""
    path = Path(path)
    lines: dict[str, int] = {}
    for line, entry in find_reader(path)(path):
        if isinstance(entry, Document):
            if limit is not None and len(lines) >= limit:
                return
            first = lines.setdefault(entry.id, line)
            if first != line:
                entry = DocumentError(
                    f"{path}:{line}: duplicate id {entry.id!r}, first used in line {first}",
                    hint="give every document its own id",
                )
        yield line, entry


def read_documents(
    path: str | Path, limit: int | None = None, *, progress: Callable[[str], None] | None = None
) -> list[Document]:
    """All documents of a file, or its first `limit`. The first error is raised; a file without documents is one.

    `progress` gets one line of text for every 20,000 documents.
    """
    documents: list[Document] = []
    started = time.perf_counter()
    for _, entry in scan_documents(path, limit):
        if isinstance(entry, DocumentError):
            raise entry
        documents.append(entry)
        if progress and len(documents) % 20_000 == 0:
            progress(f"read {len(documents):,} documents, {time.perf_counter() - started:.0f} s")
    if not documents:
        raise DocumentError(f"{path}: holds no documents", hint="write one JSON object per line: id, title, content")
    return documents
