"""Training traces: a question, the searches that lead to its answer with what they found, and later questions."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.rag.changes import injected
from nanochat.rag.example_config import ExampleConfig
from nanochat.rag.pool import SPARE_DOCUMENTS, Fits, Pool, Search, abstention, answer_message
from nanochat.refrag.planning import Plan, leading_ids, plan_of, steps_of, with_detour
from nanochat.refrag.trace_config import TraceConfig

FOLLOWUPS_ABSENT = 0.25  # of the later questions: what the documents shown do not answer
# shown for what is sought, in the retriever's order
_PLAIN = {"shuffle_share": 0.0, "random_share": 0.0, "early_share": 0.0}


@dataclass
class _Draft:
    """A trace in the making: positions of the documents that each search shows."""

    plan: Plan
    shown: list[list[int]]
    later: list[Mapping[str, Any]]
    instruction: tuple[int, dict[str, Any]] | None = None  # a document that gives orders, in the place of its position

    @property
    def all_shown(self) -> list[int]:
        return [position for group in self.shown for position in group]


class TracePool(Pool):
    """Documents, questions of one and more hops, and a retriever: the source of traces.

    Questions are records as in Pool; those of several hops also carry their `steps` (see tasks/world_chains.py),
    without which they are left out. One hop or several, answerable or not, all become traces. Questions of one hop are
    asked again as plain later questions about the documents shown.
    """

    def __init__(
        self, documents: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], search: Search, *,
        is_exact: bool = False, later: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """`later`: the plain questions of one hop, where they are others than those among `questions`."""
        if later is None:
            later = [question for question in questions if len(steps_of(question)) == 1 and not question.get("steps")]
        super().__init__(documents, later, search, is_exact=is_exact)
        # hops -> (answerable, unanswerable)
        self.by_hops: dict[int, tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]] = {}
        self._names: dict[str, list[str]] = defaultdict(list)
        for question in questions:
            steps = steps_of(question)
            if not steps:
                continue
            groups = self.by_hops.setdefault(question.get("hops", 1), ([], []))
            groups[0 if question["answers"] else 1].append(question)
            for step in steps:
                if step.get("subject") and step["document_id"]:
                    self._names[self._kind(step["document_id"])].append(step["subject"])

    def conversations(  # type: ignore[override]
        self, count: int, rng: random.Random, config: TraceConfig, fits: Fits = lambda conversation: True
    ) -> list[dict[str, Any]]:
        """`count` traces as conversations, as far as there are questions; one retrieval for all of them.

        The first search is for the question itself, later ones for what is left to ask with the names that were found.
        No document is shown twice. The answer cites its evidence, that of the last hop first; where that is not to be
        found, the query is searched once more without the words that ask, and then the trace ends in an abstention.
        A query cites the document that it follows from: of the step before, or when it is asked once more that which
        speaks of the thing and does not say it. Mistakes cite nothing and are marked `"supervised": false`, an end for
        want of searches `"forced": true`. A trace that does not fit loses later questions, then distractors, until it
        does, or until only its evidence is left.
        """
        plans = [self._plan(question, rng, config, is_removed=is_removed)
                 for question, is_removed in self._chosen(count, rng, config)]
        return self._written(plans, rng, config, fits)

    def gold_trace(self, question: Mapping[str, Any], rng: random.Random, *, top_k: int, max_hops: int
                   ) -> dict[str, Any]:
        """The trace of one question as it should be, with top_k documents per search as the retriever ranks them; the
        evidence takes the last place where it was not found. Raises ValueError for a question without steps, or of more
        steps than max_hops.
        """
        if not 0 < len(steps_of(question)) <= max_hops:
            raise ValueError(f"question {question.get('id')!r} has {len(steps_of(question))} steps, max_hops is "
                             f"{max_hops}")
        config = TraceConfig(max_hops=max_hops, top_k=top_k, min_followups=0, max_followups=0, injected_share=0.0,
                             **_PLAIN)
        plan = plan_of(question, rng, config, is_removed=False)
        return self._written([plan], rng, config, lambda conversation: True, is_full=True)[0]

    def _chosen(
        self, count: int, rng: random.Random, config: TraceConfig
    ) -> list[tuple[Mapping[str, Any], bool]]:
        """(question, whether evidence is to be taken away) of each trace; no question twice while there are others."""
        lengths = [length for length in config.lengths if length <= config.max_hops and length in self.by_hops]
        wanted: dict[tuple[int, int], list[bool]] = defaultdict(list)
        for _ in range(count if lengths else 0):
            length = rng.choice(lengths)
            answerable, unanswerable = self.by_hops[length]
            is_absent = rng.random() < config.absent_share
            is_removed = is_absent and bool(answerable) and (rng.random() < config.removed_share or not unanswerable)
            group = 0 if answerable and (is_removed or not is_absent or not unanswerable) else 1
            wanted[length, group].append(is_removed)
        chosen: list[tuple[Mapping[str, Any], bool]] = []
        for (length, group), removed in wanted.items():
            # a question may come to its end after more searches than there are
            usable = [question for question in self.by_hops[length][group]
                      if len(steps_of(question)) <= config.max_hops]
            drawn = rng.sample(usable, min(len(removed), len(usable)))
            drawn += rng.choices(usable, k=len(removed) - len(drawn)) if usable else []
            chosen += zip(drawn, removed, strict=False)
        rng.shuffle(chosen)
        return chosen

    def _plan(self, question: Mapping[str, Any], rng: random.Random, config: TraceConfig, *, is_removed: bool) -> Plan:
        plan = plan_of(question, rng, config, is_removed=is_removed)
        if rng.random() >= config.recovery_share:
            return plan
        steps = steps_of(question)
        names = self._names[self._kind(steps[-1]["document_id"])] if plan.is_answered else []
        return with_detour(plan, rng, config, names)

    def _kind(self, document_id: str) -> str:
        metadata = self.documents[self.position_of[document_id]].get("metadata")
        return str(metadata.get("type", "")) if isinstance(metadata, Mapping) else ""

    def _written(
        self, plans: Sequence[Plan], rng: random.Random, config: TraceConfig, fits: Fits, *, is_full: bool = False
    ) -> list[dict[str, Any]]:
        queries = [hop.query for plan in plans for hop in plan.hops]
        # those shown before, and the evidence of other hops, may be among the hits
        found = iter(self.search(queries, config.top_k * config.max_hops + config.max_hops + SPARE_DOCUMENTS))
        return [self._conversation_of(plan, [next(found) for _ in plan.hops], rng, config, fits, is_full=is_full)
                for plan in plans]

    def _conversation_of(
        self, plan: Plan, hits: list[list[int]], rng: random.Random, config: TraceConfig, fits: Fits, *, is_full: bool
    ) -> dict[str, Any]:
        draft = self._draft(plan, hits, rng, config, is_full=is_full)
        evidence = {self.position_of[step["document_id"]] for step in steps_of(plan.question) if step["document_id"]}
        while True:
            # of fewer documents, too, no question may ask for what one of them might say without being its evidence
            shown = draft.all_shown
            draft.later = [turn for turn in draft.later
                           if self._is_answered(turn, shown) or not self._might_answer(turn, shown)]
            conversation = self._compose_trace(draft)
            if fits(conversation):
                return conversation
            largest = max(draft.shown, key=lambda group: sum(place not in evidence for place in group))
            distractors = [position for position in largest if position not in evidence]
            if draft.later:
                draft.later.pop()
            elif distractors:
                largest.remove(distractors[-1])
            else:
                return conversation

    def _draft(
        self, plan: Plan, hits: list[list[int]], rng: random.Random, config: TraceConfig, *, is_full: bool
    ) -> _Draft:
        draft = _Draft(plan, [], [])
        for number in range(len(plan.hops)):
            count = config.top_k if is_full else rng.randint(1, config.top_k)
            draft.shown.append(self._shown_by(draft, number, hits[number], count, rng, config))
        shown = draft.all_shown
        num_later = rng.randint(config.min_followups, config.max_followups)
        if num_later and self.questions:
            settings = ExampleConfig(lookups=1 + num_later, unanswerable_share=FOLLOWUPS_ABSENT)
            draft.later = self._followups(plan.question, shown, hits[0], rng, settings)
        if shown and rng.random() < config.injected_share:
            position = rng.choice(shown)
            keep = {*plan.question["answers"], *(step["answer"] for step in steps_of(plan.question))}
            keep |= {asked["answers"][0] for place in shown for asked in self.questions_of[place] if asked["answers"]}
            draft.instruction = position, injected(self.documents[position], self.values, keep - {""}, rng)
        return draft

    def _shown_by(
        self, draft: _Draft, number: int, hits: list[int], count: int, rng: random.Random, config: TraceConfig
    ) -> list[int]:
        """Positions of the documents that one search shows: its evidence, if it is to find it, and distractors."""
        plan, hop = draft.plan, draft.plan.hops[number]
        steps = steps_of(plan.question)
        names = [step["document_id"] for step in steps]
        before = draft.all_shown
        shown: list[int] = []
        if hop.is_found and (place := self.position_of[names[hop.step]]) not in before:
            shown.append(place)
        following = plan.hops[number + 1] if number + 1 < len(plan.hops) else hop
        if following.is_found and following.step > hop.step and len(shown) < count:
            place = self.position_of[names[following.step]]
            if rng.random() < config.early_share and place not in [*before, *shown]:
                shown.append(place)
        if not hits and not hop.is_found:
            return shown
        is_random = rng.random() < config.random_share
        if is_random:
            hits = rng.sample(range(len(self.documents)), min(count + len(before) + len(names), len(self.documents)))
        # the evidence of other hops has its place, and its copies would give it away
        kept_back = {"supporting_ids": [name for name in names if name], "answers": plan.question["answers"],
                     "also_ids": plan.question.get("also_ids", ())}
        shown += self._distractors(kept_back, hits, count - len(shown), but=[*before, *shown])
        shown.sort(key=lambda position: hits.index(position) if position in hits else len(hits))
        if is_random or rng.random() < config.shuffle_share:
            rng.shuffle(shown)
        return shown

    def _compose_trace(self, draft: _Draft) -> dict[str, Any]:
        plan, question = draft.plan, draft.plan.question
        place, changed = draft.instruction or (-1, {})
        names = [self.documents[position]["id"] for position in draft.all_shown]
        slots = {name: slot for slot, name in enumerate(names)}
        hops: list[dict[str, Any]] = []
        num_shown = 0
        for number, (hop, group) in enumerate(zip(plan.hops, draft.shown, strict=True), start=1):
            documents = [changed if position == place else self.documents[position] for position in group]
            marks: dict[str, Any] = {} if hop.is_supervised else {"supervised": False}
            led = [slot for name in leading_ids(question, hop) if (slot := slots.get(name, num_shown)) < num_shown]
            marks |= {"citations": led[:1]} if led else {}
            hops.append({"hop": number, "query": hop.query, "documents": documents, **marks})
            num_shown += len(group)
        answer: dict[str, Any] = {"role": "assistant", "content": ""}
        if plan.is_answered:
            # the document that says it comes first, as in plain reading: whether it does is decided right behind it
            cited = [slots[step["document_id"]] for step in reversed(steps_of(question))]
            answer |= {"content": question["answers"][0], "citations": list(dict.fromkeys(cited))}
        else:
            answer |= abstention(question, names)
        answer |= {"forced": True} if plan.is_forced else {}
        messages = [{"role": "user", "content": question["question"]},
                    {"role": "retrieval", "multi_hop": True, "hops": hops}, answer]
        for turn in draft.later:
            messages += [{"role": "user", "content": turn["question"]}, answer_message(turn, slots)]
        return {"messages": messages, "question_id": question.get("id", ""), "hops": question.get("hops", 1)}

