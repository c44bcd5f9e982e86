"""Arrays in .npy files whose form is known before they are read: written in one stream, mapped or read when opened."""

import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

HEADER_BYTES = 128
# smaller arrays are read: a map costs a file descriptor for as long as it lives
_MAPPED_FROM_BYTES = 1_000_000
_NO_DESCRIPTOR: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The first bytes of an .npy file (format 1.0), always equally long, so that it can be written last."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    body = text.encode().ljust(HEADER_BYTES - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


class ArrayWriter:
    """Writes rows of an array one after the other; how many there are is known when it is closed."""

    def __init__(self, path: Path, dtype: str, row_shape: tuple[int, ...] = ()) -> None:
        self._dtype, self._row_shape = dtype, row_shape
        self._file = open(path, "wb")
        self._file.write(bytes(HEADER_BYTES))

    def write(self, rows: "bytes | np.ndarray") -> None:
        """Append rows: an array of them, or their bytes (little-endian)."""
        if isinstance(rows, np.ndarray):
            rows = np.ascontiguousarray(rows, self._dtype).tobytes()
        self._file.write(rows)

    def close(self, num_rows: int) -> None:
        """Write the header of an array of `num_rows` rows."""
        with self._file as file:
            file.seek(0)
            file.write(_header(self._dtype, (num_rows, *self._row_shape)))

    def abandon(self) -> None:
        """Close the file of a write that failed."""
        self._file.close()


def write_array(path: Path, array: np.ndarray, dtype: str) -> None:
    """Write an array that is in memory."""
    with open(path, "wb") as file:
        file.write(_header(dtype, tuple(int(size) for size in array.shape)))
        file.write(np.ascontiguousarray(array, dtype).tobytes())


def open_file(path: Path, num_bytes: int) -> int:
    """A descriptor for reading. Raises OSError, also for a symbolic link; ValueError for another size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    size = os.fstat(descriptor).st_size
    if size != num_bytes:
        os.close(descriptor)
        raise ValueError(f"{path.name} has {size} bytes instead of {num_bytes}")
    return descriptor


def read_bytes(descriptor: int, start: int, end: int) -> bytes:
    """Bytes start to end of a file, safe in threads. Raises ValueError where the file ends before."""
    if not 0 <= start <= end:
        raise ValueError(f"bytes {start} to {end} cannot be read")
    pieces, position = [], start
    while position < end:
        piece = os.pread(descriptor, end - position, position)
        if not piece:
            raise ValueError(f"the file ends at byte {position}, not {end}")
        pieces.append(piece)
        position += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_file(path: Path, num_bytes: int) -> bytes:
    """A whole file of a known size. Raises OSError, ValueError for another size."""
    descriptor = open_file(path, num_bytes)
    try:
        return read_bytes(descriptor, 0, num_bytes)
    finally:
        os.close(descriptor)


def read_array(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A read-only array of exactly this form. Raises ValueError for another form or size, OSError."""
    num_bytes = HEADER_BYTES + np.dtype(dtype).itemsize * int(np.prod(shape, dtype=object))
    descriptor = open_file(path, num_bytes)
    try:
        data: Any
        if num_bytes >= _MAPPED_FROM_BYTES:
            data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ, **_NO_DESCRIPTOR)
        else:
            data = read_bytes(descriptor, 0, num_bytes)
    finally:
        os.close(descriptor)
    if data[:HEADER_BYTES] != _header(dtype, shape):
        raise ValueError(f"{path.name} does not hold {dtype} {shape}")
    return np.frombuffer(data, dtype, offset=HEADER_BYTES).reshape(shape)
