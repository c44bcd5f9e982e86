"""Tables as text (.csv, .tsv): every row a document, the first row the names of the columns."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.jsonl import MAX_LINE_BYTES
from nanochat.retrieval.readers.opening import decode, open_bytes, reading

_FIELDS = ("id", "title", "content", "source")
MAX_COLUMNS = 1_000
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,15})?")
_SAMPLE_BYTES = 100_000


def read_csv(path: Path, name: str) -> Iterator[tuple[int, Document | DocumentError]]:
    """(line, Document or DocumentError) for every row that is not blank.

    The columns id, title, content and source (in any case) are the document's, all others its metadata, numbers as
    numbers. Without a column content, it is made of all others as lines "column: value". A row without id is called
    "<name>:<line>". The columns are separated by the sign that the first row has most: comma, semicolon, tab or bar.
    """
    # a global of the csv module, and too low for long documents
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    header: list[str] = []
    for line, row in _rows(path):
        if isinstance(row, DocumentError):
            yield line, row
        elif not header:
            if len(row) > MAX_COLUMNS:
                yield line, DocumentError(f"{path}:{line}: {len(row):,} columns, at most {MAX_COLUMNS:,}",
                                          hint="check what separates the columns")
                return
            header = _header(row)
        elif any(cell.strip() for cell in row):
            yield line, _document(header, row, f"{path}:{line}", f"{name}:{line}")


def _rows(path: Path) -> Iterator[tuple[int, list[str] | DocumentError]]:
    """(line, cells or error) of every row; stops at what makes the rest unreadable."""
    line = 0
    try:
        with reading(path), open_bytes(path) as file:
            encoding = _encoding(path)
            sample = file.read(_SAMPLE_BYTES)
            form = _form(sample.decode(encoding, "replace"), path.name)
            rows = csv.reader(_lines(sample, file, encoding, path), strict=True, **form)
            while True:
                line = rows.line_num + 1
                try:
                    yield line, next(rows)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield line, DocumentError(
                        f"{path}:{line}: not a row of a table: {error}", hint='write "" for a quotation mark in quotes'
                    )
    except DocumentError as error:
        yield line, error


def _encoding(path: Path) -> str:
    """By byte order mark; else UTF-8 if the whole file is that; else Windows-1252 or Latin-1."""
    with open_bytes(path) as file:
        sample = file.read(_SAMPLE_BYTES)
        # raises for binary data
        _, encoding = decode(sample, path)
        if encoding in ("utf-16", "utf-32"):
            return encoding
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        data = sample
        try:
            while data:
                decoder.decode(data)
                data = file.read(1 << 20)
            decoder.decode(b"", True)
        except UnicodeDecodeError:
            # Latin-1 knows a character for every byte
            return "latin-1" if encoding == "latin-1" else "windows-1252"
    return "utf-8-sig"


def _lines(sample: bytes, file: IO[bytes], encoding: str, path: Path) -> Iterator[str]:
    """Lines of a file whose first bytes were read already. Raises DocumentError for an endless line."""
    text = io.TextIOWrapper(_Rewound(sample, file), encoding=encoding, newline="")
    number = 0
    while True:
        try:
            line = text.readline(MAX_LINE_BYTES + 1)
        except UnicodeError as error:
            raise DocumentError(
                f"{path}:{number + 1}: not {encoding.removesuffix('-sig')} text", hint="save the file as UTF-8"
            ) from error
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DocumentError(
                f"{path}:{number}: line is longer than {MAX_LINE_BYTES:,} characters", hint="write one row per line"
            )
        if not line:
            return
        yield line


class _Rewound(io.RawIOBase):
    """A file with the bytes in front again that were read as a sample."""

    def __init__(self, sample: bytes, file: IO[bytes]) -> None:
        self._sample, self._file = sample, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data, self._sample = self._sample[: len(buffer)], self._sample[len(buffer) :]
        data = data or self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _form(sample: str, name: str) -> dict[str, Any]:
    """How the columns are separated and quoted."""
    first = sample.lstrip("\ufeff").split("\n", 1)[0]
    bare = re.sub(r'"[^"]*"', "", first)
    delimiter = max(",;\t|", key=bare.count)
    if name.lower().removesuffix(".gz").endswith(".tsv"):
        delimiter = "\t"
    if delimiter == "\t":
        # programs that write tabs often leave quotation marks alone
        opened = len(re.findall(r'(?:^|\t)"', sample, re.MULTILINE))
        if opened != len(re.findall(r'"(?:\t|\r?$)', sample, re.MULTILINE)):
            return {"delimiter": delimiter, "quoting": csv.QUOTE_NONE}
    return {"delimiter": delimiter}


def _header(row: Sequence[str]) -> list[str]:
    """Names of the columns: known ones in lower case, nameless ones by their number, no name twice."""
    names: list[str] = []
    for number, cell in enumerate(row, start=1):
        name = cell.strip("\ufeff \t\r\n") or f"column {number}"
        name = name.lower() if name.lower() in _FIELDS else name
        names.append(name if name not in names else f"{name} {number}")
    return names


def _document(header: Sequence[str], row: Sequence[str], where: str, identifier: str) -> Document | DocumentError:
    if len(row) > len(header) and any(cell.strip() for cell in row[len(header) :]):
        return DocumentError(
            f"{where}: {len(row)} cells, but the first row names {len(header)} columns",
            hint="put cells that hold the separator between quotation marks",
        )
    cells = {name: cell.strip().replace("\r\n", "\n") for name, cell in zip(header, row) if cell.strip()}
    others = {name: cell for name, cell in cells.items() if name not in _FIELDS}
    record: dict[str, Any] = {name: cells[name] for name in _FIELDS if name in cells}
    record.setdefault("id", identifier)
    if "content" not in header:
        record["content"] = "\n".join(f"{name}: {cell}" for name, cell in others.items())
        record.setdefault("title", next(iter(others.values()), "")[:200])
    record["metadata"] = {name: _value(cell) for name, cell in others.items()}
    try:
        return Document.from_dict(record, where=where)
    except DocumentError as error:
        return error


def _value(cell: str) -> str | int | float:
    if not _NUMBER.fullmatch(cell):
        return cell
    return float(cell) if "." in cell else int(cell)
