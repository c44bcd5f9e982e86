"""Which searches a trace makes, before anything is searched: what is asked, and what each search is to find."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanochat.refrag.trace_config import TraceConfig
from nanochat.retrieval.words.analysis import STOP_WORDS

_WORD = re.compile(r"[^\W_]+(?:[-'\u2019._][^\W_]+)*|_{2,}")
_ASKING = STOP_WORDS | frozenset(
    "after before blank describe explain fill find give many much name say show since state tell under until".split())


@dataclass(frozen=True, kw_only=True)
class PlannedHop:
    query: str
    step: int  # the step of the question that it is for, from 0
    is_found: bool  # whether the step's evidence is shown by now
    is_supervised: bool = True  # False for a mistake: what follows from it is learned, the mistake is not


@dataclass(frozen=True, kw_only=True)
class Plan:
    question: Mapping[str, Any]
    hops: tuple[PlannedHop, ...]
    hidden: str = ""  # id of a document that no search finds
    is_answered: bool = True
    is_forced: bool = False  # there was no search left for what would have been searched next


def steps_of(question: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The steps of a question record (see tasks/world_chains.py); a question of one hop is its own step. Empty for a
    question of several hops whose steps nobody knows.
    """
    if question.get("steps"):
        return question["steps"]
    names = question["supporting_ids"]
    if question.get("hops", 1) > 1 or len(names) > 1 or bool(names) != bool(question["answers"]):
        return ()
    return [{"query": question["question"], "subject": question.get("subject", ""),
             "answer": question["answers"][0] if names else "", "document_id": names[0] if names else ""}]


def queries_of(question: Mapping[str, Any]) -> list[str]:
    """What a trace searches for, one query per step: the question itself, then each step's query behind the name that
    was found, "Torvik: Who is the mayor of Torvik?". A query that begins with the name is decided where it is read: a
    model writes it right behind the document that it cites, as it would write an answer, and where the document does
    not say it, it sees so before it has begun to ask on.
    """
    steps = steps_of(question)
    return [f"{step['subject']}: {step['query']}" if place and step.get("subject") else step["query"]
            for place, step in enumerate(steps)]


def leading_ids(question: Mapping[str, Any], hop: PlannedHop) -> Sequence[str]:
    """Ids of documents that a query follows from: the evidence of the step before, or when a query is asked once more
    the document that speaks of the thing and does not say it; of a search once more that was not needed, the one that
    says it. None for the question itself and for other mistakes.
    """
    steps = steps_of(question)
    if not hop.is_supervised:
        return [step["document_id"] for step in steps if hop.query == shortened(step["query"])][:1]
    if hop.query != queries_of(question)[hop.step]:
        return question.get("about_ids", ())
    return [steps[hop.step - 1]["document_id"]] if hop.step else ()


def shortened(query: str) -> str:
    """A query without the words that ask, up to its end: what is searched when the query itself finds nothing.

    "Who is the mayor of Torvik?" gives "mayor of Torvik". It is copied in one piece, so that small models learn to
    write it. Empty where that would be no other query.
    """
    words = list(_WORD.finditer(query))
    first = next((word for word in words if word[0].lower() not in _ASKING), None)
    if first is None or first is words[0]:
        return ""
    return query[first.start() : words[-1].end()]


def plan_of(question: Mapping[str, Any], rng: random.Random, config: TraceConfig, *, is_removed: bool) -> Plan:
    """The searches of a trace. `is_removed`: the evidence of one of an answerable question's steps is nowhere.

    Where evidence is missing, the query is searched once more without the words that ask, and then the question is
    given up. It has at most config.max_hops steps.
    """
    steps, queries = steps_of(question), queries_of(question)
    end, hidden = len(steps), ""
    if not question["answers"]:
        end -= 1
    elif is_removed:
        end = rng.randrange(len(steps))
        hidden = steps[end]["document_id"]
    hops = [PlannedHop(query=query, step=place, is_found=True) for place, query in enumerate(queries[:end])]
    if end == len(steps):
        return Plan(question=question, hops=tuple(hops))
    hops.append(PlannedHop(query=queries[end], step=end, is_found=False))
    again = shortened(steps[end]["query"])  # the name that it asks about stands in it anyway
    has_room = len(hops) < config.max_hops
    if again and has_room:
        hops.append(PlannedHop(query=again, step=end, is_found=False))
    return Plan(question=question, hops=tuple(hops), hidden=hidden, is_answered=False,
                is_forced=bool(again) and not has_room)


def with_detour(plan: Plan, rng: random.Random, config: TraceConfig, names: Sequence[str]) -> Plan:
    """The plan with one search in vain on the way, and the search that makes up for it; as it was where there is no
    room, or nothing to go wrong. `names`: other things that somebody could have searched for.
    """
    if not plan.is_answered or len(plan.hops) >= config.max_hops:
        return plan
    hops = list(plan.hops)
    # the first query is the question itself, so it is never bad; behind the last one every search is in vain
    if rng.random() < config.bad_query_share:
        place = rng.randrange(1, len(hops) + 1)
        bad = _bad_query(plan.question, place, rng, names)
        if not bad or any(bad == hop.query for hop in hops):
            return plan
        hops.insert(place, PlannedHop(query=bad, step=min(place, len(hops) - 1), is_found=False, is_supervised=False))
    else:
        place = rng.randrange(len(hops))
        again = shortened(steps_of(plan.question)[place]["query"])
        if not again:
            return plan
        hops[place] = replace(hops[place], is_found=False)
        hops.insert(place + 1, PlannedHop(query=again, step=place, is_found=True))
    return replace(plan, hops=tuple(hops))


def _bad_query(question: Mapping[str, Any], place: int, rng: random.Random, names: Sequence[str]) -> str:
    """A search instead of a step's, or behind the last: about another thing, for a name that nobody has, or once more
    for what was found. What was asked last is what is answered, so behind the last step it is only the latter.
    """
    steps, draw = steps_of(question), rng.random()
    subject = steps[place].get("subject", "") if place < len(steps) else ""
    if draw < 0.5 and names and subject:
        return queries_of(question)[place].replace(subject, rng.choice(names))
    if draw < 0.75 and subject:
        return subject[::-1].title()
    return shortened(steps[place - 1]["query"])
