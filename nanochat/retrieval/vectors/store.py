"""Vectors of numbered rows in float16 files that never change: memory maps to read, whole new files to write.

    v-000000000000-000000020000.npy    float16 (rows, dimension) of the rows from the first number on
    k-000000000000-000000020000.npy    uint8 (rows, 16), the key of the text that each vector stands for
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanochat.retrieval.base import hard_link_or_copy

KEY_BYTES = 16
_COPY_ROWS = 8_192


class Span(NamedTuple):
    """A contiguous range of rows, kept in files of its own."""

    first: int
    rows: int

    def name(self, kind: str) -> str:
        """The file of one kind ("v" vectors, "k" keys, "c" codes) of these rows."""
        return f"{kind}-{self.first:012d}-{self.rows:012d}.npy"


class VectorStore:
    """The vectors of rows 0 .. num_rows - 1 in a folder. Opening it maps files, and reads none."""

    def __init__(self, folder: Path, spans: Sequence[Span], dimension: int) -> None:
        """Raises ValueError or OSError when the files are not as the spans say."""
        self.folder, self.spans, self.dimension = folder, tuple(spans), dimension
        self.num_rows = sum(span.rows for span in spans)
        if [span.first for span in spans] != np.cumsum([0, *(span.rows for span in spans)])[:-1].tolist():
            raise ValueError("the files of the vectors do not follow each other")
        self._vectors = [_mapped(folder / span.name("v"), (span.rows, dimension), np.float16) for span in spans]
        self._starts = np.array([span.first for span in spans], np.int64)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """float32 (len(rows), dimension): the vectors of these rows."""
        if len(self._vectors) == 1:
            return to_float32(self._vectors[0][rows])
        found = np.empty((len(rows), self.dimension), np.float16)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in set(owners.tolist()):
            mine = owners == owner
            found[mine] = self._vectors[owner][rows[mine] - self._starts[owner]]
        return to_float32(found)

    def blocks(self, size: int = _COPY_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """The first row and the float16 vectors of every block of at most `size` rows, in order."""
        for span, vectors in zip(self.spans, self._vectors):
            for start in range(0, span.rows, size):
                yield span.first + start, np.asarray(vectors[start : start + size])

    def matrix(self) -> np.ndarray:
        """float32 (num_rows, dimension): all vectors, in memory."""
        found = np.empty((self.num_rows, self.dimension), np.float32)
        # blocks that stay in the processor's cache
        for first, block in self.blocks(512):
            found[first : first + len(block)] = to_float32(block)
        return found

    def keys(self, span: Span) -> np.ndarray:
        """uint8 (rows, 16), memory-mapped."""
        return _mapped(self.folder / span.name("k"), (span.rows, KEY_BYTES), np.uint8)

    def vectors(self, span: Span) -> np.ndarray:
        """float16 (rows, dimension), memory-mapped."""
        return self._vectors[self.spans.index(span)]


def write_spans(
    folder: Path, previous: VectorStore | None, blocks: Iterable[tuple[np.ndarray, np.ndarray]], num_new: int,
    dimension: int,
) -> list[Span]:
    """Write the rows of `previous` followed by `num_new` rows that come in blocks of keys and vectors.

    Files of `previous` are linked, except for the last small ones, which become one file with the new rows: the number
    of files grows with the logarithm of the number of rows. Returns the spans that are in `folder` then.
    """
    kept = list(previous.spans) if previous else []
    merged: list[Span] = []
    while num_new and kept and kept[-1].rows <= 2 * (num_new + sum(span.rows for span in merged)):
        merged.insert(0, kept.pop())
    for span in kept:
        for kind in "vk":
            hard_link_or_copy(previous.folder / span.name(kind), folder / span.name(kind))
    if not num_new:
        return kept
    first = kept[-1].first + kept[-1].rows if kept else 0
    new = Span(first, num_new + sum(span.rows for span in merged))
    with ArrayFile(folder / new.name("v"), (new.rows, dimension), np.float16) as vectors, \
            ArrayFile(folder / new.name("k"), (new.rows, KEY_BYTES), np.uint8) as keys:
        for span in merged:
            for start in range(0, span.rows, _COPY_ROWS):
                keys.append(previous.keys(span)[start : start + _COPY_ROWS])
                vectors.append(previous.vectors(span)[start : start + _COPY_ROWS])
        for block_keys, block_vectors in blocks:
            keys.append(block_keys)
            vectors.append(block_vectors)
    return [*kept, new]


class ArrayFile:
    """An .npy file of known shape, written row block by row block; a full disk raises OSError."""

    # not a writable memory map: with those, a full disk kills the process
    def __init__(self, path: Path, shape: tuple[int, int], dtype: Any) -> None:
        self._shape, self._dtype, self._rows = shape, np.dtype(dtype), 0
        self._file = open(path, "wb")
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, block: np.ndarray) -> None:
        """Add rows (n, shape[1]), converted to the file's type."""
        self._file.write(np.ascontiguousarray(block, self._dtype).data)
        self._rows += len(block)

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self._file.close()
        assert kind is not None or self._rows == self._shape[0], f"{self._rows} rows written of {self._shape[0]}"


def to_float32(halves: np.ndarray) -> np.ndarray:
    """The same numbers in float32, which must be finite; several times as fast as astype.

    Numbers below 6.2e-5 become 0 in a process whose processor flushes denormals, as training makes it do.
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    # sign, exponent and fraction are in their places; what remains is the other bias of the exponent
    bits &= np.int32(-0x70002000)
    numbers = bits.view(np.float32)
    numbers *= np.float32(2.0**112)
    return numbers


def _mapped(path: Path, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path.name} holds {array.shape} {array.dtype}, not {shape} {np.dtype(dtype)}")
    # a plain view of the map: indexing np.memmap itself is slow
    return np.asarray(array)
