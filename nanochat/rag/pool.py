"""A pool of questions over documents with a retriever: the source of reading examples, generated or the user's own."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from nanochat.rag.changes import OR, Values, edited, exchanged, injected, near_name, renamed, rival
from nanochat.rag.context_changes import Changes
from nanochat.rag.example_config import ExampleConfig
from nanochat.rag.library import folded, text_of

# batch of queries, number of documents wanted -> positions of documents, best first, per query
Search = Callable[[Sequence[str], int], list[list[int]]]
# whether a conversation has room in a row
Fits = Callable[[Mapping[str, Any]], bool]
SPARE_DOCUMENTS = 2  # retrieved beside those that will be shown: evidence may be taken away and distractors replaced
CLOSE_SHARE = 0.7  # of later questions without answer: those that are close to what is shown
ABOUT_SHARE = 0.6  # contexts in which these ask of a subject that is shown what its document does not say
# shorter answers ("5", "no") stand by chance in documents that say nothing of what is asked
HELD_CHARACTERS = 3
TRIES = 64  # documents drawn when another one has to be found


class Pool:
    """Documents, questions with the ids of the documents that answer them, and a retriever over the documents.

    `documents` are records with id, title and content; `questions`, at least one, are records with question, answers
    (empty when nothing answers it) and supporting_ids: all the documents that the answer needs. A question without
    answer may name in about_ids the documents that speak of its subject, and do not answer it, and in near_ids those of
    subjects that resemble it. One with an answer may name in also_ids further documents, each of which answers it, too.
    A question may say in subject whom it asks about; without that there are no decoys.

    `is_exact`: no document answers a question but those that it names. Otherwise any document that holds the words of
    an answer might.
    """

    def __init__(
        self, documents: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], search: Search, *,
        is_exact: bool = False,
    ) -> None:
        self.documents = documents
        self.is_exact = is_exact
        self.questions = questions
        self.search = search
        self.values = Values(questions)
        # whom questions of a kind ask about, where they say so
        subjects: dict[str, set[str]] = defaultdict(set)
        for question in questions:
            if question.get("subject"):
                subjects[question.get("relation", "")].add(question["subject"])
        self.subjects = {relation: sorted(names) for relation, names in subjects.items()}
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
        cites its documents; where they are not all shown it is an abstention, and no other document that is shown might
        answer. Where two documents contradict each other it gives both values, in the order shown, and cites both. A
        conversation that does not fit loses later questions, distractors and the contradiction until it does, or until
        only the first question and its evidence, or one document without it, are left.
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
        later = self._followups(question, shown, hits, rng, config)
        changes = self._changes(question, shown, rng, config)
        later = [turn for turn in later if not changes.spoils(turn)]
        while True:
            # of fewer documents, too, no question may ask for what one of them might say without being its evidence
            later = [turn for turn in later if self._is_answered(turn, shown) or not self._might_answer(turn, shown)]
            conversation = self._compose(shown, [question, *later], changes)
            if fits(conversation):
                return conversation
            distractors = [p for p in shown if self.documents[p]["id"] not in question["supporting_ids"]]
            distractors = distractors if len(shown) > 1 else []
            # a question or two are enough to learn from a context; what has to be found among is worth more
            if len(later) > 1 or later and not distractors:
                later.pop()
            elif distractors:
                shown.remove(distractors[-1])
            elif changes.decoy is not None:
                changes = replace(changes, decoy=None)
            elif changes.rival is not None:
                changes = replace(changes, rival=None, value="", old="", about="")
            else:
                return conversation

    def _compose(
        self, shown: Sequence[int], turns: Sequence[Mapping[str, Any]], changes: Changes
    ) -> dict[str, Any]:
        documents = [changes.documents.get(position, self.documents[position]) for position in shown]
        names = [self.documents[position]["id"] for position in shown]
        if changes.rival is not None:
            place = round(changes.place * len(documents))
            documents.insert(place, changes.rival)
            names.insert(place, changes.rival["id"])
        if changes.decoy is not None:
            place = round(changes.decoy_place * len(documents))
            documents.insert(place, changes.decoy)
            names.insert(place, changes.decoy["id"])
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
    ) -> Changes:
        """What is changed in the documents shown; each kind of change in its share of contexts, where it can be."""
        changes = Changes(place=rng.random())
        is_edited, is_rivalled, is_injected = (
            rng.random() < share for share in (config.edited_share, config.rival_share, config.injected_share))
        needed = set(question["supporting_ids"])
        if len(needed) == 1 and self._is_answered(question, shown) and (is_edited or is_rivalled):
            document, old = self.documents[self.position_of[min(needed)]], question["answers"][0]
            new = self.values.other(question, text_of(document), rng)
            change = {"value": new, "old": old, "about": document["id"]}
            if new is not None and is_edited:
                changed = edited(document, old, new)
                if changed is not None:
                    changes = replace(changes, documents={self.position_of[document["id"]]: changed}, **change)
            elif new is not None and len(shown) < config.max_documents:
                second = rival(document, old, new, rng)
                if second is not None:
                    changes = replace(changes, rival=second, **change)
        if rng.random() < config.decoy_share and len(shown) + (changes.rival is not None) < config.max_documents:
            changes = self._with_decoy(changes, question, rng)
        if is_injected and shown:
            position = rng.choice(shown)
            # who obeys must be wrong, whichever of these questions is asked
            keep = {asked["answers"][0] for place in shown for asked in self.questions_of[place] if asked["answers"]}
            document = changes.documents.get(position, self.documents[position])
            changes.documents[position] = injected(document, self.values, keep | {changes.value}, rng)
        return changes

    def _with_decoy(self, changes: Changes, question: Mapping[str, Any], rng: random.Random) -> Changes:
        """The changes and, where it can be made, a copy of the evidence about a like name, with another value."""
        needed, subject = set(question["supporting_ids"]), question.get("subject", "")
        names = self.subjects.get(question.get("relation", ""), [])
        swap = near_name(subject, names, rng) if subject and len(needed) == 1 and question["answers"] else None
        if swap is None:
            return changes
        document = self.documents[self.position_of[min(needed)]]
        value = self.values.other(question, text_of(document), rng)
        other = renamed(document, subject, *swap)
        decoy = rival(other, question["answers"][0], value, rng) if other is not None and value is not None else None
        if decoy is None:
            return changes
        return replace(changes, decoy=decoy, decoy_place=rng.random(), decoy_name=exchanged(subject, *swap))

    def _shown(
        self, question: Mapping[str, Any], hits: list[int], rng: random.Random, config: ExampleConfig
    ) -> list[int]:
        """Positions of the documents to show: evidence or its absence, and distractors as the retriever ranks them.

        What might answer, too, is no distractor: the next hit, or a document drawn at random, takes its place.
        """
        count = rng.randint(1, config.max_documents)
        evidence = list(dict.fromkeys(self.position_of[name] for name in question["supporting_ids"]))
        is_random = rng.random() < config.random_share
        if is_random:
            hits = rng.sample(range(len(self.documents)), min(count + len(evidence), len(self.documents)))
        can_be_shown = 0 < len(evidence) <= config.max_documents
        shown = evidence if can_be_shown and rng.random() >= config.taken_away_share else []
        shown = shown + self._distractors(question, hits, count - len(shown), but=shown)
        # as many without the evidence as with it, and never none
        missing = min(count, max(1, len(hits))) - len(shown)
        if missing > 0:
            drawn = rng.sample(range(len(self.documents)), min(TRIES, len(self.documents)))
            shown = shown + self._distractors(question, drawn, missing, but=shown)
        # where every document answers, the evidence cannot be taken away
        shown = shown or evidence[: config.max_documents]
        # what was not found comes last
        shown = sorted(shown, key=lambda position: hits.index(position) if position in hits else len(hits))
        if is_random or rng.random() < config.shuffle_share:
            rng.shuffle(shown)
        return shown

    def _distractors(
        self, question: Mapping[str, Any], positions: Sequence[int], number: int, *, but: Sequence[int]
    ) -> list[int]:
        """The first of these documents that do not answer the question, at most `number`, none of `but`."""
        # a copy of the evidence under another id would answer, too
        contents = {self.documents[self.position_of[name]]["content"] for name in question["supporting_ids"]}
        usable = (position for position in positions if position not in but
                  and self.documents[position]["content"] not in contents
                  and not self._might_answer(question, [position]))
        return list(islice(usable, max(0, number)))

    def _is_answered(self, question: Mapping[str, Any], shown: Sequence[int]) -> bool:
        needed = {self.position_of[name] for name in question["supporting_ids"]}
        return bool(question["answers"] and needed) and needed <= set(shown)

    def _might_answer(self, question: Mapping[str, Any], shown: Sequence[int]) -> bool:
        """Whether one of these documents could answer the question although it is not its evidence."""
        others = [document for document in (self.documents[position] for position in shown)
                  if document["id"] not in question["supporting_ids"]]
        if any(document["id"] in question.get("also_ids", ()) for document in others):
            return True
        answers = [] if self.is_exact else [folded(answer) for answer in question["answers"]]
        answers = [answer for answer in answers if len(answer.strip()) >= HELD_CHARACTERS]
        texts = (folded(text_of(document)) for document in others if answers)
        return any(answer in text for text in texts for answer in answers)

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
