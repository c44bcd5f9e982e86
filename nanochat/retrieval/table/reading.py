"""A part that is open: its documents and passages, read line by line when they are asked for."""

import os
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from nanochat.retrieval.document import Document
from nanochat.retrieval.table.arrays import open_file, read_array, read_bytes
from nanochat.retrieval.table.cutting import Cutter
from nanochat.retrieval.table.fields import PartFields
from nanochat.retrieval.table.records import PartRecord, decode_document, file_record, id_hash, starts_with_id

_BLOCK_BYTES = 262_144  # read at once from documents.jsonl


class Part:
    """Documents and passages of a contiguous range of rows; rows and documents count from 0 in each part.

    Reading is safe in threads. A file that is not as it was written raises ValueError or OSError, when the part is
    opened or when the damaged place is read.
    """

    def __init__(self, folder: Path, record: PartRecord) -> None:
        self.folder, self.record = folder, record
        self.num_documents, self.num_passages = record.num_documents, record.num_passages
        # row i: (first byte of document i, its first passage), and one row more for the ends
        self.offsets = read_array(folder / "offsets.npy", "<i8", (self.num_documents + 1, 2))
        # row i: (document, start, end) of passage i, in characters of the document's content
        self.spans = read_array(folder / "passages.npy", "<i4", (self.num_passages, 3))
        # ids[0]: the hashes of all ids, ascending; ids[1]: the document of each
        self.ids = read_array(folder / "ids.npy", "<u8", (2, self.num_documents))
        self._num_bytes = record.files["documents.jsonl"]["bytes"]
        if self.offsets[0].any() or self.offsets[-1].tolist() != [self._num_bytes, self.num_passages]:
            raise ValueError("offsets.npy does not belong to this part")
        self._descriptor = open_file(folder / "documents.jsonl", self._num_bytes)
        weakref.finalize(self, os.close, self._descriptor)
        self._last: tuple[int, Cutter] | None = None

    @classmethod
    def open(cls, folder: Path, record: PartRecord) -> "Part":
        """Open the part in `folder` (its own folder, parts/<name>). Raises ValueError or OSError for a damaged one."""
        return cls(folder, record)

    @cached_property
    def hashes(self) -> np.ndarray:
        """uint8 (num_documents, 16): the hash of every document."""
        return read_array(self.folder / "hashes.npy", "|u1", (self.num_documents, 16))

    @cached_property
    def fields(self) -> PartFields:
        """The columns that filters compare."""
        return PartFields(self.folder, self.record)

    def verify(self) -> None:
        """Hash every file. Raises ValueError, or OSError, naming the first that is not as it was written."""
        for name, record in self.record.files.items():
            if file_record(self.folder / name) != record:
                raise ValueError(f"{name} of part {self.record.name} is not what was written (its hash differs)")

    @property
    def owners(self) -> np.ndarray:
        """int32 (num_passages,): the document of every row."""
        owners = self.spans[:, 0]
        if len(owners) and not 0 <= owners.min() <= owners.max() < self.num_documents:
            raise ValueError("passages.npy is not what was written")
        return owners

    def document(self, index: int) -> Document:
        """A whole document."""
        self._check_document(index)
        return next(self.read_documents([index]))

    def read_documents(self, indexes: Sequence[int]) -> Iterator[Document]:
        """Whole documents, ascending, read in blocks."""
        wanted = np.asarray(indexes, np.int64)
        starts, ends = self.offsets[wanted, 0].tolist(), self.offsets[wanted + 1, 0].tolist()
        block, begin, stop = b"", 0, 0
        for place, (start, end) in enumerate(zip(starts, ends)):
            if not begin <= start < end <= self._num_bytes:
                raise ValueError("offsets.npy is not what was written")
            if end > stop:
                # with the documents that follow, as far as they fit
                last = bisect_right(ends, start + _BLOCK_BYTES, place + 1)
                begin, stop = start, ends[last - 1]
                block = read_bytes(self._descriptor, begin, stop)
            yield decode_document(block[start - begin : end - begin])

    def passage(self, row: int) -> Document:
        """The passage of a row."""
        index, start, end = self._span(row)
        rows = self.rows_of(index)
        if len(rows) == 1:
            return Cutter(self.document(index), 1).passage(1, start, end)
        last = self._last
        if last is None or last[0] != index:
            self._last = last = index, Cutter(self.document(index), len(rows))
        return last[1].passage(row - rows.start + 1, start, end)

    def read_passages(self, rows: range | np.ndarray) -> Iterator[Document]:
        """The passages of ascending rows, each document read once."""
        spans = self.spans[rows.start : rows.stop] if isinstance(rows, range) else self.spans[rows]
        owners = spans[:, 0].astype(np.int64)
        if len(owners) and not 0 <= owners.min() <= owners.max() < self.num_documents:
            raise ValueError("passages.npy is not what was written")
        firsts = self.offsets[owners, 1]
        counts = self.offsets[owners + 1, 1] - firsts
        documents = self.read_documents(owners[np.flatnonzero(np.diff(owners, prepend=-1))])
        numbers = np.asarray(rows) - firsts + 1
        current = -1
        for (index, start, end), count, number in zip(spans.tolist(), counts.tolist(), numbers.tolist()):
            if index != current:
                current, cutter = index, Cutter(next(documents), count)
            yield cutter.passage(number, start, end)

    def find(self, identifier: str) -> int | None:
        """The document with an id, the latest of several; None where there is none."""
        return max(self.find_all(identifier), default=None)

    def find_all(self, identifier: str) -> list[int]:
        """The documents with an id: at most one in a part written at once, several where parts were merged."""
        try:
            wanted = np.uint64(id_hash(identifier))
        except UnicodeEncodeError:
            return []
        place = int(np.searchsorted(self.ids[0], wanted))
        found = []
        while place < self.num_documents and self.ids[0, place] == wanted:
            index = int(self.ids[1, place])
            if index >= self.num_documents:
                raise ValueError("ids.npy is not what was written")
            if starts_with_id(self._line_start(index, len(identifier)), identifier):
                found.append(index)
            place += 1
        return sorted(found)

    def document_of(self, row: int) -> int:
        """The document that a row belongs to."""
        return self._span(row)[0]

    def rows_of(self, index: int) -> range:
        """The rows of a document's passages."""
        self._check_document(index)
        first, end = self.offsets[index : index + 2, 1].tolist()
        if not 0 <= first < end <= self.num_passages:
            raise ValueError("offsets.npy is not what was written")
        return range(first, end)

    def hash_of(self, index: int) -> bytes:
        """The hash of a document, as `document_hash` gives it."""
        self._check_document(index)
        return self.hashes[index].tobytes()

    def _line_start(self, index: int, id_length: int) -> bytes:
        start, end = self.offsets[index : index + 2, 0].tolist()
        # a character takes six bytes at most, as \\u0000
        return read_bytes(self._descriptor, start, min(end, start + 16 + 6 * id_length, self._num_bytes))

    def _span(self, row: int) -> tuple[int, int, int]:
        if not 0 <= row < self.num_passages:
            raise IndexError(f"row {row} of a part of {self.num_passages}")
        index, start, end = self.spans[row].tolist()
        if not 0 <= index < self.num_documents:
            raise ValueError("passages.npy is not what was written")
        return index, start, end

    def _check_document(self, index: int) -> None:
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of a part of {self.num_documents}")
