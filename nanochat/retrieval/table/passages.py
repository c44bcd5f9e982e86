"""The table: several parts with one row for every passage, in order of arrival, less the rows that are deleted."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, overload

import numpy as np

from nanochat.retrieval.document import Document
from nanochat.retrieval.table.fields import Fields
from nanochat.retrieval.table.reading import Part

_BLOCK_ROWS = 4096  # read at a time when many rows are
_FEW_ROWS = 64  # read one by one


class Table:
    """The passages of several parts. Row numbers run on from part to part and are the positions of hits.

    Reading is safe in threads. Damaged files raise ValueError or OSError where they are read.
    """

    def __init__(self, parts: Sequence[Part], deleted: np.ndarray | None = None) -> None:
        """`deleted`: int64, ascending rows. Raises ValueError for others."""
        self.parts = tuple(parts)
        self._starts = [0, *accumulate(part.num_passages for part in self.parts)]
        self.num_rows = self._starts[-1]
        self.deleted = np.zeros(0, np.int64) if deleted is None else np.asarray(deleted, np.int64)
        if len(self.deleted) and not (
            self.deleted[0] >= 0 and self.deleted[-1] < self.num_rows and (np.diff(self.deleted) > 0).all()
        ):
            raise ValueError(f"deleted rows must ascend and be rows of the {self.num_rows} there are")
        self.num_live = self.num_rows - len(self.deleted)
        self.fields = Fields(self.parts)

    @cached_property
    def live(self) -> np.ndarray | None:
        """bool (num_rows,): the rows that are not deleted; None when nothing is."""
        if not len(self.deleted):
            return None
        live = np.ones(self.num_rows, bool)
        live[self.deleted] = False
        live.flags.writeable = False
        return live

    @cached_property
    def num_documents(self) -> int:
        """Whole documents that are live. A document is live while its first passage is."""
        return sum(len(self._live_documents(number)) for number in range(len(self.parts)))

    @property
    def documents(self) -> "Rows":
        """The live passages in order of their rows."""
        return Rows(self, self._live_rows)

    def rows(self, start: int, stop: int) -> "Rows":
        """The passages of rows start to stop, deleted ones included: what an index is written from."""
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start} to {stop} of a table of {self.num_rows}")
        return Rows(self, range(start, stop))

    def passage(self, row: int) -> Document:
        """The passage of a row, deleted or not."""
        part, start = self._part_of(row)
        return part.passage(row - start)

    def passages(self, rows: Sequence[int] | np.ndarray) -> list[Document]:
        """The passages of rows in any order; each document is read once for all of its passages."""
        if len(rows) <= _FEW_ROWS:
            found = {row: self.passage(row) for row in sorted({int(row) for row in rows})}
            return [found[int(row)] for row in rows]
        ascending, places = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        read = list(self.read(ascending))
        return [read[place] for place in places.tolist()]

    def read(self, rows: range | np.ndarray) -> Iterator[Document]:
        """The passages of ascending rows, read one after the other in blocks."""
        if isinstance(rows, range) and rows.step != 1:
            rows = np.asarray(rows)
        for begin in range(0, len(rows), _BLOCK_ROWS):
            block = rows[begin : begin + _BLOCK_ROWS]
            while len(block):
                part, start = self._part_of(int(block[0]))
                stop = start + part.num_passages
                if isinstance(block, range):
                    count = min(len(block), stop - block.start)
                    yield from part.read_passages(range(block.start - start, block.start - start + count))
                else:
                    count = int(np.searchsorted(block, stop))
                    yield from part.read_passages(block[:count] - start)
                block = block[count:]

    def find(self, identifier: str) -> list[int]:
        """The live rows of a document's id, or the row of a passage's id ("<document id>#2"); none where unknown."""
        found = self._find_document(identifier)
        if found is not None:
            return self._live(self._rows_of(*found))
        parent, _, number = identifier.rpartition("#")
        found = self._find_document(parent) if number.isascii() and number.isdigit() and len(number) < 10 else None
        if found is None:
            return []
        rows = self._rows_of(*found)[max(int(number) - 1, 0) :][:1]
        # a whole document has no passage with a number, and numbers are written without zeros before them
        return self._live(row for row in rows if self.passage(row).id == identifier)

    def document(self, identifier: str) -> Document | None:
        """The live document with an id, whole; None where there is none."""
        found = self._find_document(identifier)
        return None if found is None else self.parts[found[0]].document(found[1])

    def hash_of(self, identifier: str) -> bytes | None:
        """The hash of the live document with an id, as `document_hash` gives it; None where there is none."""
        found = self._find_document(identifier)
        return None if found is None else self.parts[found[0]].hash_of(found[1])

    @property
    def whole_documents(self) -> Iterator[Document]:
        """Every live document, whole, in order of arrival."""
        for number, part in enumerate(self.parts):
            yield from part.read_documents(self._live_documents(number))

    def neighbours(self, row: int, before: int = 1, after: int = 1) -> list[int]:
        """The live rows around a row in its document, with the row itself, ascending."""
        part, start = self._part_of(row)
        rows = part.rows_of(part.document_of(row - start))
        first, last = max(rows.start, row - start - before), min(rows.stop, row - start + after + 1)
        return self._live(range(start + first, start + last))

    @cached_property
    def _live_rows(self) -> range | np.ndarray:
        return range(self.num_rows) if self.live is None else np.flatnonzero(self.live)

    def _find_document(self, identifier: str) -> tuple[int, int] | None:
        """(part, document) of the live document with an id; the latest, should there be several."""
        for number in reversed(range(len(self.parts))):
            for index in reversed(self.parts[number].find_all(identifier)):
                if self._is_live(self._rows_of(number, index).start):
                    return number, index
        return None

    def _rows_of(self, number: int, index: int) -> range:
        rows, start = self.parts[number].rows_of(index), self._starts[number]
        return range(start + rows.start, start + rows.stop)

    def _is_live(self, row: int) -> bool:
        return self.live is None or bool(self.live[row])

    def _live(self, rows: Iterable[int]) -> list[int]:
        return [row for row in rows if self._is_live(row)]

    def _live_documents(self, number: int) -> np.ndarray:
        """The documents of a part whose first passage is live."""
        part, start = self.parts[number], self._starts[number]
        if self.live is None:
            return np.arange(part.num_documents)
        return np.flatnonzero(self.live[start + part.offsets[:-1, 1]])

    def _part_of(self, row: int) -> tuple[Part, int]:
        """The part of a row, and its first row."""
        if not 0 <= row < self.num_rows:
            raise IndexError(f"row {row} of a table of {self.num_rows}")
        number = bisect_right(self._starts, row) - 1
        return self.parts[number], self._starts[number]


class Rows(Sequence[Document]):
    """Passages of a table as a sequence that holds none of them; slices are such sequences, too."""

    def __init__(self, table: Table, rows: range | np.ndarray) -> None:
        self.table, self.rows = table, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Document: ...
    @overload
    def __getitem__(self, place: slice) -> "Rows": ...
    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Rows(self.table, self.rows[place])
        return self.table.passage(int(self.rows[place]))

    def __iter__(self) -> Iterator[Document]:
        if len(self.rows) > 1 and self.rows[0] > self.rows[-1]:
            # a slice with a step back
            return (self.table.passage(int(row)) for row in self.rows)
        return self.table.read(self.rows)

    def __reversed__(self) -> Iterator[Document]:
        return iter(self[::-1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self):,} passages of a table of {self.table.num_rows:,}>"
