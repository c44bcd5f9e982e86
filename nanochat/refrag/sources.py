"""Where the questions of rollouts come from: fresh worlds for every step, and the user's own knowledge base."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nanochat.refrag.planning import steps_of
from nanochat.refrag.search_cache import Search, SearchCache
from nanochat.refrag.traces import TracePool

Question = Mapping[str, Any]  # question, answers, supporting_ids, hops, searches, kind
Gold = Callable[[Question, random.Random], dict[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Questions about one knowledge base."""

    questions: Sequence[Question]
    search: Search
    gold: Gold = lambda question, rng: None  # a conversation that goes as it should; None where nobody knows one


class QuestionSource(Protocol):
    """Where questions of training come from."""

    def draw(self, key: str, count: int) -> Drawn:
        """`count` questions, as far as there are; the same for the same key."""
        ...


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """Which questions are drawn, and what gold episodes show."""

    max_hops: int = 3  # longest questions; each length comes as often as the others
    top_k: int = 3  # documents per search of gold episodes
    unanswerable_share: float = 0.28


class PoolSource:
    """Questions of one pool, with a search over its documents."""

    def __init__(self, pool: TracePool, settings: DrawSettings, more: Sequence[Question] = ()) -> None:
        """more: questions beside those of the pool, whose steps nobody knows: what answers them shows how good a way
        was, and that is all that rewards need.
        """
        self.pool, self.settings = pool, settings
        self.search = SearchCache(search_of(pool))
        self.by_hops = {length: (list(known), list(unknown)) for length, (known, unknown) in pool.by_hops.items()}
        for question in more:
            hops = max(question.get("hops", 1), len(question["supporting_ids"]), 1)
            group = self.by_hops.setdefault(hops, ([], []))[0 if question["answers"] else 1]
            group.append({**question, "hops": hops})

    @property
    def is_empty(self) -> bool:
        """Whether no question can be answered in so many hops."""
        return min(self.by_hops, default=self.settings.max_hops + 1) > self.settings.max_hops

    def draw(self, key: str, count: int) -> Drawn:
        questions = draw_questions(self.by_hops, count, random.Random(f"questions:{key}"), self.settings)
        return Drawn(questions=questions, search=self.search, gold=self._gold)

    def _gold(self, question: Question, rng: random.Random) -> dict[str, Any] | None:
        if not 0 < len(steps_of(question)) <= self.settings.max_hops:
            return None
        return self.pool.gold_trace(question, rng, top_k=self.settings.top_k, max_hops=self.settings.max_hops)


class WorldSource:
    """Questions of a new world for every key: `make_pool` builds the pool of a world from its seed."""

    def __init__(self, make_pool: Callable[[int], TracePool], settings: DrawSettings, *, first: int, past: int) -> None:
        """Seeds lie in first ... past - 1."""
        self.make_pool, self.settings, self.first, self.past = make_pool, settings, first, past

    def draw(self, key: str, count: int) -> Drawn:
        seed = self.first + random.Random(f"world:{key}").randrange(self.past - self.first)
        return PoolSource(self.make_pool(seed), self.settings).draw(key, count)


class MixedSource:
    """One of several sources for each key, by weight."""

    def __init__(self, sources: Sequence[QuestionSource], weights: Sequence[float]) -> None:
        self.sources, self.weights = list(sources), list(weights)

    def draw(self, key: str, count: int) -> Drawn:
        chosen = random.Random(f"source:{key}").choices(self.sources, self.weights)[0]
        return chosen.draw(key, count)


def draw_questions(
    by_hops: Mapping[int, tuple[list[Question], list[Question]]], count: int, rng: random.Random, settings: DrawSettings
) -> list[Question]:
    """Questions of all lengths up to max_hops, none twice: fewer than `count` where there are no more. `by_hops`: those
    with an answer and those without, by length.
    """
    lengths = [length for length in sorted(by_hops) if length <= settings.max_hops]
    wanted: dict[tuple[int, int], int] = {}
    for _ in range(count if lengths else 0):
        length, is_absent = rng.choice(lengths), rng.random() < settings.unanswerable_share
        group = int(is_absent) if by_hops[length][is_absent] else 1 - is_absent
        wanted[length, group] = wanted.get((length, group), 0) + 1
    chosen: list[Question] = []
    for (length, group), number in sorted(wanted.items()):
        questions = by_hops[length][group]
        chosen += rng.sample(questions, min(number, len(questions)))
    rng.shuffle(chosen)
    return chosen


def search_of(pool: TracePool) -> Search:
    """The pool's search, with documents instead of their positions."""

    def search(queries: Sequence[str], top_k: int) -> list[list[dict[str, Any]]]:
        return [[dict(pool.documents[position]) for position in positions[:top_k]]
                for positions in pool.search(list(queries), top_k)]

    return search
