"""Files of questions of several hops, made by a command and edited by people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.rag.question_file import QuestionError, read_records

_HINT = ('a step is {"query": "...", "subject": "...", "answer": "...", "document_id": "doc_1"}, one for each hop')


def read_chains(path: str | Path, document_ids: set[str]) -> list[dict[str, Any]]:
    """The questions of a file that say what to search for hop by hop (see tasks/world_chains.py); others are left out.

    The first step asks the question itself and the last one has its answer, whatever the file says, so that people can
    edit either. Raises QuestionError with file:line for a malformed line, for steps that are not one per supporting
    document, and for a document that is not in the knowledge base.
    """
    records, _ = read_records(path)
    return [_checked(record, where, document_ids) for where, record in records if record.get("steps")]


def chains_of_folder(folder: str | Path, part: str, document_ids: set[str]) -> list[dict[str, Any]]:
    """What `read_chains` finds in a folder's file for "train", "validation" or "test"; empty without such a file. A
    world's queries_multihop.jsonl is for training.
    """
    names = [f"queries_multihop_{part}.jsonl", *(["queries_multihop.jsonl"] if part == "train" else [])]
    places = [Path(folder) / f"{name}{end}" for name in names for end in ("", ".gz")]
    return [record for place in places if place.is_file() for record in read_chains(place, document_ids)]


def _checked(record: dict[str, Any], where: str, document_ids: set[str]) -> dict[str, Any]:
    steps = record["steps"]
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise QuestionError(f"{where}: 'steps' must be a list of objects", hint=_HINT)
    steps = [{name: step.get(name, "") for name in ("query", "subject", "answer", "document_id")} for step in steps]
    steps[0]["query"] = record["question"].strip()
    if record["answers"]:
        steps[-1]["answer"] = record["answers"][0]
    for number, step in enumerate(steps, start=1):
        if not all(isinstance(value, str) for value in step.values()) or not step["query"].strip():
            raise QuestionError(f"{where}: step {number} has no query, or a value that is no text", hint=_HINT)
        if step["document_id"] and step["document_id"] not in document_ids:
            raise QuestionError(f"{where}: document {step['document_id']!r} of step {number} is not in the knowledge "
                                "base", hint="use the knowledge base that the questions were written for")
    named = [step["document_id"] for step in steps]
    if record["answers"] and named != record["supporting_ids"]:
        raise QuestionError(f"{where}: the steps name the documents {named}, but 'supporting_ids' are "
                            f"{record['supporting_ids']}", hint="one step for each supporting document, in this order")
    if not record["answers"] and (steps[-1]["document_id"] or not all(named[:-1])):
        raise QuestionError(f"{where}: nothing answers the question, so its last step, and no other, has no document",
                            hint='the step that fails has "document_id": ""')
    return record | {"steps": steps}
