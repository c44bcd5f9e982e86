"""Reading episodes out of questions and their documents: some are shown, one question is asked, the answer cites."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]
# documents, queries, number of documents wanted -> positions, best first, per query
Neighbours = Callable[[Sequence[Record], Sequence[str], int], list[list[int]]]
TAKEN_AWAY_SHARE = 0.2  # of answerable questions: their evidence is not shown, and the right answer is to abstain
RANDOM_SHARE = 0.15  # of distractors: drawn from all documents
SHORT = 3  # answers of fewer letters stand everywhere, so they give nothing away


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a task needs to know that makes episodes from questions and documents."""

    top_k: int = 5  # most documents of an episode; the number is drawn from 1 ... this
    neighbours: Neighbours | None = None  # finds near misses; None: documents of the same title, then any


PLAIN = Reading()


def episodes(
    documents: Sequence[Record], questions: Sequence[Record], *, seed: int, reading: Reading
) -> list[dict[str, Any]]:
    """One conversation per question: documents in random order, the question, and the answer with citations.

    `documents` have id, title and content; `questions` have question, answers (empty when nothing answers it),
    supporting_ids, and maybe context_ids: the documents that its authors showed with it, which then are the
    distractors. In TAKEN_AWAY_SHARE of the episodes the evidence is missing and the model must abstain; no document
    that is left states the answer. Questions that need more than top_k documents are left out.
    """
    position_of = {document["id"]: position for position, document in enumerate(documents)}
    usable = [question for question in questions if len(set(question["supporting_ids"])) <= reading.top_k
              and all(name in position_of for name in question["supporting_ids"])
              and (question["supporting_ids"] or not question["answers"])]
    near = _near(documents, usable, position_of, reading)
    built = (_episode(question, hits, documents, position_of, random.Random(f"{seed}:{number}"), reading.top_k)
             for number, (question, hits) in enumerate(zip(usable, near, strict=True)))
    return [episode for episode in built if episode is not None]


def _near(
    documents: Sequence[Record], questions: Sequence[Record], position_of: Mapping[str, int], reading: Reading
) -> list[list[int]]:
    """Positions of likely distractors of each question, best first."""
    near: list[list[int]] = [[position_of[name] for name in question.get("context_ids", ()) if name in position_of]
                             for question in questions]
    missing = [number for number, hits in enumerate(near) if not hits]
    if reading.neighbours is not None and missing:
        queries = [questions[number]["question"] for number in missing]
        found = reading.neighbours(documents, queries, reading.top_k + 2)
        for number, hits in zip(missing, found, strict=True):
            near[number] = hits
        return near
    of_title = defaultdict(list)
    for position, document in enumerate(documents):
        of_title[document["title"]].append(position)
    for number in missing:
        for name in questions[number]["supporting_ids"]:
            near[number] = near[number] + of_title[documents[position_of[name]]["title"]]
    return near


def _episode(
    question: Record, hits: Sequence[int], documents: Sequence[Record], position_of: Mapping[str, int],
    rng: random.Random, top_k: int,
) -> dict[str, Any] | None:
    """None for a question without evidence of which no document can be shown that leaves the answer out."""
    evidence = list(dict.fromkeys(position_of[name] for name in question["supporting_ids"]))
    is_answered = bool(question["answers"]) and rng.random() >= TAKEN_AWAY_SHARE
    count = rng.randint(1, top_k)
    if is_answered or not question["answers"]:
        # a question without answer is asked of the documents that speak of its subject
        shown = evidence[:top_k]
        count = max(count, len(shown))
    else:
        shown = []
    texts = {documents[position]["content"] for position in evidence}
    anywhere = rng.sample(range(len(documents)), min(2 * top_k, len(documents)))
    candidates = list(dict.fromkeys([*hits, *anywhere]))
    for position in candidates:
        if len(shown) >= count:
            break
        other = anywhere.pop() if anywhere and rng.random() < RANDOM_SHARE else position
        is_copy = documents[other]["content"] in texts
        if not is_copy and other not in shown and (is_answered or not _states(documents[other], question["answers"])):
            shown.append(other)
    if not shown:
        return None
    rng.shuffle(shown)
    message: dict[str, Any] = {"role": "assistant", "content": "", "abstain": True}
    if is_answered:
        message = {"role": "assistant", "content": question["answers"][0],
                   "citations": sorted(shown.index(position) for position in evidence)}
    kept = [{name: documents[position][name] for name in ("id", "title", "content")} for position in shown]
    return {"messages": [{"role": "retrieval", "documents": kept},
                         {"role": "user", "content": question["question"]}, message]}


def _states(document: Record, answers: Sequence[str]) -> bool:
    text = f"{document['title']} {document['content']}".lower()
    return any(len(answer) > SHORT and re.search(rf"(?<!\w){re.escape(answer.lower())}(?!\w)", text) is not None
               for answer in answers)
