"""What is asked in a cell of the suite: a question, the documents beside it, and what would be right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.evaluation.conditions import Document
from nanochat.evaluation.questions import EvalQuestion


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One question with its documents. Cells are compared by `id`, which is the question's in all of them."""

    id: str
    question: str                          # as asked, which may be another wording than the file's
    documents: tuple[Document, ...] | None  # None: no results at all, (): an empty result
    answers: tuple[str, ...]               # right here; empty: the right thing is to abstain
    evidence: tuple[str, ...] = ()         # documents that an answer should cite; empty: not known
    recall: float | None = None            # share of the evidence among `documents`; None when not known
    rank: int = 0                          # place of the first evidence among `documents`, from 1; 0: not among them
    lure: tuple[str, ...] = ()             # answers that would show a fault: the old value, or what was injected
    hops: int = 1
    kind: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for prompts that look the same to a model."""
        if self.documents is None:
            return (self.question, None)
        return (self.question, tuple((one["id"], one["title"], one["content"]) for one in self.documents))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The prompts of one condition, or of one step of a sweep over it."""

    name: str                              # unique within a material: "hard_4"
    condition: str                         # key of CONDITIONS
    step: float | str = ""                 # of a sweep: 4
    prompts: Sequence[Prompt]


def prompt(
    question: EvalQuestion,
    documents: Sequence[Document] | None,
    *,
    asked: str = "",
    answers: Sequence[str] | None = None,
    evidence: Sequence[str] | None = None,
    lure: Sequence[str] = (),
) -> Prompt:
    """A prompt for a question; `answers` and `evidence` replace the question's own where documents were changed."""
    supporting = tuple(question.supporting_ids if evidence is None else evidence)
    ids = [str(one["id"]) for one in documents or ()]
    found = [ids.index(id) + 1 for id in dict.fromkeys(supporting) if id in ids]
    is_known = bool(supporting) and documents is not None
    return Prompt(
        id=question.id, question=asked or question.question,
        documents=None if documents is None else tuple(documents),
        answers=tuple(question.answers if answers is None else answers), evidence=supporting,
        recall=len(found) / len(set(supporting)) if is_known else None, rank=min(found, default=0),
        lure=tuple(lure), hops=question.hops, kind=question.kind,
    )
