"""Questions for a knowledge base: the user's own file, the one beside it, or made by rule from its documents."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat.errors import ConfigError, DocumentError
from nanochat.rag.synthesis import cloze_questions
from nanochat.retrieval import Document

BESIDE = "queries_train.jsonl"  # looked for in the knowledge base's folder and the one above


def read_questions(path: str | Path, document_ids: set[str]) -> list[dict[str, Any]]:
    """Training questions: JSON lines with id, question, answers and supporting_ids.

    Raises DocumentError with file:line for a malformed line or a supporting document that is not in the knowledge base.
    """
    path = Path(path)
    try:
        # only line feeds end a line: JSON text may hold other line separators
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as missing:
        raise ConfigError(f"Questions not found: {path}", hint="give a file: --questions FILE.jsonl") from missing
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"{path}: cannot be read: {error}", hint="questions are UTF-8 JSON lines") from error
    questions = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
            # half a surrogate pair, written as \ud800, is legal JSON but no text
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"{where}: not JSON: {error}", hint="one JSON object per line") from error
        record = record if isinstance(record, dict) else {}
        question, supporting = record.get("question"), record.get("supporting_ids")
        is_text = isinstance(question, str) and question.strip()
        if not is_text or not _strings(record.get("answers")) or not _strings(supporting):
            raise DocumentError(f"{where}: needs question (text), answers and supporting_ids (lists of text)",
                                hint='{"id": "q1", "question": "...", "answers": ["..."], "supporting_ids": ["doc_1"]}')
        if record["answers"] and not supporting:
            raise DocumentError(f"{where}: it has answers, but 'supporting_ids' is empty",
                                hint='name the documents that answer it; what nothing answers has "answers": []')
        missing = next((name for name in supporting if name not in document_ids), None)
        if missing is not None:
            hint = "use the knowledge base that the questions were written for"
            if f"{missing}#1" in document_ids:
                hint = f"it was split into passages: name those that answer, such as {missing + '#1'!r}"
            raise DocumentError(f"{where}: supporting document {missing!r} is not in the knowledge base", hint=hint)
        questions.append({**record, "id": str(record.get("id", number))})
    if not questions:
        raise DocumentError(f"{path}: no questions", hint="one JSON object per line")
    return questions


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value)


def questions_for(
    knowledge_base: str | Path, documents: Sequence[Document], path: str, *, cloze_per_document: int, seed: int
) -> tuple[list[dict[str, Any]], str]:
    """Training questions and their origin: `path`, or queries_train.jsonl beside the knowledge base, or neither;
    plus cloze questions from the documents, `cloze_per_document` each, unless the file has cloze questions itself:
    the command that wrote them may have kept others for a test.

    Raises ConfigError when nothing gives a question.
    """
    if cloze_per_document < 0:
        raise ConfigError(f"--cloze_per_document is {cloze_per_document}", hint="4 is a good start; 0 makes none")
    ids = {document.id for document in documents}
    folder = Path(knowledge_base)
    found = path or next((str(place) for place in (folder / BESIDE, folder.parent / BESIDE) if place.exists()), "")
    questions = read_questions(found, ids) if found else []
    origin = f"{len(questions)} from {found}" if found else ""
    if any(question.get("kind") == "cloze" for question in questions):
        cloze_per_document = 0
    cloze = cloze_questions([document.to_dict() for document in documents], per_document=cloze_per_document, seed=seed)
    if cloze:
        origin += (", " if origin else "") + f"{len(cloze)} fill-in questions made from the documents"
    if not questions and not cloze:
        raise ConfigError(f"No training questions for {knowledge_base}",
                          hint="give some: --questions FILE.jsonl, or make them by rule: --cloze_per_document 4")
    return [*questions, *cloze], origin
