"""Published questions of several hops with their documents, and steps where the data says what each hop is about.

Folders as this project's developers keep them: corpus.jsonl(.gz) with id, title and content, and <split>.jsonl(.gz)
with id, question, answers, supporting_ids and hops. Each set adds what its authors wrote: 2WikiMultihopQA triples,
StrategyQA sub-questions, QASC choices.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.errors import ConfigError, DocumentError
from tasks.jsonl import parse_record, read_lines

Record = dict[str, Any]
_OF_PEOPLE = frozenset("author child composer creator director editor father founder mother performer producer sibling "
                       "spouse".split())
_IN_BRACKETS = re.compile(r"\s*\([^()]*\)\s*$")


@dataclass(frozen=True)
class MultihopSet:
    """Documents and questions of one split.

    A question has id, question, answers, supporting_ids, hops and kind (the authors' type). Where the data says what
    each hop is about, it has `steps`, as in tasks/world_chains.py: one per supporting document, the first query the
    question itself. What else the authors wrote stays under its own name.
    """

    name: str
    documents: list[Record]
    questions: list[Record]


def read_multihop(folder: str | Path, split: str = "dev", *, name: str = "") -> MultihopSet:
    """One split of a set; `name` (a key of MULTIHOP) is the folder's unless given. Raises ConfigError for another name,
    DocumentError, with file:line, for a missing or malformed file and for evidence that is not in the corpus.
    """
    folder = Path(folder)
    name = name or folder.name
    if name not in MULTIHOP:
        raise ConfigError(f"Unknown set {name!r}", hint=f"known sets: {', '.join(MULTIHOP)}; say which: name=...")
    documents = [_document(line, where) for where, line in read_lines(_file(folder, "corpus"))]
    titles = {document["id"]: document["title"] for document in documents}
    questions = []
    for where, line in read_lines(_file(folder, split)):
        question = _question(parse_record(line, where=where), where)
        missing = next((id_ for id_ in question["supporting_ids"] if id_ not in titles), None)
        if missing is not None:
            raise DocumentError(f"{where}: supporting document {missing!r} is not in the corpus",
                                hint="corpus and questions must come from one folder")
        steps = MULTIHOP[name](question, titles)
        questions.append(question | ({"steps": steps} if steps else {}))
    if not questions:
        raise DocumentError(f"No questions in {_file(folder, split)}", hint="is the file cut off?")
    return MultihopSet(name, documents, questions)


def _file(folder: Path, stem: str) -> Path:
    found = next((folder / f"{stem}.jsonl{end}" for end in ("", ".gz") if (folder / f"{stem}.jsonl{end}").is_file()),
                 None)
    if found is None:
        raise DocumentError(f"File not found: {folder / stem}.jsonl", hint="a set is a folder with corpus.jsonl and "
                                                                         "dev.jsonl, each maybe with .gz behind it")
    return found


def _document(line: str, where: str) -> Record:
    record = parse_record(line, where=where)
    if not isinstance(record.get("content"), str) or not isinstance(record.get("id"), str):
        raise DocumentError(f"{where}: 'id' or 'content' is missing", hint="a document has id, title and content")
    return {"id": record["id"], "title": str(record.get("title") or ""), "content": record["content"],
            "source": str(record.get("source") or "")}


def _question(record: Record, where: str) -> Record:
    for field in ("id", "question"):
        if not isinstance(record.get(field), str) or not record[field].strip():
            raise DocumentError(f"{where}: {field!r} is missing or empty",
                                hint="a question has id, question, answers and supporting_ids")
    for field in ("answers", "supporting_ids"):
        values = record.get(field)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise DocumentError(f"{where}: {field!r} must be a list of texts", hint=f'"{field}": ["..."]')
    hops = record.get("hops", 2)
    if type(hops) is not int or hops < 1:
        raise DocumentError(f"{where}: 'hops' is {hops!r}, expected a whole number above zero", hint='"hops": 2')
    return record | {"hops": hops, "kind": str(record.get("type") or "multihop")}


def _no_steps(question: Mapping[str, Any], titles: Mapping[str, str]) -> list[Record]:
    return []


def _of_triples(question: Mapping[str, Any], titles: Mapping[str, str]) -> list[Record]:
    """A step for each document that a triple (subject, relation, value) is about; empty where they do not match."""
    triples, names = question.get("evidences") or [], question["supporting_ids"]
    if not all(isinstance(triple, list) and len(triple) == 3 and all(isinstance(part, str) for part in triple)
               for triple in triples):
        return []
    by_title = {_bare(titles[name]): name for name in reversed(names)}
    # as many triples as documents stand in the same order; names differ between the two ("Zauber der Boheme")
    about = names if len(triples) == len(names) else [by_title.get(_bare(triple[0]), "") for triple in triples]
    steps: list[Record] = []
    for (subject, relation, value), document_id in zip(triples, about, strict=True):
        # two facts of one document are found by one search
        if not document_id or document_id in [step["document_id"] for step in steps]:
            continue
        asked = f"{'Who' if relation in _OF_PEOPLE else 'What'} is the {relation} of {subject}?"
        steps.append({"query": asked if steps else question["question"], "subject": subject, "answer": value,
                      "document_id": document_id})
    return steps if [step["document_id"] for step in steps] == names else []


def _bare(title: str) -> str:
    return _IN_BRACKETS.sub("", title).casefold()


# set -> what its questions say about their hops; StrategyQA's `decomposition` names no documents
MULTIHOP: dict[str, Callable[[Mapping[str, Any], Mapping[str, str]], list[Record]]] = {
    "2wikimultihop": _of_triples,
    "hotpotqa": _no_steps,
    "strategyqa": _no_steps,
    "qasc": _no_steps,
}
