"""A pool of questions over documents with a retriever: the source of reading examples, generated or the user's own."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# batch of queries, number of documents wanted -> positions of documents, best first, per query
Search = Callable[[Sequence[str], int], list[list[int]]]
# whether a conversation has room in a row
Fits = Callable[[Mapping[str, Any]], bool]
CLOSE_SHARE = 0.7  # of later questions without answer: those that are close to what is shown
ABOUT_SHARE = 0.6  # contexts in which these ask of a subject that is shown what its document does not say


@dataclass(frozen=True, kw_only=True)
class ExampleConfig:
    """What a reading example looks like; every draw is random within these bounds."""

    max_documents: int = 6  # documents shown; the number is drawn from 1 ... this
    lookups: int = 6  # questions asked of one set of documents; the first one is the one they were retrieved for
    unanswerable_share: float = 0.25  # of the later questions: about documents that are not shown
    taken_away_share: float = 0.25  # first questions whose evidence is taken away: close distractors remain
    shuffle_share: float = 0.5  # contexts whose documents are shuffled; the rest keep the retriever's order
    random_share: float = 0.15  # distractors drawn at random instead of from the retriever


class Pool:
    """Documents, questions with the ids of the documents that answer them, and a retriever over the documents.

    `documents` are records with id, title and content; `questions`, at least one, are records with question, answers
    (empty when nothing answers it) and supporting_ids: all the documents that the answer needs. A question without
    answer may name in about_ids the documents that speak of its subject, and do not answer it.
    """

    def __init__(
        self, documents: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], search: Search
    ) -> None:
        self.documents = documents
        self.questions = questions
        self.search = search
        self.position_of = {document["id"]: position for position, document in enumerate(documents)}
        self.questions_of: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        self.unanswerable_of: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for question in questions:
            for document_id in dict.fromkeys(question["supporting_ids"]):
                self.questions_of[self.position_of[document_id]].append(question)
            for document_id in question.get("about_ids", ()):
                self.unanswerable_of[self.position_of[document_id]].append(question)

    def conversations(
        self, count: int, rng: random.Random, config: ExampleConfig, fits: Fits = lambda conversation: True
    ) -> list[dict[str, Any]]:
        """`count` conversations about different first questions, as far as there are enough; one retrieval for all.

        A context shows 1 ... max_documents documents, fewer where the retriever finds fewer, and none twice. An answer
        cites its documents; where they are not all shown it is an abstention. A conversation that does not fit loses
        later questions and distractors until it does, or until only the first question and its evidence are left.
        """
        questions = rng.sample(self.questions, min(count, len(self.questions)))
        while len(questions) < count:
            questions.append(rng.choice(self.questions))
        # evidence may be taken away and distractors replaced, so more is fetched than will be shown
        found = self.search([question["question"] for question in questions], config.max_documents + 2)
        return [self._conversation(question, hits, rng, config, fits)
                for question, hits in zip(questions, found, strict=True)]

    def _conversation(
        self, question: Mapping[str, Any], hits: list[int], rng: random.Random, config: ExampleConfig, fits: Fits
    ) -> dict[str, Any]:
        shown = self._shown(question, hits, rng, config)
        turns = [question, *self._followups(question, shown, hits, rng, config)]
        while not fits(conversation := self._compose(shown, turns)):
            distractors = [p for p in shown if self.documents[p]["id"] not in question["supporting_ids"]]
            # a question or two are enough to learn from a context; what has to be found among is worth more
            if len(turns) > 2 or len(turns) == 2 and not distractors:
                turns.pop()
            elif distractors:
                shown.remove(distractors[-1])
            else:
                break
        return conversation

    def _compose(self, shown: Sequence[int], turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
        evidence = list(dict.fromkeys(self.position_of[name] for name in question["supporting_ids"]))
        is_random = rng.random() < config.random_share
        if is_random:
            hits = rng.sample(range(len(self.documents)), min(count + len(evidence), len(self.documents)))
        # a copy of the evidence under another id would answer, too
        contents = {self.documents[position]["content"] for position in evidence}
        distractors = [position for position in hits if self.documents[position]["content"] not in contents]
        can_be_shown = 0 < len(evidence) <= config.max_documents
        if can_be_shown and rng.random() >= config.taken_away_share:
            count = max(count, len(evidence))
            chosen = evidence + distractors[: count - len(evidence)]
            # evidence that was not found comes last
            shown = sorted(chosen, key=lambda position: hits.index(position) if position in hits else len(hits))
        else:
            shown = distractors[:count]
        if is_random or rng.random() < config.shuffle_share:
            rng.shuffle(shown)
        return shown

    def _followups(
        self, first: Mapping[str, Any], shown: Sequence[int], hits: Sequence[int], rng: random.Random,
        config: ExampleConfig,
    ) -> list[Mapping[str, Any]]:
        """Other questions for the same documents, some about documents that are not shown; none twice.

        Most of the latter are close: about documents that the retriever found, too, or about the subject of a document
        that is shown but does not answer.
        """
        here = _others([question for position in shown for question in self.questions_of[position]], [first])
        absent = sum(rng.random() < config.unanswerable_share for _ in range(config.lookups - 1))
        chosen = rng.sample(here, min(config.lookups - 1 - absent, len(here)))
        absent = min(absent, 1 + len(chosen) // 2, len(self.questions))
        near = [question for position in hits if position not in shown for question in self.questions_of[position]]
        about = [question for position in shown for question in self.unanswerable_of[position]]
        near = rng.sample(about, len(about)) if rng.random() < ABOUT_SHARE and about else near
        elsewhere = rng.sample(near, min(sum(rng.random() < CLOSE_SHARE for _ in range(absent)), len(near)))
        elsewhere += rng.sample(self.questions, absent - len(elsewhere))
        chosen += _others(elsewhere, [first, *chosen])
        rng.shuffle(chosen)
        return chosen


def _others(questions: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The questions that are not known, each once."""
    by_identity = {id(question): question for question in questions}
    for question in known:
        by_identity.pop(id(question), None)
    return list(by_identity.values())


def answer_message(question: Mapping[str, Any], slots: Mapping[str, int]) -> dict[str, Any]:
    """The assistant's message: the first answer with citations, or an abstention when not all of them are shown."""
    needed = set(question["supporting_ids"])
    if not question["answers"] or not needed or not needed <= slots.keys():
        return {"role": "assistant", "content": "", "abstain": True}
    return {"role": "assistant", "content": question["answers"][0], "citations": sorted(slots[name] for name in needed)}
