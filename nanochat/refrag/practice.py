"""Practice in searching: generated worlds with questions of several hops, and the ladder from one hop to three."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nanochat.rag.pool import ExampleConfig
from nanochat.rag.practice import STAGES, PracticeWorld
from nanochat.refrag.trace_config import TraceConfig
from nanochat.refrag.traces import TracePool
from tasks.world_chains import CHAIN_WORLD, ChainConfig, Chains, make_chains

# a chain may end with a relation that no list has; with more of them few chains are long
PRACTICE_WORLD: dict[str, Any] = CHAIN_WORLD | {"open_relations": 2, "untold_title_share": 0.1, "casual_share": 0.15}


@dataclass(frozen=True, kw_only=True)
class ChainStage:
    """One rung: questions of which lengths, and the share of traces that must be right in full to go on."""

    gate: float
    traces: TraceConfig
    kind: str = "read"  # what the rest of a batch practises, as in nanochat.rag.practice
    world: dict[str, Any] = field(default_factory=lambda: PRACTICE_WORLD)  # settings of WorldConfig
    examples: ExampleConfig = STAGES["documents"].examples


# easy to hard; a run trains those that its max_hops allows. Each rung goes on with the lengths of the one before, so
# gates need not be high: with four traces in ten that end without an answer a tiny model stays between .5 and .7 right
# in full for a thousand steps
CHAIN_STAGES: dict[str, ChainStage] = {
    "chains1": ChainStage(gate=0.65, traces=TraceConfig(lengths=(1,))),
    "chains2": ChainStage(gate=0.5, traces=TraceConfig(lengths=(1, 2))),
    "chains3": ChainStage(gate=0.5, traces=TraceConfig(lengths=(1, 2, 3))),
    "chains4": ChainStage(gate=0.85, traces=TraceConfig(lengths=(1, 2, 3, 4))),
}


# what is hardest to tell from an answer comes most: a document that is about the thing and does not say it
_BROKEN = ("absent_relation", "broken_bridge", "absent_relation", "absent_entity", "absent_relation", "broken_bridge",
           "removed")


def practice_chains(lengths: tuple[int, ...], per_length: int, seed: int = 0) -> ChainConfig:
    """Questions of a world to practise with: many of those that nothing answers."""
    return ChainConfig(seed=seed, hops=lengths, per_length=per_length, unanswerable_share=0.4, broken=_BROKEN)


class ChainWorld(PracticeWorld):
    """A generated world with questions of several hops behind a retriever; all of it made on demand.

    `noise`: share of the documents found that are others, drawn at random; a document's place in the ranking is noisy,
    too. The same query gets the same answer.
    """

    def __init__(
        self, seed: int, settings: dict[str, Any] | None = None, retriever_type: str = "bm25", *,
        chains: ChainConfig | None = None, noise: float = 0.0,
    ) -> None:
        super().__init__(seed, CHAIN_WORLD if settings is None else settings, retriever_type)
        self.chain_config, self.noise = chains or ChainConfig(), noise

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Its documents."""
        return self.world.documents

    @property
    def questions(self) -> list[dict[str, Any]]:
        """Questions of one hop and more, as tasks/world_chains.py makes them."""
        return self.chains.questions

    @cached_property
    def chains(self) -> Chains:
        """The questions, and how many were left out."""
        return make_chains(self.world, self.chain_config, self.pool.search)

    @cached_property
    def traces(self) -> TracePool:
        """Documents and questions as a source of traces; what it finds is as noisy as the world."""
        return TracePool(self.documents, self.questions, self.positions, is_exact=True, later=self.pool.questions)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[dict[str, Any]]]:
        """The documents found for each query, best first: the search of nanochat.engine.hops."""
        return [[self.documents[position] for position in row] for row in self.positions(queries, top_k)]

    def positions(self, queries: Sequence[str], top_k: int) -> list[list[int]]:
        """Positions of the documents found for each query, best first."""
        found = self.pool.search(list(queries), top_k)
        return [self._blurred(query, row) for query, row in zip(queries, found, strict=True)] if self.noise else found

    def _blurred(self, query: str, row: list[int]) -> list[int]:
        rng = random.Random(f"{self.config.seed}:{query}")
        others = (position for position in rng.sample(range(len(self.documents)), len(self.documents))
                  if position not in row)
        return [next(others, position) if rng.random() < self.noise else position for position in row]
