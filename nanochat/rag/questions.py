"""Questions for a knowledge base: the user's own file, the one beside it, or made by rule from its documents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat.errors import ConfigError
from nanochat.rag.question_file import QuestionError, read_records
from nanochat.rag.synthesis import cloze_questions
from nanochat.retrieval import Document

BESIDE = "queries_train.jsonl"  # looked for in the knowledge base's folder and the one above


def read_questions(
    path: str | Path, document_ids: set[str], *, needs_evidence: bool = True
) -> list[dict[str, Any]]:
    """Training questions of a file: records with id, question, answers, supporting_ids, and what else they hold.

    Raises QuestionError with file:line for a malformed line, for answers without a supporting document unless nothing
    `needs_evidence`, and for a supporting document that is not in the knowledge base.
    """
    records, _ = read_records(path)
    for where, record in records:
        supporting = record["supporting_ids"]
        if needs_evidence and record["answers"] and not supporting:
            raise QuestionError(f"{where}: it has answers, but 'supporting_ids' is empty",
                                hint='name the documents that answer it; what nothing answers has "answers": []')
        missing = next((name for name in supporting if name not in document_ids), None)
        if missing is not None:
            hint = "use the knowledge base that the questions were written for"
            if f"{missing}#1" in document_ids:
                hint = f"it was split into passages: name those that answer, such as {missing + '#1'!r}"
            raise QuestionError(f"{where}: supporting document {missing!r} is not in the knowledge base", hint=hint)
    return [record for _, record in records]


def questions_for(
    knowledge_base: str | Path, documents: Sequence[Document], path: str, *, cloze_per_document: int, seed: int,
    needs_evidence: bool = True,
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
    questions = read_questions(found, ids, needs_evidence=needs_evidence) if found else []
    origin = f"{len(questions)} from {found}" if found else ""
    if any(question.get("kind") == "cloze" for question in questions):
        origin += ", fill-in questions among them, so none are made" if cloze_per_document else ""
        cloze_per_document = 0
    cloze: list[dict[str, Any]] = []
    # looking through all documents takes a while: not for nothing
    if cloze_per_document:
        records = [document.to_dict() for document in documents]
        cloze = cloze_questions(records, per_document=cloze_per_document, seed=seed)
    if cloze:
        origin += (", " if origin else "") + f"{len(cloze)} fill-in questions made from the documents"
    if not questions and not cloze:
        raise ConfigError(f"No training questions for {knowledge_base}",
                          hint="give some: --questions FILE.jsonl, or make them by rule: --cloze_per_document 4")
    return [*questions, *cloze], origin
