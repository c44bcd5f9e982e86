"""Questions to be evaluated: one JSON object per line, `answers` empty when the documents cannot answer."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import UserError

_HINT = 'each line is one object: {"id": "q1", "question": "...", "answers": ["..."], "supporting_ids": ["doc_1"]}'


class QuestionError(UserError):
    """A question file that cannot be read; the problem starts with the file, and the line where there is one."""


@dataclass(frozen=True, kw_only=True)
class EvalQuestion:
    id: str
    question: str
    answers: tuple[str, ...] = ()           # accepted answers; empty: the documents cannot answer
    supporting_ids: tuple[str, ...] = ()    # documents that together hold the evidence; empty: not known
    hops: int = 1
    kind: str = ""                          # free label of the generator, e.g. the relation asked for

    @property
    def is_answerable(self) -> bool:
        return bool(self.answers)

    @classmethod
    def from_dict(cls, record: Any, *, where: str = "") -> "EvalQuestion":
        """Check one record of the data format. Raises QuestionError that starts with `where`."""
        if not isinstance(record, Mapping):
            raise QuestionError(f"{where}: not a JSON object", hint=_HINT)
        question = record.get("question")
        if not isinstance(question, str) or not question.strip():
            raise QuestionError(f"{where}: 'question' is missing or empty", hint=_HINT)
        if "answers" not in record:
            raise QuestionError(f"{where}: 'answers' is missing (write [] for an unanswerable question)", hint=_HINT)
        hops = record.get("hops", 1)
        if not isinstance(hops, int) or isinstance(hops, bool) or hops < 0:
            raise QuestionError(f"{where}: 'hops' must be a whole number, not {hops!r}", hint=_HINT)
        return cls(
            id=str(record.get("id", where)),
            question=question.strip(),
            answers=_strings(record, "answers", where),
            supporting_ids=_strings(record, "supporting_ids", where),
            hops=hops,
            kind=str(record.get("kind", "")),
        )


def _strings(record: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    values = record.get(name, [])
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) and value.strip() for value in values):
        raise QuestionError(f"{where}: {name!r} must be a list of non-empty strings", hint=_HINT)
    return tuple(values)


def read_questions(path: str | Path, limit: int | None = None) -> tuple[list[EvalQuestion], str]:
    """Read a question file (JSONL, or .gz of it): at most `limit` questions and the SHA-256 of the file's bytes.

    Raises QuestionError for a missing or empty file, a malformed line (file:line) and a repeated id.
    """
    data, digest = _read_bytes(Path(path))
    questions: list[EvalQuestion] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if limit is not None and len(questions) >= limit:
            break
        if not line.strip():
            continue
        where = f"{path}:{number}"
        question = EvalQuestion.from_dict(_parse(line, where), where=where)
        if question.id in first_line:
            raise QuestionError(
                f"{where}: duplicate id {question.id!r}, first used in line {first_line[question.id]}",
                hint="give every question its own id",
            )
        first_line[question.id] = number
        questions.append(question)
    if not questions:
        raise QuestionError(f"{path}: no questions in this file", hint=_HINT)
    return questions, digest


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
