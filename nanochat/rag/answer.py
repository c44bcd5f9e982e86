"""One question, one answer: retrieve, show the documents to the model, answer with citations or abstain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nanochat.engine import ABSTAIN_TEXT, Engine
from nanochat.retrieval import ScoredDocument
from nanochat.retrieval.words.spelling import corrected


class Searcher(Protocol):
    """Where documents come from; nanochat.retrieval.RetrievalManager is one."""

    def retrieve(self, query: str, top_k: int) -> list[ScoredDocument]: ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a reader is shown, and what it rests on."""

    question: str
    text: str                                  # with markers: "Torvik [2]"
    documents: list[dict[str, Any]]            # shown to the model; [n] in the text is documents[n - 1]
    citations: list[dict[str, Any]]            # cited documents in order, as nanochat.engine.citing.cite
    abstained: bool
    info: dict[str, Any]                       # as the engine reports; empty when the model was not asked
    read_as: str = ""                          # the question as it was searched and read; empty: as it was asked

    @property
    def cited(self) -> list[dict[str, Any]]:
        """The cited documents."""
        return [self.documents[citation["slot"]] for citation in self.citations]

    @property
    def uncited(self) -> list[dict[str, Any]]:
        """The documents that were shown and not cited."""
        slots = {citation["slot"] for citation in self.citations}
        return [document for slot, document in enumerate(self.documents) if slot not in slots]


def answer_question(
    engine: Engine,
    manager: Searcher,
    question: str,
    *,
    top_k: int = 5,
    history: Sequence[Mapping[str, Any]] = (),
    max_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    answer_threshold: float | None = None,
    spelling: bool = True,
    write: Callable[[str], object] | None = None,
) -> Answer:
    """Answer a question from the documents that the manager finds for it.

    history: earlier messages of this conversation, documents included; what they showed keeps its numbers. `write`
    receives the text piece by piece while it is written. answer_threshold: as the engine takes it. spelling: misspelt
    words are read as what was meant, see `read_question`. When nothing is found and nothing was shown before, the
    answer is an abstention without asking the model, which could only guess.
    """
    read, found = question, []
    if question.strip():
        read, found = read_question(question, lambda query: manager.retrieve(query, top_k), spelling=spelling)
    read_as = read if read != question else ""
    if question.strip() and not found and not history:
        if write is not None:
            write(ABSTAIN_TEXT)
        return Answer(question=question, text=ABSTAIN_TEXT, documents=[], citations=[], abstained=True, info={},
                      read_as=read_as)
    retrieval = {"role": "retrieval", "documents": [document.to_dict() for document in found]}
    conversation = {"messages": [*history, retrieval, {"role": "user", "content": read}]}
    stream = engine.stream(conversation, max_tokens, temperature=temperature, seed=seed,
                           answer_threshold=answer_threshold)
    for piece in stream:
        if write is not None:
            write(piece)
    info = stream.info
    return Answer(
        question=question,
        text=stream.text,
        documents=info["documents"],
        citations=info["citations"],
        abstained=info["abstained"],
        info=info,
        read_as=read_as,
    )


def read_question(
    question: str, search: Callable[[str], list[ScoredDocument]], *, spelling: bool = True
) -> tuple[str, list[ScoredDocument]]:
    """The question as it is read, and the documents that are found for it.

    With `spelling`, misspelt words are read as words of the documents that are found, or as common English ones
    (nanochat.retrieval.words.spelling); then what is found for the question so read counts.
    """
    found = search(question)
    read = corrected(question, (one.text for one in found)) if spelling else question
    return read, found if read == question else search(read)
