"""JSON Lines, plain or gzip: one document per line, errors named by file and line."""

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.opening import open_bytes

# room for MAX_CONTENT_CHARS characters written as twelve-byte escapes, and some metadata
MAX_LINE_BYTES = 16_000_000


def read_jsonl(path: Path, name: str = "") -> Iterator[tuple[int, Document | DocumentError]]:
    """(line, Document) or (line, DocumentError) for every line that is not blank; lines count from 1."""
    number = 0
    try:
        with open_bytes(path) as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    yield number, DocumentError(
                        f"{path}:{number}: line is longer than {MAX_LINE_BYTES:,} bytes",
                        hint="write one JSON object per line, one document of at most a few pages each",
                    )
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE_BYTES)
                    continue
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, parse_record(line, f"{path}:{number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield number, DocumentError(
            f"{path}:{number + 1}: the gzip file is damaged or cut short ({error})",
            hint="copy or compress the file again",
        )
    except OSError as error:
        yield number, DocumentError(f"{path}: cannot be read: {error.strerror or error}", hint="check its permissions")


def parse_record(line: bytes, where: str) -> Document | DocumentError:
    """A line of JSON as a document, or the error that names `where`."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return DocumentError(
            f"{where}: not UTF-8 text (byte {error.start + 1} of the line)",
            hint="save the file as UTF-8, e.g.: iconv -f LATIN1 -t UTF-8 old.jsonl > new.jsonl",
        )
    try:
        record = json.loads(text, parse_constant=no_constant, parse_float=finite)
        # escapes can spell half characters, which no UTF-8 file could hold again
        if "\\u" in text:
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        return Document.from_dict(record, where=where)
    except UnicodeEncodeError as error:
        return DocumentError(
            f"{where}: holds half of a character (a lone \\u{ord(error.object[error.start]):04x} escape)",
            hint="write the text as UTF-8 without escapes, or remove that escape",
        )
    except RecursionError:
        return DocumentError(f"{where}: JSON nested too deeply", hint="flatten the metadata of this document")
    except DocumentError as error:
        return error
    except ValueError as error:
        return DocumentError(
            f"{where}: not valid JSON: {error}", hint="write one JSON object per line, with double quotes"
        )


def no_constant(name: str) -> Any:
    """Refuses NaN and the infinities, which JSON does not know; a `parse_constant` for json.loads."""
    raise ValueError(f"{name} is not a JSON number")


def finite(text: str) -> float:
    """A number that is not too large for a float, which would become an infinity; a `parse_float` for json.loads."""
    value = float(text)
    return no_constant(text) if math.isinf(value) else value
