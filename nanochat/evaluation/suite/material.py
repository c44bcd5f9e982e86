"""What a suite asks about: documents behind retrievers, and questions, sampled once for all conditions."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from nanochat.evaluation.conditions import Document
from nanochat.evaluation.qa_metrics import normalize_answer
from nanochat.evaluation.questions import EvalQuestion
from nanochat.rag.changes import Values, stands
from nanochat.retrieval import Document as StoredDocument
from nanochat.retrieval import RetrievalManager, make_retriever

# queries, number of documents wanted -> documents, best first, per query
Search = Callable[[Sequence[str], int], list[list[Document]]]
LEXICAL = ("simple", "bm25")
SWAPPED_UP_TO = 20_000   # documents for which another index is built in memory, to be thrown away
CALIBRATION_FROM = 80    # a user's questions, from which on every fourth is kept for calibration


@dataclass(kw_only=True)
class Material:
    """Documents, the questions asked of them, and how they are found.

    answerable and unanswerable are samples in a fixed order; calibration questions are in neither. `search` is the
    retriever that a user would meet; `searches` are others to swap in, made when asked for.
    """

    name: str                              # "fresh", "trained", "altered", "wordings", "chains" or "yours"
    documents: Sequence[Document]
    answerable: Sequence[EvalQuestion]
    unanswerable: Sequence[EvalQuestion]
    retriever_type: str
    search: Search
    searches: Mapping[str, Callable[[], Search]] = field(default_factory=dict)
    reworded: Mapping[str, str] = field(default_factory=dict)   # question id -> the same in other words
    calibration: Sequence[EvalQuestion] = ()
    is_world: bool = False                 # kinds of questions are relations, whose values can stand in for each other
    fingerprint: str = ""
    depth: int = 40                        # documents ranked for each question: slots, and some to leave out

    def __post_init__(self) -> None:
        self.by_id = {str(one["id"]): one for one in self.documents}
        asked = [*self.answerable, *self.unanswerable, *self.calibration]
        # one retrieval for all conditions
        found = self.search([question.question for question in asked], self.depth) if asked else []
        self._ranked = {question.id: hits for question, hits in zip(asked, found, strict=True)}
        self.values = Values([self._record(question) for question in asked])
        # (question, document): distractors that state an answer, which nobody was shown
        self.left_out: set[tuple[str, str]] = set()
        self._normalised: dict[str, tuple[str, str]] = {}

    def _record(self, question: EvalQuestion) -> dict[str, Any]:
        relation = {"relation": question.kind} if self.is_world else {}
        return {"answers": list(question.answers), "kind": question.kind} | relation

    def other_value(self, question: EvalQuestion, content: str, rng: random.Random) -> str | None:
        """A value that could have answered the question and does not stand in the content; None where there is none."""
        if not question.answers and not self.is_world:
            # nothing to be alike: any answer will do
            value = self.values.any(rng)
            return None if stands(value, content) else value
        return self.values.other(self._record(question), content, rng)

    @property
    def known(self) -> list[EvalQuestion]:
        """Answerable questions whose evidence is named and here."""
        return [question for question in self.answerable if self.has_evidence(question)]

    def has_evidence(self, question: EvalQuestion) -> bool:
        return bool(question.supporting_ids) and all(id in self.by_id for id in question.supporting_ids)

    def gold(self, question: EvalQuestion) -> list[Document]:
        return [self.by_id[id] for id in dict.fromkeys(question.supporting_ids)]

    def retrieved(self, question: EvalQuestion, top_k: int) -> list[Document]:
        """What the retriever found, best first."""
        return self._ranked[question.id][:top_k]

    def distractors(self, question: EvalQuestion, count: int) -> list[Document]:
        """The best-ranked documents that are neither evidence, a copy of it nor another source of the answer; fewer
        where no more were found.
        """
        mine = {str(one["id"]) for one in self.gold(question)}
        contents = {one["content"] for one in self.gold(question)}
        others = (one for one in self._ranked[question.id]
                  if str(one["id"]) not in mine and one["content"] not in contents)
        return list(islice((one for one in others if self.may_distract(question, one)), count))

    def random_documents(self, question: EvalQuestion, count: int, rng: random.Random) -> list[Document]:
        """Documents drawn at random, none of them evidence or another source of the answer."""
        mine, num_drawn = set(question.supporting_ids), count + len(set(question.supporting_ids))
        while True:
            drawn = rng.sample(range(len(self.documents)), min(num_drawn, len(self.documents)))
            others = (self.documents[one] for one in drawn if str(self.documents[one]["id"]) not in mine)
            found = list(islice((one for one in others if self.may_distract(question, one)), count))
            if len(found) == count or len(drawn) == len(self.documents):
                return found
            num_drawn *= 2

    def may_distract(self, question: EvalQuestion, document: Document) -> bool:
        """Whether a document beside the evidence states no accepted answer; takes note of those that do.

        A user's documents may answer a question that names others as its evidence, and a model that reads them is
        right. In generated worlds values recur in documents about others, where they answer nothing: all may distract.
        """
        if self.is_world or not self.states(document, question.answers):
            return True
        self.left_out.add((question.id, str(document["id"])))
        return False

    def states(self, document: Document, answers: Sequence[str]) -> bool:
        """Whether an answer stands in a document as whole words, as it is written or normalised as for exact match."""
        text = f"{document['title']}\n{document['content']}"
        if text not in self._normalised:
            self._normalised[text] = text.lower(), f" {normalize_answer(text)} "
        written, normalised = self._normalised[text]
        wanted = [(answer.lower(), normalize_answer(answer)) for answer in answers if answer.strip()]
        return any(stands(lower, written) or (plain and f" {plain} " in normalised) for lower, plain in wanted)


def in_memory(documents: Sequence[Document], retriever_type: str) -> Search:
    """A search over an index that lives as long as the search does."""
    retriever = make_retriever(retriever_type)
    retriever.index([StoredDocument(id=str(one["id"]), title=one["title"], content=one["content"],
                                    metadata=one.get("metadata", {})) for one in documents])
    return lambda queries, top_k: [
        [documents[hit.position] for hit in hits] for hits in retriever.search(list(queries), top_k)]


def sample(
    questions: Sequence[EvalQuestion], num_answerable: int, num_unanswerable: int, rng: random.Random
) -> tuple[list[EvalQuestion], list[EvalQuestion]]:
    """At most so many questions of each sort, drawn without repeats."""
    sorts = ([one for one in questions if one.is_answerable], [one for one in questions if not one.is_answerable])
    return tuple(rng.sample(sort, min(count, len(sort)))
                 for sort, count in zip(sorts, (num_answerable, num_unanswerable), strict=True))


def own_material(
    manager: RetrievalManager, questions: Sequence[EvalQuestion], *, num_answerable: int, num_unanswerable: int,
    seed: int = 0,
) -> Material:
    """The user's knowledge base and questions; of CALIBRATION_FROM questions or more, a quarter is for calibration."""
    rng = random.Random(f"own {seed}")
    shuffled = rng.sample(list(questions), len(questions))
    kept = shuffled[::4] if len(shuffled) >= CALIBRATION_FROM else []
    kept_ids = {one.id for one in kept}
    answerable, unanswerable = sample([one for one in shuffled if one.id not in kept_ids],
                                      num_answerable, num_unanswerable, rng)
    knowledge_base = manager.knowledge_base
    documents = [one.to_dict() for one in knowledge_base.documents]

    def search(queries: Sequence[str], top_k: int) -> list[list[Document]]:
        return [[hit.to_dict() for hit in hits] for hits in manager.retrieve_batch(list(queries), top_k)]

    def stored(name: str) -> Search:
        return lambda queries, top_k: [
            [hit.to_dict() for hit in hits]
            for hits in knowledge_base.search(list(queries), top_k, retriever_type=name)]

    # an index that is not in the folder is built in memory or left out: a measurement writes nothing there
    built = set(knowledge_base.manifest["indexes"])
    searches: dict[str, Callable[[], Search]] = {name: lambda name=name: stored(name) for name in built}
    if {"bm25", "dense"} <= built:
        searches["hybrid"] = lambda: stored("hybrid")
    if len(documents) <= SWAPPED_UP_TO:
        searches |= {name: lambda name=name: in_memory(documents, name) for name in LEXICAL if name not in built}
    return Material(
        name="yours", documents=documents, answerable=answerable, unanswerable=unanswerable,
        retriever_type=manager.retriever_type, search=search, searches=searches, calibration=kept,
        fingerprint=knowledge_base.fingerprint,
    )
