"""Replay of a logged episode: what was asked, what came back, how likely each decision was, and what it earned."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.errors import ConfigError

Record = Mapping[str, Any]  # a line of nanochat.refrag.episode_log
OUTCOMES = ("right", "wrong", "abstained", "invalid")


@dataclass(frozen=True, kw_only=True)
class Move:
    """A search, or the answer, and what led to it."""

    kind: str  # "search" or "answer"
    text: str  # the query; the answer, "" for an abstention
    is_chosen: bool  # False for the first search, which always asks the question itself, and for a forced answer
    decision: float | None  # probability of what was decided: to search again, or to answer
    likelihood: float | None  # probability of all that was written after it
    advantage: float
    documents: Sequence[Mapping[str, Any]]  # what a search brought; what an answer cites
    tokens: Sequence[tuple[str, float | None]]  # chosen tokens and their probabilities
    led_by: Sequence[Mapping[str, Any]] = ()  # documents that a query says it follows from


def outcome(record: Record) -> str:
    """One of OUTCOMES: right includes an abstention that is due."""
    trace = record["trace"]
    if not trace["is_valid"]:
        return "invalid"
    return "right" if record["is_right"] else "abstained" if trace["abstained"] else "wrong"


def moves(record: Record) -> Iterator[Move]:
    """The episode in order: searches, then the answer."""
    trace = record["trace"]
    pieces: dict[int, list[Mapping[str, Any]]] = {}
    for chosen in record["chosen"]:
        pieces.setdefault(chosen["piece"], []).append(chosen)
    # the first search is not chosen; every piece but the last leads to the next one
    for number, hop in enumerate(trace["hops"]):
        led_by = [trace["documents"][slot] for slot in hop.get("citations", ())]
        yield _move("search", hop["query"], hop["documents"], pieces.get(number - 1, ()) if number else (), led_by)
    cited = [trace["documents"][slot] for slot in (*trace["citations"], *trace["closest"])]
    yield _move("answer", trace["answer"], cited, pieces.get(len(trace["hops"]) - 1, ()))


def _move(
    kind: str, text: str, documents: Sequence[Mapping[str, Any]], chosen: Sequence[Mapping[str, Any]],
    led_by: Sequence[Mapping[str, Any]] = (),
) -> Move:
    is_decided = bool(chosen) and chosen[0]["text"] in ("<query_start>", "<assistant_start>")
    rest = chosen[is_decided:]
    return Move(
        kind=kind, text=text, is_chosen=is_decided, documents=documents,
        decision=_probability(chosen[:1]) if is_decided else None, likelihood=_probability(rest) if rest else None,
        advantage=chosen[0]["advantage"] if chosen else 0.0,
        tokens=[(one["text"], _probability([one])) for one in chosen], led_by=led_by,
    )


def _probability(chosen: Sequence[Mapping[str, Any]]) -> float | None:
    logprobs = [one["logprob"] for one in chosen]
    return None if None in logprobs else math.exp(sum(logprobs))


def choose(records: Sequence[Record], *, step: int = 0, number: int = -1, show: str = "") -> list[Record]:
    """Records of a step (0: all), of a number in the step (-1: all), of an outcome ("": all).

    Raises ConfigError when none is left, naming what there is.
    """
    if show and show not in OUTCOMES:
        raise ConfigError(f"--show is {show!r}, not an outcome", hint=f"use one of {', '.join(OUTCOMES)}")
    found = [record for record in records if step in (0, record["step"]) and number in (-1, record["number"])
             and show in ("", outcome(record))]
    if not found:
        steps = sorted({record["step"] for record in records})
        raise ConfigError("No logged episode is like that",
                          hint=f"{len(records):,} episodes of steps {steps[0]} to {steps[-1]} are logged")
    return found


def lines(record: Record) -> Iterator[str]:
    """The episode for a terminal."""
    trace, reference = record["trace"], record["reference"]
    wanted = " or ".join(reference["answers"]) or "nothing: the documents do not say it"
    yield f"Episode {record['number']} of step {record['step']}: {outcome(record)}, reward {record['reward']:+.3f}"
    yield f"  question: {trace['question']}"
    evidence = _names(reference["supporting_ids"])
    yield f"  wanted:   {wanted} (in {reference['num_hops']} search(es); evidence {evidence})"
    for place, move in enumerate(moves(record), start=1):
        if move.kind == "search":
            how = f"decides to search again {_percent(move.decision)}, writes this query {_percent(move.likelihood)}" \
                if move.is_chosen else "always: the question itself"
            yield f"  {place}. search: {move.text!r}  ({how})"
            if move.led_by:
                yield f"     from {_names([document['id'] for document in move.led_by])}"
            for document in move.documents:
                mark = "*" if document["id"] in reference["supporting_ids"] else " "
                yield f"     {mark} {document['title']} ({document['id']})"
            if not move.documents:
                yield "       nothing was found"
        else:
            how = "no more searches: it must answer"
            if move.is_chosen:
                how = f"decides to answer {_percent(move.decision)}"
            said = f"answer: {move.text}" if move.text else "abstains"
            yield f"  {place}. {said}  ({how}, writes this {_percent(move.likelihood)})"
            if move.documents:
                yield f"     names {_names([document['id'] for document in move.documents])}"
    yield "  reward: " + ", ".join(f"{name} {value:+.3f}" for name, value in record["parts"].items())
    yield f"  others of the question: {', '.join(f'{reward:+.2f}' for reward in record['group_rewards'])}"


def _names(ids: Sequence[str]) -> str:
    return ", ".join(ids) or "none"


def _percent(probability: float | None) -> str:
    return "?" if probability is None else f"{probability:.1%}"
