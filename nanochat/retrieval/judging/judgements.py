"""Queries, and what was judged relevant for them: files of both, in the forms people have them in.

Queries: JSONL {"id", "text" or "question", "supporting_ids"?}, or TSV id<TAB>text. Judgements ("qrels"): the three or
four columns of TREC (query, [iteration,] document, grade), or JSONL {"query_id", "document_id", "grade"}. Each may be
gzip. `supporting_ids` in the queries do as judgements of grade 1.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import UserError
from nanochat.retrieval.readers.opening import open_bytes

Judgements = dict[str, dict[str, int]]  # query id -> document id -> grade; above 0 is relevant

MAX_LINE_BYTES = 1_000_000
MAX_GRADE = 1000
_QUERY_HINT = 'write {"id": "q1", "text": "..."} on each line, or the id, a tab and the text'
_QRELS_HINT = "write: query id, 0, document id, grade (TREC), or query id, document id, grade; tabs between them"
# other tools' names for the same thing, the usual first
_ID_KEYS = ("id", "_id", "query_id", "qid")
_TEXT_KEYS = ("text", "question", "query")
_QRELS_KEYS = {
    "query": ("query_id", "query-id", "qid"),
    "document": ("document_id", "corpus-id", "doc_id", "docid"),
    "grade": ("grade", "score", "relevance"),
}


class JudgementError(UserError):
    """A file of queries or judgements that cannot be read; the problem starts with the file and line."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is searched, and the documents it names as its evidence, if it does."""

    id: str
    text: str
    supporting_ids: tuple[str, ...] = ()


def read_queries(path: str | Path, limit: int | None = None) -> list[Query]:
    """The queries of a file, at most `limit`. A record without an id is named after its line.

    Raises JudgementError for a file without queries, a malformed line, an empty query and a repeated id.
    """
    queries: list[Query] = []
    seen: dict[str, str] = {}
    for where, line in _lines(Path(path), "Queries"):
        if limit is not None and len(queries) >= limit:
            break
        query = _query(_record(line, where), where) if line.startswith("{") else _row_query(line, where)
        if query is None:
            continue
        first = seen.setdefault(query.id, where)
        if first != where:
            raise JudgementError(f"{where}: duplicate query id {query.id!r}, first used at {first}",
                                 hint="give every query its own id")
        queries.append(query)
    if not queries:
        raise JudgementError(f"{path}: no queries in this file", hint=_QUERY_HINT)
    return queries


def _query(record: Mapping[str, Any], where: str) -> Query:
    identifier = _first(record, _ID_KEYS)
    text = _first(record, _TEXT_KEYS)
    if not isinstance(text, str) or not text.strip():
        raise JudgementError(f"{where}: 'text' is missing or empty", hint=_QUERY_HINT)
    supporting = record.get("supporting_ids") or []
    if not isinstance(supporting, list):
        raise JudgementError(f"{where}: 'supporting_ids' must be a list of document ids", hint='"supporting_ids": []')
    return Query(
        id=where if identifier is None else _name(identifier, "id", where),
        text=text,
        supporting_ids=tuple(_name(value, "supporting_ids", where) for value in supporting),
    )


def _row_query(line: str, where: str) -> Query | None:
    """The query of a TSV line; None for a line of column names at the top."""
    identifier, tab, text = line.partition("\t")
    if not tab or not identifier.strip() or not text.strip():
        raise JudgementError(f"{where}: expected a query id, a tab and a text", hint=_QUERY_HINT)
    is_header = where.endswith(":1") and text.strip().lower() in _TEXT_KEYS
    return None if is_header else Query(id=identifier.strip(), text=text.strip())


def read_qrels(path: str | Path) -> Judgements:
    """The judgements of a file. Raises JudgementError for a malformed line and for two grades of one document."""
    judgements: Judgements = {}
    for where, line in _lines(Path(path), "Judgements"):
        row = _judgement(_record(line, where), where) if line.startswith("{") else _row_judgement(line, where)
        if row is None:
            continue
        query, document, grade = row
        grades = judgements.setdefault(query, {})
        if grades.setdefault(document, grade) != grade:
            raise JudgementError(
                f"{where}: grade {grade} for query {query!r} and document {document!r}, which has {grades[document]}",
                hint="keep one of the two lines",
            )
    if not judgements:
        raise JudgementError(f"{path}: no judgements in this file", hint=_QRELS_HINT)
    return judgements


