"""Whether a model was taught to answer in the documents' own words, so that its answers may be held to them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nanochat.rag.changes import OR, stands
from nanochat.retrieval import Document

# of 100 answers so many in the words of a document they cite: the others are taken for slips of whoever wrote them
QUOTED_FROM = 0.95

Records = Sequence[Mapping[str, Any]]


def quoted_share(questions: Records, episodes: Records, documents: Iterable[Document]) -> float | None:
    """The share of answers that stand word for word in a document that they rest on; None where no answer rests on one.

    questions: records with `answers`, of which the first is taught, and `supporting_ids`, of `documents`. episodes:
    conversations, whose answers cite by slots; two values of a contradiction count as one answer.
    """
    contents = {document.id: document.content for document in documents}
    quoted = [any(stands(question["answers"][0], contents[id]) for id in question["supporting_ids"] if id in contents)
              for question in questions if question["answers"] and question["supporting_ids"]]
    for episode in episodes:
        shown: list[str] = []
        for message in episode["messages"]:
            if message["role"] == "retrieval":
                shown += [document["content"] for document in message["documents"]]
            elif message["role"] == "assistant" and message.get("citations"):
                cited = [shown[slot] for slot in message["citations"]]
                parts = message["content"].split(OR) if len(cited) > 1 else [message["content"]]
                quoted.append(all(any(stands(part, content) for content in cited) for part in parts))
    return sum(quoted) / len(quoted) if quoted else None


def is_extractive(given: bool | None, meta: Mapping[str, Any]) -> bool:
    """Whether answers are held to the words of documents: as given, or where the checkpoint was taught such answers.

    meta: of the checkpoint; one that does not say what it was taught is left free.
    """
    if given is not None:
        return given
    share = meta.get("data", {}).get("quoted_share")
    return share is not None and share >= QUOTED_FROM
