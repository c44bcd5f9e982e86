"""JSON files: an array of documents, an object with "documents", or one document."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.jsonl import finite, no_constant, read_jsonl
from nanochat.retrieval.readers.opening import read_text

_HINT = 'write [{"id": "a1", "title": "...", "content": "..."}, ...], or one JSON object per line in a .jsonl file'


def read_json(path: Path, name: str) -> Iterator[tuple[int, Document | DocumentError]]:
    """(number of the record, Document or DocumentError). A record without id is called "<name>:<number>".

    Raises DocumentError where the file is not JSON or of another shape.
    """
    text, _ = read_text(path)
    try:
        value = json.loads(text, parse_constant=no_constant, parse_float=finite)
        # escapes can spell half characters, which no UTF-8 file could hold again
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DocumentError(
            f"{path}: holds half of a character (a lone \\u{ord(error.object[error.start]):04x} escape)",
            hint="write the text as UTF-8 without escapes, or remove that escape",
        ) from error
    except RecursionError as error:
        raise DocumentError(f"{path}: JSON nested too deeply", hint="flatten the metadata of the documents") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            # JSON Lines under another name
            yield from read_jsonl(path, name)
            return
        raise DocumentError(f"{path}:{error.lineno}: not valid JSON: {error.msg}", hint=_HINT) from error
    except ValueError as error:
        raise DocumentError(f"{path}: not valid JSON: {error}", hint=_HINT) from error
    records, is_single = _records(value, path)
    for number, record in enumerate(records, start=1):
        yield number, _document(record, f"{path}:{number}", name if is_single else f"{name}:{number}")


def _records(value: Any, path: Path) -> tuple[list[Any], bool]:
    if isinstance(value, list):
        return value, False
    if isinstance(value, dict) and isinstance(value.get("documents"), list):
        return value["documents"], False
    if isinstance(value, dict) and {"content", "text", "body"} & set(value):
        return [value], True
    raise DocumentError(f"{path}: is JSON, but holds no documents", hint=_HINT)


def _document(record: Any, where: str, identifier: str) -> Document | DocumentError:
    if isinstance(record, dict) and record.get("id") in (None, ""):
        record = {**record, "id": identifier}
    try:
        return Document.from_dict(record, where=where)
    except DocumentError as error:
        return error
