"""Episodes: documents shown, a question, and what to answer; or to abstain, where the documents do not say.

Distractors are what the retriever finds for the question, some at random. Answers move with edited facts, name both of
two values that contradict each other, and do not move when a document gives orders.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.rag.apart import about_of
from nanochat.rag.changes import OR, edited, injected, rival
from nanochat.rag.example_config import check_bounds
from nanochat.rag.filters import FETCHED
from nanochat.rag.library import Library, Record
from nanochat.rag.pool import abstention
from nanochat.rag.values import Values

NEAR_RANK = 10  # half of the distractors come from the first so many hits, the others from all FETCHED


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """What episodes look like; shares are parts of 1. Raises ConfigError for numbers and shares that cannot be."""

    max_documents: int = 8  # documents shown, 1 ... 32: 1 ... this, each number as often as the others
    present_share: float = 0.75  # episodes whose evidence is shown; in the others the target is to abstain
    random_share: float = 0.15  # distractors drawn at random instead of from the retriever
    edited_share: float = 0.1  # of the episodes with evidence: a value in the document is replaced by another
    contradiction_share: float = 0.08  # of them: a second document states another value
    injected_share: float = 0.05  # of them: a distractor gives orders

    def __post_init__(self) -> None:
        check_bounds(self, hint="prepare_rag_dataset takes it from --max_documents: --max_documents 8")


class Deck:
    """Deals 0 ... n-1 in random order, again and again: every number comes equally often."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._cards: dict[int, list[int]] = defaultdict(list)

    def deal(self, n: int, at_least: int = 0) -> int:
        """The next number from at_least to n - 1; lower ones are left for others."""
        cards = self._cards[n]
        if not any(card >= at_least for card in cards):
            cards[:0] = self._rng.sample(range(n), n)
        place = max(place for place, card in enumerate(cards) if card >= at_least)
        return cards.pop(place)


