"""Bytes of a file into text: gzip by content, byte order marks, and the encodings that old files have."""

import codecs
import contextlib
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nanochat.errors import DocumentError

# a file that becomes one document or one JSON value is held in memory as a whole
MAX_FILE_BYTES = 64_000_000
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# what no text holds: control characters other than tab, line ends, form feed, escape and the old end-of-file mark
_BINARY = re.compile("[\x00-\x07\x0e-\x19\x1c-\x1f\x7f]")
_CONTROL = {code: None for code in [*range(32), 0x7F, *range(0x80, 0xA0), 0xAD, 0x200B, 0xFEFF, 0xFFFE, 0xFFFF]
            if code not in (9, 10, 0x85)}
# half characters cannot be written as UTF-8
_CONTROL |= {code: "\ufffd" for code in range(0xD800, 0xE000)}


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if it is gzip by content: downloads often lose or gain a .gz on the way."""
    with open(path, "rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(file, "rb") as unpacked:
                yield unpacked
        else:
            yield file


@contextlib.contextmanager
def reading(path: Path, line: int = 0) -> Iterator[None]:
    """Turns what opening and unpacking a file may raise into a DocumentError that names it."""
    where = f"{path}:{line}" if line else str(path)
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DocumentError(
            f"{where}: the gzip file is damaged or cut short ({error})", hint="copy or compress the file again"
        ) from error
    except OSError as error:
        raise DocumentError(
            f"{path}: cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from error


def read_bytes(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """All bytes of a file, unpacked. Raises DocumentError above `limit` bytes, and where the file cannot be read."""
    with reading(path), open_bytes(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DocumentError(
            f"{path}: larger than {limit:,} bytes", hint="split it, or write its documents as JSON Lines, one per line"
        )
    return data


def decode(data: bytes, path: Path) -> tuple[str, str]:
    """Text and the name of its encoding: by byte order mark, else UTF-8, else Windows-1252 (Latin-1).

    Raises DocumentError for binary data. Line ends become a single line feed each.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    try:
        text = data.decode(encoding or "utf-8").removeprefix("\ufeff")
        encoding = encoding or "utf-8"
    except UnicodeDecodeError as error:
        if encoding or _BINARY.search(data.decode("latin-1")):
            raise _no_text(path) from error
        text, encoding = _western(data)
    if "\x00" in text or len(_BINARY.findall(text)) > 1 + len(text) // 200:
        raise _no_text(path)
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def _western(data: bytes) -> tuple[str, str]:
    try:
        return data.decode("windows-1252"), "windows-1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def _no_text(path: Path) -> DocumentError:
    return DocumentError(f"{path}: not a text file (binary data)", hint="name it by its kind, or save it as UTF-8 text")


def read_text(path: Path) -> tuple[str, str]:
    """Text of a file and the name of its encoding. Raises DocumentError as `read_bytes` and `decode` do."""
    return decode(read_bytes(path), path)


def without_control(text: str) -> str:
    """Text without control characters, soft hyphens and half characters; tabs and line feeds stay."""
    if text.isascii() and text.isprintable():
        return text
    return text.replace("\r\n", "\n").translate(_CONTROL)