def _judgement(record: Mapping[str, Any], where: str) -> tuple[str, str, int]:
    values = {name: _first(record, keys) for name, keys in _QRELS_KEYS.items()}
    for name in ("query", "document"):
        if values[name] is None:
            raise JudgementError(f"{where}: {_QRELS_KEYS[name][0]!r} is missing", hint=_QRELS_HINT)
    # a line without a grade says that the document is relevant
    grade = 1 if values["grade"] is None else values["grade"]
    if not isinstance(grade, (int, float)) or isinstance(grade, bool):
        raise _no_grade(grade, where)
    return (_name(values["query"], "query_id", where), _name(values["document"], "document_id", where),
            _grade(grade, where))


def _row_judgement(line: str, where: str) -> tuple[str, str, int] | None:
    """The judgement of a line of columns; None for a line of column names at the top."""
    # ids made of file names hold blanks: where there are tabs, only they separate
    cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
    if len(cells) not in (3, 4) or not all(cells):
        raise JudgementError(f"{where}: expected 3 or 4 columns, found {len(cells)}", hint=_QRELS_HINT)
    if where.endswith(":1") and cells[-1].lower() in (*_QRELS_KEYS["grade"], "rel"):
        return None
    return cells[0], cells[-2], _grade(cells[-1], where)


def _grade(value: str | int | float, where: str) -> int:
    try:
        grade = float(value)
    except (ValueError, OverflowError):
        raise _no_grade(value, where) from None
    if not grade.is_integer() or abs(grade) > MAX_GRADE:
        raise _no_grade(value, where)
    return int(grade)


def _no_grade(value: Any, where: str) -> JudgementError:
    return JudgementError(f"{where}: the grade must be a whole number up to {MAX_GRADE}, not {str(value)[:40]!r}",
                          hint=_QRELS_HINT)


def supporting_judgements(queries: Iterable[Query]) -> Judgements:
    """The documents that queries name as their evidence, each of grade 1; queries that name none are left out."""
    return {query.id: dict.fromkeys(query.supporting_ids, 1) for query in queries if query.supporting_ids}


def judged_ids(judgements: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Every document that is judged for any query, in order of first mention."""
    return list(dict.fromkeys(name for grades in judgements.values() for name in grades))


def _first(record: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _name(value: Any, key: str, where: str) -> str:
    """An id as text: whole numbers become text, as they do in documents."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value
    raise JudgementError(f"{where}: {key!r} must hold text or whole numbers, not {str(value)[:40]!r}",
                         hint="ids are those of the documents and queries")


def _record(line: str, where: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
        # half a character, written as \ud800, is legal JSON but no text
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise JudgementError(f"{where}: not valid JSON: {str(error)[:200]}",
                             hint="one JSON object per line") from error
    # a line that starts with { is an object or not JSON at all
    return record


def _lines(path: Path, kind: str) -> Iterator[tuple[str, str]]:
    """("file:line", text) of every line that is not blank, white space at its ends removed."""
    number = 0
    try:
        with open_bytes(path) as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(raw) > MAX_LINE_BYTES:
                    raise JudgementError(f"{path}:{number}: line is longer than {MAX_LINE_BYTES:,} bytes",
                                         hint="one query or judgement per line")
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if line:
                    yield f"{path}:{number}", line
    except UnicodeDecodeError as error:
        raise JudgementError(f"{path}:{number}: not UTF-8 text", hint="save the file as UTF-8") from error
    except FileNotFoundError as error:
        raise JudgementError(f"{kind} not found: {path}", hint="check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise JudgementError(f"{path}: cannot be read: {reason}", hint="check the file and its permissions") from error
