"""A pool of questions over documents with a retriever: the source of reading examples, generated or the user's own."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.rag.changes import OR, Values, edited, injected, rival, stands

# batch of queries, number of documents wanted -> positions of documents, best first, per query
Search = Callable[[Sequence[str], int], list[list[int]]]
# whether a conversation has room in a row
Fits = Callable[[Mapping[str, Any]], bool]
SPARE_DOCUMENTS = 2  # retrieved beside those that will be shown: evidence may be taken away and distractors replaced
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
    first_absent_share: float | None = None  # first questions that nothing answers; None: as many as there are
    edited_share: float = 0.0  # contexts in which the evidence of the first question states another value
    rival_share: float = 0.0  # contexts with a second document that contradicts the evidence of the first question
    injected_share: float = 0.0  # contexts in which a document gives the reader an instruction


class Pool:
    """Documents, questions with the ids of the documents that answer them, and a retriever over the documents.

    `documents` are records with id, title and content; `questions`, at least one, are records with question, answers
    (empty when nothing answers it) and supporting_ids: all the documents that the answer needs. A question without
    answer may name in about_ids the documents that speak of its subject, and do not answer it, and in near_ids those of
    subjects that resemble it.
    """

    def __init__(
        self, documents: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], search: Search
    ) -> None:
        self.documents = documents
        self.questions = questions
        self.search = search
        self.values = Values(questions)
        self.answerable = [question for question in questions if question["answers"]]
        self.unanswerable = [question for question in questions if not question["answers"]]
        self.position_of = {document["id"]: position for position, document in enumerate(documents)}
        self.questions_of: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        self.unanswerable_of: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for question in questions:
            for document_id in dict.fromkeys(question["supporting_ids"]):
                self.questions_of[self.position_of[document_id]].append(question)
            for document_id in (*question.get("about_ids", ()), *question.get("near_ids", ())):
                if document_id in self.position_of:
                    self.unanswerable_of[self.position_of[document_id]].append(question)

    def conversations(
        self, count: int, rng: random.Random, config: ExampleConfig, fits: Fits = lambda conversation: True
    ) -> list[dict[str, Any]]:
        """`count` conversations about different first questions, as far as there are enough; one retrieval for all.

        A context shows 1 ... max_documents documents, fewer where the retriever finds fewer, and none twice. An answer
        cites its documents; where they are not all shown it is an abstention. Where two documents contradict each other
        it gives both values, in the order shown, and cites both. A conversation that does not fit loses later questions
        and distractors until it does, or until only the first question and its evidence are left.
        """
        questions = self._first_questions(count, rng, config.first_absent_share)
        found = self.search([question["question"] for question in questions], config.max_documents + SPARE_DOCUMENTS)
        return [self._conversation(question, hits, rng, config, fits)
                for question, hits in zip(questions, found, strict=True)]

    def _first_questions(self, count: int, rng: random.Random, absent_share: float | None) -> list[Mapping[str, Any]]:
        parts = [(self.questions, count)]
        if absent_share is not None and self.answerable and self.unanswerable:
            num_absent = sum(rng.random() < absent_share for _ in range(count))
            parts = [(self.answerable, count - num_absent), (self.unanswerable, num_absent)]
        chosen: list[Mapping[str, Any]] = []
        for questions, number in parts:
            chosen += rng.sample(questions, min(number, len(questions)))
            chosen += rng.choices(questions, k=number - min(number, len(questions)))
        return chosen

    def _conversation(
        self, question: Mapping[str, Any], hits: list[int], rng: random.Random, config: ExampleConfig, fits: Fits
    ) -> dict[str, Any]:
        shown = self._shown(question, hits, rng, config)
        turns = [question, *self._followups(question, shown, hits, rng, config)]
        changes = self._changes(question, shown, rng, config)
        turns = [turn for number, turn in enumerate(turns) if number == 0 or not changes.spoils(turn)]
        while not fits(conversation := self._compose(shown, turns, changes)):
            distractors = [p for p in shown if self.documents[p]["id"] not in question["supporting_ids"]]
            # a question or two are enough to learn from a context; what has to be found among is worth more
            if len(turns) > 2 or len(turns) == 2 and not distractors:
                turns.pop()
            elif distractors:
                shown.remove(distractors[-1])
            else:
                break
        return conversation

    def _compose(
        self, shown: Sequence[int], turns: Sequence[Mapping[str, Any]], changes: "_Changes"
    ) -> dict[str, Any]:
        documents = [changes.documents.get(position, self.documents[position]) for position in shown]
        names = [self.documents[position]["id"] for position in shown]
        if changes.rival is not None:
            place = round(changes.place * len(documents))
            documents.insert(place, changes.rival)
            names.insert(place, changes.rival["id"])
        messages: list[dict[str, Any]] = [{"role": "retrieval", "documents": documents}]
        slots = {name: slot for slot, name in enumerate(names)}
        for number, turn in enumerate(turns):
            answer = answer_message(turn, slots)
            if number == 0 and changes.value:
                answer["content"] = changes.value
                if changes.rival is not None:
                    answer = both(answer, slots[changes.rival["id"]], turn["answers"][0])
            messages += [{"role": "user", "content": turn["question"]}, answer]
        return {"messages": messages}

    def _changes(
        self, question: Mapping[str, Any], shown: Sequence[int], rng: random.Random, config: ExampleConfig
    ) -> "_Changes":
        """What is changed in the documents shown; each kind of change in its share of contexts, where it can be."""
        changes = _Changes(place=rng.random())
        is_edited, is_rivalled, is_injected = (
            rng.random() < share for share in (config.edited_share, config.rival_share, config.injected_share))
        evidence = {self.position_of[name] for name in question["supporting_ids"]}
        if question["answers"] and len(evidence) == 1 and evidence <= set(shown) and (is_edited or is_rivalled):
            (position,) = evidence
            document, old = self.documents[position], question["answers"][0]
            new = self.values.other(question, document["content"], rng)
            if new is not None and is_edited:
                changed = edited(document, old, new)
                if changed is not None:
                    changes.documents[position], changes.value, changes.old = changed, new, old
            elif new is not None and len(shown) < config.max_documents:
                changes.rival = rival(document, old, new, rng)
                if changes.rival is not None:
                    changes.value, changes.about = new, document["id"]
        if is_injected and shown:
            position = rng.choice(shown)
            # who obeys must be wrong, whichever of these questions is asked
            keep = {asked["answers"][0] for place in shown for asked in self.questions_of[place] if asked["answers"]}
            document = changes.documents.get(position, self.documents[position])
            changes.documents[position] = injected(document, self.values, keep | {changes.value}, rng)
        return changes

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


@dataclass(kw_only=True)
class _Changes:
    """Documents that stand for those of their positions, and what the first question's answer becomes."""

    place: float  # where the rival stands: 0 first ... 1 last
    documents: dict[int, dict[str, Any]] = field(default_factory=dict)
    rival: dict[str, Any] | None = None
    value: str = ""  # the new value; "" where nothing changed
    old: str = ""  # the value that an edit took away
    about: str = ""  # id of the document that the rival repeats

    def spoils(self, question: Mapping[str, Any]) -> bool:
        """Whether another question's answer is no longer what it was."""
        if self.rival is not None:
            return self.about in question["supporting_ids"]
        return bool(self.old and question["answers"]) and stands(self.old, question["answers"][0])


def abstention(question: Mapping[str, Any], shown: Sequence[str]) -> dict[str, Any]:
    """The fields of a message that does not answer; it names the first document shown that speaks of the subject."""
    closest = [slot for slot, name in enumerate(shown) if name in question.get("about_ids", ())][:1]
    return {"abstain": True} | ({"closest": closest} if closest else {})


def both(answer: dict[str, Any], slot: int, stated: str) -> dict[str, Any]:
    """An answer of two documents that contradict each other: `answer` says what the one in `slot` states."""
    if answer.get("abstain"):
        return answer
    (own,) = answer["citations"]
    values = [value for _, value in sorted([(own, stated), (slot, answer["content"])])]
    return {**answer, "content": OR.join(values), "citations": sorted([own, slot])}


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
        return {"role": "assistant", "content": "", **abstention(question, sorted(slots, key=slots.__getitem__))}
    return {"role": "assistant", "content": question["answers"][0], "citations": sorted(slots[name] for name in needed)}
