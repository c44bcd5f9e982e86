"""One asked question: what was shown, what was answered, and whether that was right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.evaluation.conditions import UNANSWERABLE, Document, Evidence
from nanochat.evaluation.qa_metrics import contains_answer, exact_match, f1_score


@dataclass(frozen=True, kw_only=True)
class Citation:
    number: int                      # as printed, from 1
    id: str                          # document it resolves to; empty when it resolves to none
    has_answer: bool                 # the document, as shown, contains the model's answer


@dataclass(frozen=True, kw_only=True)
class Record:
    """One question under one condition, judged."""

    id: str
    condition: str
    question: str
    gold: tuple[str, ...]            # accepted answers; empty for an unanswerable question
    supporting_ids: tuple[str, ...]
    hops: int
    kind: str
    documents: tuple[Document, ...]  # as shown to the model, after the token budget
    dropped: int                     # documents dropped or trimmed for the budget, as the engine counts them
    text: str                        # as printed to a user, with citation markers
    answer: str                      # without markers; empty after an abstention
    abstained: bool
    citations: tuple[Citation, ...]
    exact_match: bool                # against gold
    f1: float
    correct: bool                    # the right thing here: the answer, or abstaining where nothing can be known
    recall: float | None             # share of the supporting documents that were given; None when not known
    evidence_shown: bool | None      # every supporting document is among those shown; None when not known
    answer_shown: bool               # an accepted answer stands somewhere in the shown documents

    @property
    def should_abstain(self) -> bool:
        """The shown documents do not hold the evidence: unanswerable, or not retrieved, or taken away."""
        return not self.gold or self.evidence_shown is False

    @property
    def shown_ids(self) -> list[str]:
        return [str(document["id"]) for document in self.documents]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; documents by id only."""
        return {
            "id": self.id,
            "condition": self.condition,
            "question": self.question,
            "gold": list(self.gold),
            "supporting_ids": list(self.supporting_ids),
            "hops": self.hops,
            "kind": self.kind,
            "shown_ids": self.shown_ids,
            "dropped": self.dropped,
            "text": self.text,
            "answer": self.answer,
            "abstained": self.abstained,
            "citations": [{"number": citation.number, "id": citation.id} for citation in self.citations],
            "correct": self.correct,
            "exact_match": self.exact_match,
            "f1": self.f1,
            "recall": self.recall,
            "answer_shown": self.answer_shown,
        }


def judge(
    evidence: Evidence,
    condition: str,
    given: Sequence[Document] | None,
    text: str,
    info: Mapping[str, Any],
) -> Record:
    """Compare one generated answer with its question. `info` is what the engine returned beside the text."""
    question = evidence.question
    shown = tuple(info["documents"])
    abstained = bool(info["abstained"])
    answer = "" if abstained else str(info["answer"]).strip()
    matches = exact_match(answer, question.answers)
    supporting = set(question.supporting_ids)
    knows_evidence = bool(supporting) and question.is_answerable
    given_ids = {document["id"] for document in given or ()}
    return Record(
        id=question.id,
        condition=condition if question.is_answerable else UNANSWERABLE,
        question=question.question,
        gold=question.answers,
        supporting_ids=question.supporting_ids,
        hops=question.hops,
        kind=question.kind,
        documents=shown,
        dropped=int(info.get("dropped", 0)),
        text=text,
        answer=answer,
        abstained=abstained,
        citations=tuple(resolve_citation(entry, shown, answer) for entry in info["citations"]),
        exact_match=matches,
        f1=f1_score(answer, question.answers),
        correct=abstained if condition == "wrong" or not question.is_answerable else matches,
        recall=len(supporting & given_ids) / len(supporting) if knows_evidence else None,
        evidence_shown=supporting <= {document["id"] for document in shown} if knows_evidence else None,
        answer_shown=any(contains_answer(_text_of(document), gold) for document in shown for gold in question.answers),
    )


def _text_of(document: Document) -> str:
    return f"{document.get('title', '')}\n{document.get('content', '')}"


def resolve_citation(entry: Mapping[str, Any], shown: Sequence[Document], answer: str) -> Citation:
    """A printed [n] resolves when the n-th shown document exists and is the one the engine names."""
    number = int(entry["number"])
    if not 1 <= number <= len(shown) or str(shown[number - 1]["id"]) != str(entry["id"]):
        return Citation(number=number, id="", has_answer=False)
    document = shown[number - 1]
    return Citation(number=number, id=str(document["id"]), has_answer=contains_answer(_text_of(document), answer))
