"""Writing parts: documents and their passages in one stream, whole or not at all, named by a hash of the content."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from struct import pack

import numpy as np

from nanochat.common import sync_path
from nanochat.retrieval.document import Document
from nanochat.retrieval.table.arrays import ArrayWriter, write_array
from nanochat.retrieval.table.fields import FieldsWriter
from nanochat.retrieval.table.reading import Part
from nanochat.retrieval.table.records import (
    FILES,
    MAX_ROWS,
    PartRecord,
    document_hash,
    encode_document,
    file_record,
    id_hash,
)

__all__ = ["Part", "PartRecord", "Spans", "document_hash", "merge_parts", "write_part"]

# (start, end) of every passage in document.content, in order; [(0, len(content))] keeps the document whole
Spans = Callable[[Document], Sequence[tuple[int, int]]]
_COPY_BYTES = 1_000_000


class _PartWriter:
    """The files of a part while they are written; only ids and columns are held in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_documents = self.num_passages = self.num_bytes = 0
        self.ids, self.fields = array("Q"), FieldsWriter()
        self.documents = open(folder / "documents.jsonl", "wb")
        self.offsets = ArrayWriter(folder / "offsets.npy", "<i8", (2,))
        self.passages = ArrayWriter(folder / "passages.npy", "<i4", (3,))
        self.hashes = ArrayWriter(folder / "hashes.npy", "|u1", (16,))

    def add(self, document: Document, spans: Spans | None, where: str) -> None:
        document, line, content_hash = encode_document(document, where)
        pairs = _checked_spans(document, spans)
        self.offsets.write(pack("<qq", self.num_bytes, self.num_passages))
        self.passages.write(b"".join(pack("<iii", self.num_documents, start, end) for start, end in pairs))
        self.hashes.write(content_hash)
        self.documents.write(line)
        self.ids.append(id_hash(document.id))
        self.fields.add(self.num_documents, document)
        self._count(1, len(pairs), len(line))

    def add_part(self, part: Part) -> None:
        # copied damage would get a hash of its own and never be noticed
        part.verify()
        with open(part.folder / "documents.jsonl", "rb") as file:
            shutil.copyfileobj(file, self.documents, _COPY_BYTES)
        self.offsets.write(part.offsets[:-1] + np.array([self.num_bytes, self.num_passages]))
        self.passages.write(part.spans + np.array([self.num_documents, 0, 0], np.int32))
        self.hashes.write(part.hashes)
        ids = np.empty(part.num_documents, np.uint64)
        ids[part.ids[1]] = part.ids[0]
        self.ids.frombytes(ids.tobytes())
        self.fields.add_part(self.num_documents, part.fields)
        self._count(part.num_documents, part.num_passages, part.record.files["documents.jsonl"]["bytes"])

    def _count(self, num_documents: int, num_passages: int, num_bytes: int) -> None:
        self.num_documents += num_documents
        self.num_passages += num_passages
        self.num_bytes += num_bytes
        if self.num_passages > MAX_ROWS:
            raise ValueError(f"a part holds at most {MAX_ROWS:,} passages")

    def finish(self) -> PartRecord:
        self.offsets.write(pack("<qq", self.num_bytes, self.num_passages))
        self.offsets.close(self.num_documents + 1)
        self.passages.close(self.num_passages)
        self.hashes.close(self.num_documents)
        self.documents.close()
        hashes = np.frombuffer(self.ids, np.uint64)
        order = np.argsort(hashes, kind="stable")
        write_array(self.folder / "ids.npy", np.stack([hashes[order], order.astype(np.uint64)]), "<u8")
        self.fields.write(self.folder)
        files = {name: file_record(self.folder / name) for name in FILES}
        content = "\n".join(f"{name} {record['sha256']}" for name, record in files.items())
        name = f"p-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        return PartRecord(name, self.num_documents, self.num_passages, files)

    def close(self) -> None:
        self.documents.close()
        for writer in (self.offsets, self.passages, self.hashes):
            writer.abandon()


def write_part(parent: Path, documents: Iterable[Document], spans: Spans | None, *, first: int = 1) -> PartRecord:
    """Write documents into parent/<name>/ and return what a manifest must say about it.

    Streams: memory holds 8 bytes per document, and the columns for filters. The folder appears whole or not at all; an
    equal part that is there already is kept. `first` is the number of the first document in messages.
    Raises DocumentError for a document that could not be read again, ValueError for an id that comes twice or for
    spans outside the content, OSError when the folder cannot be written.
    """
    with _new_part(parent) as writer:
        for number, document in enumerate(documents, first):
            writer.add(document, spans, f"document {number}")
        return _publish(parent, writer, has_distinct_ids=True)


def merge_parts(parent: Path, parts: Sequence[Part]) -> PartRecord:
    """Write adjacent parts as one, rows unchanged: bytes are copied, documents not parsed. The parts stay.

    Raises ValueError or OSError for a damaged part, OSError when the folder cannot be written.
    """
    with _new_part(parent) as writer:
        for part in parts:
            writer.add_part(part)
        return _publish(parent, writer)


@contextlib.contextmanager
def _new_part(parent: Path) -> Iterator[_PartWriter]:
    """A writer into a temporary folder beside the parts, which is removed in the end."""
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".part-", suffix=".tmp", dir=parent))
    try:
        with contextlib.closing(_PartWriter(temporary)) as writer:
            yield writer
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(parent: Path, writer: _PartWriter, *, has_distinct_ids: bool = False) -> PartRecord:
    record = writer.finish()
    if has_distinct_ids:
        _check_ids(Part.open(writer.folder, record))
    for name in FILES:
        os.chmod(writer.folder / name, 0o644)
        sync_path(writer.folder / name)
    os.chmod(writer.folder, 0o755)
    sync_path(writer.folder)
    target = parent / record.name
    if not _is_written(target, record):
        # a damaged part of this name makes room
        if target.is_symlink() or target.is_file():
            target.unlink()
        elif target.exists():
            shutil.rmtree(target)
        os.rename(writer.folder, target)
        sync_path(parent)
    return record


def _is_written(folder: Path, record: PartRecord) -> bool:
    """Whether the folder holds exactly what the record says, by hash."""
    try:
        return not folder.is_symlink() and {name: file_record(folder / name) for name in os.listdir(folder)} == dict(
            record.files
        )
    except OSError:
        return False


def _check_ids(part: Part) -> None:
    for place in np.flatnonzero(part.ids[0, 1:] == part.ids[0, :-1]).tolist():
        for index in part.ids[1, place : place + 2].tolist():
            identifier = part.document(index).id
            if len(part.find_all(identifier)) > 1:
                raise ValueError(f"the id {identifier!r} comes twice in one part")


def _checked_spans(document: Document, spans: Spans | None) -> list[tuple[int, int]]:
    length = len(document.content)
    pairs = [(0, length)] if spans is None else [(int(start), int(end)) for start, end in spans(document)]
    if not pairs or any(not 0 <= start < end <= length for start, end in pairs):
        raise ValueError(f"document {document.id!r} of {length} characters cannot have the passages {pairs[:3]}")
    if len(pairs) == 1 and not f"{document.content[: pairs[0][0]]}{document.content[pairs[0][1] :]}".strip():
        # its only passage is all of it, but for white space: the document stays whole
        return [(0, length)]
    return pairs
