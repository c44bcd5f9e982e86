"""Conditions of an evaluation: which documents stand before the model when it is asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.errors import UserError
from nanochat.evaluation.questions import EvalQuestion

Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything a condition may choose from for one question."""

    question: EvalQuestion
    top_k: int
    retrieved: Sequence[Document]     # the retriever's top_k, best first
    ranked: Sequence[Document]        # the retriever's longer list, for refilling
    supporting: Sequence[Document]    # the question's supporting documents, fewer when the knowledge base lacks some


def closed_book(evidence: Evidence) -> None:
    """No documents and no retrieval message at all: memory and guessing."""


def retrieved(evidence: Evidence) -> Sequence[Document]:
    """What the retriever returns: the product as a user meets it."""
    return evidence.retrieved


def oracle(evidence: Evidence) -> Sequence[Document]:
    """The supporting documents and nothing else: what the reader can do at best."""
    return evidence.supporting


def wrong(evidence: Evidence) -> Sequence[Document]:
    """The best-ranked documents without any supporting one, refilled to top_k: the right answer is to abstain."""
    supporting = set(evidence.question.supporting_ids)
    return [document for document in evidence.ranked if document["id"] not in supporting][: evidence.top_k]


# name -> documents shown; None means that the conversation has no retrieval message
CONDITIONS: dict[str, Callable[[Evidence], Sequence[Document] | None]] = {
    "closed_book": closed_book,
    "retrieved": retrieved,
    "oracle": oracle,
    "wrong": wrong,
}
# asked only where every supporting document is known and in the knowledge base
NEED_SUPPORTING = frozenset({"oracle", "wrong"})
# unanswerable questions are asked under this condition and reported under a name of their own
UNANSWERABLE_CONDITION = "retrieved"
UNANSWERABLE = "unanswerable"


def check_conditions(names: Sequence[str]) -> list[str]:
    """The names without repeats, in the given order. Raises UserError for an unknown name or an empty list."""
    for name in names:
        if name not in CONDITIONS:
            raise UserError(f"Unknown condition: {name!r}", hint=f"choose from {', '.join(CONDITIONS)}")
    if not names:
        raise UserError("No conditions given", hint=f"choose from {', '.join(CONDITIONS)}")
    return list(dict.fromkeys(names))


def is_asked(condition: str, evidence: Evidence) -> bool:
    """Whether this question can be asked under this condition."""
    question = evidence.question
    if not question.is_answerable:
        return condition == UNANSWERABLE_CONDITION
    if condition in NEED_SUPPORTING:
        return bool(question.supporting_ids) and len(evidence.supporting) == len(set(question.supporting_ids))
    return True


def make_conversation(question: str, documents: Sequence[Document] | None) -> dict[str, Any]:
    """The prompt in the conversation format; an empty list is shown as an empty result, None not at all."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    if documents is not None:
        messages.insert(0, {"role": "retrieval", "documents": [dict(document) for document in documents]})
    return {"messages": messages}
