"""Question files, for training and for tests: one JSON object per line, `answers` empty when nothing answers."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.errors import UserError

_MORE_IDS = ("about_ids", "near_ids", "also_ids")  # documents beside the evidence, which a line may name
_HINT = 'each line is one object: {"id": "q1", "question": "...", "answers": ["..."], "supporting_ids": ["doc_1"]}'


class QuestionError(UserError):
    """A question file that cannot be read; the problem starts with the file, and the line where there is one."""


def read_records(path: str | Path, limit: int | None = None) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    """("file:line", record) of each question of a JSONL file (or .gz of it), and the SHA-256 of the file's bytes.

    At most `limit` questions. A record is as written, other keys included, with these made sure: id (text; file:line
    where there is none), question (text), answers and supporting_ids (lists of text), hops (a whole number); and
    about_ids, near_ids and also_ids (lists of text) where the line has them.
    Raises QuestionError for a missing or empty file, a malformed line and a repeated id.
    """
    data, digest = _read_bytes(Path(path))
    records: list[tuple[str, dict[str, Any]]] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if limit is not None and len(records) >= limit:
            break
        if not line.strip():
            continue
        where = f"{path}:{number}"
        record = _checked(_parse(line, where), where)
        first = first_line.setdefault(record["id"], number)
        if first != number:
            raise QuestionError(f"{where}: duplicate id {record['id']!r}, first used in line {first}",
                                hint="give every question its own id")
        records.append((where, record))
    if not records:
        raise QuestionError(f"{path}: no questions in this file", hint=_HINT)
    return records, digest


def _checked(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, Mapping):
        raise QuestionError(f"{where}: not a JSON object", hint=_HINT)
    question = record.get("question")
    if not isinstance(question, str) or not question.strip():
        raise QuestionError(f"{where}: 'question' is missing or empty", hint=_HINT)
    if "answers" not in record:
        raise QuestionError(f"{where}: 'answers' is missing (write [] for an unanswerable question)", hint=_HINT)
    lists = {name: record.get(name, []) for name in ("answers", "supporting_ids")}
    lists |= {name: record[name] for name in _MORE_IDS if name in record}
    for name, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            raise QuestionError(f"{where}: {name!r} must be a list of non-empty strings", hint=_HINT)
    hops = record.get("hops", 1)
    if not isinstance(hops, int) or isinstance(hops, bool) or hops < 0:
        raise QuestionError(f"{where}: 'hops' must be a whole number, not {hops!r}", hint=_HINT)
    return {**record, **lists, "id": str(record.get("id", where)), "hops": hops}


def _read_bytes(path: Path) -> tuple[bytes, str]:
    try:
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return (gzip.decompress(data) if path.suffix == ".gz" else data), digest
    except FileNotFoundError as error:
        hint = "python -m scripts.prepare_rag_dataset --mode example writes a small set to try"
        raise QuestionError(f"Questions not found: {path}", hint=hint) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise QuestionError(f"{path}: cannot be read: {reason}", hint=_HINT) from error


def _parse(line: bytes, where: str) -> Any:
    try:
        record = json.loads(line.decode("utf-8-sig"))
        # half a surrogate pair, written as \ud800, is legal JSON but no text
        json.dumps(record, ensure_ascii=False).encode("utf-8")
        return record
    except UnicodeError as error:
        raise QuestionError(f"{where}: not UTF-8 text", hint="save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise QuestionError(f"{where}: not valid JSON: {error}", hint=_HINT) from error
