"""A pool of questions over documents with a retriever: the source of reading examples, generated or the user's own."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# batch of queries, number of documents wanted -> positions of documents, best first, per query
Search = Callable[[Sequence[str], int], list[list[int]]]


@dataclass(frozen=True, kw_only=True)
class ExampleConfig:
    """What a reading example looks like; every draw is random within these bounds."""

    max_documents: int = 6  # documents shown; the number is drawn from 1 ... this
    lookups: int = 6  # questions asked of one set of documents; the first one stands before them
    unanswerable_share: float = 0.25  # first questions whose evidence is taken away, and the same share of the others
    shuffle_share: float = 0.5  # contexts whose documents are shuffled; the rest keep the retriever's order
    random_share: float = 0.15  # distractors drawn at random instead of from the retriever


class Pool:
    """Documents, questions with the ids of the documents that answer them, and a retriever over the documents.

    `documents` are records with id, title and content; `questions` are records with question, answers (empty when
    nothing answers it) and supporting_ids.
    """

    def __init__(
        self, documents: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], search: Search
    ) -> None:
        self.documents = documents
        self.questions = questions
        self.search = search
        self.position_of = {document["id"]: position for position, document in enumerate(documents)}
        self.questions_of: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for question in questions:
            for document_id in question["supporting_ids"]:
                self.questions_of[self.position_of[document_id]].append(question)

    def conversations(self, count: int, rng: random.Random, config: ExampleConfig) -> list[dict[str, Any]]:
        """`count` conversations about different first questions; retrieval runs once for all of them."""
        questions = rng.sample(self.questions, min(count, len(self.questions)))
        while len(questions) < count:
            questions.append(rng.choice(self.questions))
        # evidence may be taken away and distractors replaced, so more is fetched than will be shown
        found = self.search([question["question"] for question in questions], config.max_documents + 2)
        return [self._conversation(question, hits, rng, config)
                for question, hits in zip(questions, found, strict=True)]

    def _conversation(
        self, question: Mapping[str, Any], hits: list[int], rng: random.Random, config: ExampleConfig
    ) -> dict[str, Any]:
        shown = self._shown(question, hits, rng, config)
        turns = [question, *self._followups(question, shown, rng, config)]
        documents = [self.documents[position] for position in shown]
        messages: list[dict[str, Any]] = [{"role": "retrieval", "documents": documents}]
        slots = {self.documents[position]["id"]: slot for slot, position in enumerate(shown)}
        for turn in turns:
            messages += [{"role": "user", "content": turn["question"]}, answer_message(turn, slots)]
        return {"messages": messages}

    def _shown(
        self, question: Mapping[str, Any], hits: list[int], rng: random.Random, config: ExampleConfig
    ) -> list[int]:
        """Positions of the documents to show: evidence or its absence, and distractors as the retriever ranks them."""
        count = rng.randint(1, config.max_documents)
        evidence = [self.position_of[document_id] for document_id in question["supporting_ids"]]
        distractors = [position for position in hits if position not in evidence]
        if rng.random() < config.random_share:
            distractors = [position for position in rng.sample(range(len(self.documents)), min(count, len(self.documents)))
                           if position not in evidence]
        if not evidence or rng.random() < config.unanswerable_share:
            return distractors[:count]
        shown = [position for position in hits if position in evidence or position in distractors][:count]
        missing = [position for position in evidence if position not in shown]
        shown = (shown[: count - len(missing)] + missing)[: max(count, len(evidence))]
        if distractors and distractors[0] not in hits:
            shown = (evidence + distractors)[:count]
            rng.shuffle(shown)
        if rng.random() < config.shuffle_share:
            rng.shuffle(shown)
        return shown

    def _followups(
        self, first: Mapping[str, Any], shown: Sequence[int], rng: random.Random, config: ExampleConfig
    ) -> list[Mapping[str, Any]]:
        """Other questions for the same documents, some of them about documents that are not shown."""
        count = config.lookups - 1
        here = [question for position in shown for question in self.questions_of[position] if question is not first]
        absent = sum(rng.random() < config.unanswerable_share for _ in range(count))
        chosen = rng.sample(here, min(count - absent, len(here)))
        chosen += [rng.choice(self.questions) for _ in range(min(absent, 1 + len(chosen) // 2))]
        rng.shuffle(chosen)
        return chosen


def answer_message(question: Mapping[str, Any], slots: Mapping[str, int]) -> dict[str, Any]:
    """The assistant's message: the first gold answer with citations, or an abstention when no shown document has it."""
    cited = [slots[document_id] for document_id in question["supporting_ids"] if document_id in slots]
    if not question["answers"] or len(cited) < len(question["supporting_ids"]) or not cited:
        return {"role": "assistant", "content": "", "abstain": True}
    return {"role": "assistant", "content": question["answers"][0], "citations": sorted(cited)}
