"""A teacher's questions as records, each with the place where its answer stands."""

import re
from collections.abc import Callable, Iterator

from nanochat.rag.library import Library, Record, normal
from nanochat.rag.teacher import Teacher


def taught_questions(
    teacher: Teacher, library: Library, per_document: int, progress: Callable[[str], None] = lambda line: None
) -> Iterator[Record]:
    """Questions of kind "teacher" about every document, in document order.

    An answer that does not stand in the document gets the place (0, 0), so that the filter "verbatim" counts it.
    """
    for document, pairs in teacher.questions(library.documents, per_document, progress):
        for number, (question, answer) in enumerate(pairs):
            start, end = place_of(answer, document["content"])
            record = {"id": f"{document['id']}#teacher{number}", "question": question,
                      "answers": [normal(document["content"][start:end]) or normal(answer)],
                      "supporting_ids": [document["id"]], "hops": 1, "kind": "teacher", "answer_id": document["id"],
                      "answer_start": start, "answer_end": end}
            parent = (document.get("metadata") or {}).get("parent")
            yield record | ({"parent": parent} if isinstance(parent, str) else {})


def place_of(answer: str, content: str) -> tuple[int, int]:
    """Where an answer stands in a text, white space and case apart, as whole words; (0, 0) where it does not."""
    words = answer.strip(" .\"'\u201c\u201d").split()
    if not words:
        return 0, 0
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)"
    found = re.search(pattern, content) or re.search(pattern, content, re.I)
    return found.span() if found else (0, 0)