class Composer:
    """Makes the episodes of one split from its documents, the only ones that they show.

    `inside`: positions of these documents; where they are fewer than max_documents, `spare` ones are shown, too.
    """

    def __init__(
        self, library: Library, questions: Sequence[Record], inside: Sequence[int], spare: Sequence[int],
        config: EpisodeConfig, rng: random.Random,
    ) -> None:
        self.library, self.config, self.rng = library, config, rng
        self.pool = list(inside) if len(inside) >= 2 * config.max_documents else [*inside, *spare]
        self.values = Values(questions)
        self.counts, self.slots = Deck(rng), Deck(rng)
        self.ranks: Counter[str] = Counter()
        self.left_out = 0  # questions whose evidence is more than max_documents documents

    def present(self, question: Record, hits: Sequence[int], kind: str) -> Record | None:
        """An episode with the evidence; None, counted in left_out, where that is more than max_documents documents.

        A change ("edited", "contradiction", "injected") that cannot be made is none: the kind becomes "answer".
        """
        answer = question["answers"][0]
        evidence = [self.library.position_of[name] for name in question["supporting_ids"]]
        if len(evidence) > self.config.max_documents:
            self.left_out += 1
            return None
        if kind == "contradiction" and len(evidence) == self.config.max_documents:
            # no room for the second value
            kind = "answer"
        shown = {position: self._shown(position) for position in evidence}
        target = self.library.position_of[question["answer_id"]]
        said, extra, other = answer, None, None
        if kind in ("edited", "contradiction"):
            content = self.library.documents[target]["content"]
            other = self.values.other(question, content, self.rng)
            changed = edited(shown[target], answer, other) if other else None
            if other is None or changed is None or len(evidence) > 1:
                kind = "answer"
            elif kind == "edited":
                shown[target], said = changed, other
            else:
                extra = rival(shown[target], answer, other, self.rng)
        needed = len(evidence) + (extra is not None)
        count = 1 + self.counts.deal(self.config.max_documents, needed - 1)
        values = [answer, said, *([other] if extra is not None else [])]
        distractors = self._distractors(question, hits, count - needed, avoid=values)
        if kind == "injected" and distractors:
            distractors[0] = injected(distractors[0], self.values, [answer], self.rng)
        kind = "answer" if kind == "injected" and not distractors else kind
        # the slot that is dealt evenly goes to the document that states the answer
        total = needed + len(distractors)
        first = self.slots.deal(total)
        slots = [first, *self.rng.sample([slot for slot in range(total) if slot != first], needed - 1)]
        placed = [shown[target], *(shown[position] for position in evidence if position != target)]
        placed += [extra] if extra is not None else []
        if extra is not None:
            said = OR.join(value for _, value in sorted([(slots[0], answer), (slots[-1], other)]))
        return self._episode(question, kind, _filled(dict(zip(slots, placed, strict=True)), distractors), said, slots)

    def absent(self, question: Record, hits: Sequence[int], kind: str, *, keep: Sequence[str] = ()) -> Record:
        """An episode without the answer; `keep`: ids of documents that speak of the question and are shown first."""
        count = 1 + self.counts.deal(self.config.max_documents)
        near = [self._shown(self.library.position_of[name]) for name in keep][:count]
        shown = [*near, *self._distractors(question, hits, count - len(near), avoid=question["answers"], without=keep)]
        self.rng.shuffle(shown)
        return self._episode(question, kind, shown, "", [])

    def _distractors(
        self, question: Record, hits: Sequence[int], count: int, *, avoid: Sequence[str],
        without: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Documents that do not answer: from the hits, half of them from the first ones, and some at random.

        None of them holds the words of `avoid` or is named in `without`.
        """
        forbidden = {*question["supporting_ids"], *question.get("also_ids", ()), *without}

        def fits(position: int) -> bool:
            # a document that holds the answer's words might be right by chance, and a citation of it, too
            document = self.library.documents[position]
            return document["id"] not in forbidden and not any(self.library.holds(position, words) for words in avoid)

        usable = [position for position in hits[:FETCHED] if fits(position)]
        chosen: list[int] = []
        while len(chosen) < count:
            is_random = self.rng.random() < self.config.random_share
            found = None if is_random else self._from_hits(usable, chosen)
            name = "retriever"
            if found is None:
                found, name = self._from_pool(chosen, fits), "random"
            if found is None:
                found, name = self._from_hits(usable, chosen), "retriever"
            if found is None:
                break
            self.ranks[name] += 1
            chosen.append(found)
        return [self._shown(position) for position in chosen]

    def _from_hits(self, usable: Sequence[int], chosen: Sequence[int]) -> int | None:
        depth = NEAR_RANK if self.rng.random() < 0.5 else FETCHED
        left = [position for position in usable[:depth] if position not in chosen]
        left = left or [position for position in usable if position not in chosen]
        return self.rng.choice(left) if left else None

    def _from_pool(self, chosen: Sequence[int], fits: Any) -> int | None:
        for _ in range(4 * self.config.max_documents):
            position = self.rng.choice(self.pool)
            if position not in chosen and fits(position):
                return position
        return None

    def _shown(self, position: int) -> dict[str, Any]:
        document = self.library.documents[position]
        return {name: document.get(name, "") for name in ("id", "title", "content")}

    def _episode(
        self, question: Record, kind: str, shown: Sequence[Mapping[str, Any]], said: str, cited: Sequence[int]
    ) -> Record:
        answer: dict[str, Any] = {"role": "assistant", "content": said}
        answer |= {"citations": sorted(cited)} if said else abstention(question, [one["id"] for one in shown])
        messages = [{"role": "retrieval", "documents": list(shown)},
                    {"role": "user", "content": question["question"]}, answer]
        return {"id": f"{question['id']}/{kind}", "kind": kind, "question_id": question["id"],
                "question_kind": question["kind"], "document_ids": about_of(question), "messages": messages}


def _filled(placed: Mapping[int, dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All documents in order of their slots: the placed ones in theirs, the others in what is left."""
    rest = iter(others)
    return [placed[slot] if slot in placed else next(rest) for slot in range(len(placed) + len(others))]
