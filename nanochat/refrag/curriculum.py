"""Batches of traces, from questions of one hop to questions of several; a share of plain reading stays in."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nanochat.chat_format import Rendered
from nanochat.errors import ConfigError
from nanochat.rag.curriculum import HELD_OUT_SEED, ROWS_AT_ONCE, Curriculum
from nanochat.rag.pool import Pool
from nanochat.refrag.practice import CHAIN_STAGES, ChainStage, ChainWorld, practice_chains
from nanochat.refrag.trace_config import TraceConfig
from nanochat.refrag.traces import TracePool
from nanochat.training import mean_over_ranks
from nanochat.training.losses import keep_group

QUESTIONS_PER_LENGTH = 36  # chain questions of each length made for a world; a world lasts a few steps


class TraceCurriculum(Curriculum):
    """Training batches of traces that depend on step, micro-batch and stage only, and the gate between stages.

    The same as Curriculum, on the stages of CHAIN_STAGES. `reading_share` of the world examples are plain reading. A
    `mixture.pool` may be a TracePool of the user's own questions, or a Pool of plain ones. Raises ConfigError where
    max_hops searches of top_k_per_hop documents are more than a model can tell apart.
    """

    def __init__(
        self, stages: Sequence[str], *args: Any, max_hops: int = 3, top_k_per_hop: int = 3, reading_share: float = 0.3,
        traces: Mapping[str, Any] | None = None, **settings: Any,
    ) -> None:
        """`args` and `settings` are Curriculum's; `traces`: settings of TraceConfig that differ from the stages'."""
        super().__init__(stages, *args, **settings)
        if not 0 <= reading_share <= 1:
            raise ConfigError(f"reading_share is {reading_share}, must lie in 0..1", hint="for example 0.3")
        unknown = [name for name in self.names if name not in CHAIN_STAGES]
        if unknown:
            raise ConfigError(f"Unknown stage {unknown[0]!r}", hint=f"stages of traces: {', '.join(CHAIN_STAGES)}")
        self.reading_share = reading_share
        # behind what a search was for, a trace decides between another search and the answer
        self.decision_after.append("user_end")
        self._changes = {**(traces or {}), "max_hops": max_hops, "top_k": top_k_per_hop}
        # refused now, not in the middle of a run
        for name in self.names:
            self._traces_of(CHAIN_STAGES[name])

    @property
    def stage(self) -> ChainStage:  # type: ignore[override]
        return CHAIN_STAGES[self.names[self.index]]

    @property
    def trace_config(self) -> TraceConfig:
        """What the traces of the current stage look like."""
        return self._traces_of(self.stage)

    def _traces_of(self, stage: ChainStage) -> TraceConfig:
        return replace(stage.traces, **self._changes)

    def evaluate(self, model: nn.Module, step: int) -> dict[str, Any]:
        """Share of traces that greedy decoding would write in full, given the right documents, on a held-out world;
        moves on at the gate.

        Metrics: stage, accuracy, its parts (accuracy_1 for answered questions of one hop, and so on, accuracy_absent
        for those without an answer), and when the gate was passed gate_passed and next_stage.
        """
        rng = random.Random(f"gate:{self.seed}:{step}")
        metrics: dict[str, Any] = {"stage": self.names[self.index]}
        config = replace(self.trace_config, min_followups=0, max_followups=0)
        conversations = self._world(HELD_OUT_SEED + step).traces.conversations(self.gate_examples, rng, config)
        groups: dict[str, list[bool]] = defaultdict(list)
        rendered = [self._render_conversations([conversation]) for conversation in conversations]
        right = iter(traces_right(model, [item for items in rendered for item in items], self.tokenizer.doc_ids))
        for conversation, items in zip(conversations, rendered, strict=True):
            is_absent = conversation["messages"][-1].get("abstain", False)
            # what does not fit into a row is not right
            groups["absent" if is_absent else str(conversation["hops"])].append(bool(items) and next(right))
        every = [one for group in groups.values() for one in group]
        # one number for all processes: they must pass a gate together
        metrics["accuracy"] = mean_over_ranks(sum(every) / max(1, len(every)), next(model.parameters()).device)
        metrics |= {f"accuracy_{name}": sum(group) / len(group) for name, group in sorted(groups.items())}
        return self._past_gate(metrics)

    def _world(self, seed: int) -> ChainWorld:
        chains = practice_chains(self.stage.traces.lengths, QUESTIONS_PER_LENGTH)
        return ChainWorld(seed, self.stage.world, self.retriever_type, chains=chains)

    def _render(self, world: ChainWorld, count: int, rng: random.Random) -> list[Rendered]:  # type: ignore[override]
        # rounded by chance, so that small batches get their share too
        num_reading = min(count, int(count * self.reading_share + rng.random()))
        rendered = self._from_pool(world.traces, count - num_reading, rng)
        return rendered + (self._from_pool(world.pool, num_reading, rng) if num_reading else [])

    def _from_pool(
        self, pool: Pool, count: int, rng: random.Random, *, is_plain: bool = False
    ) -> list[Rendered]:
        if not isinstance(pool, TracePool):
            return super()._from_pool(pool, count, rng, is_plain=is_plain)
        config = replace(self.trace_config, injected_share=0.0) if is_plain else self.trace_config
        return self._render_conversations(pool.conversations(count, rng, config, self._fits))


@torch.no_grad()
def traces_right(model: nn.Module, rendered: Sequence[Rendered], group: range) -> list[bool]:
    """Whether the model would write every supervised token of each sequence; those of `group` (document slots) compete
    with one another only, as in training. Teacher forcing decides this exactly for greedy decoding.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    order = sorted(range(len(rendered)), key=lambda place: len(rendered[place].ids))
    right = [True] * len(rendered)
    for start in range(0, len(order), ROWS_AT_ONCE):
        places = order[start : start + ROWS_AT_ONCE]
        longest = max(len(rendered[place].ids) for place in places)
        ids, mask = (torch.zeros(len(places), longest, dtype=torch.long) for _ in range(2))
        for row, place in enumerate(places):
            ids[row, : len(rendered[place].ids)] = torch.tensor(rendered[place].ids)
            mask[row, : len(rendered[place].mask)] = torch.tensor(rendered[place].mask)
        # what follows the end of a row changes nothing before it
        supervised = mask[:, 1:].bool().to(device)
        features = model.features(ids[:, :-1].to(device))[supervised]
        targets = ids[:, 1:].to(device)[supervised]
        is_wrong = keep_group(model.head(features), targets, group).argmax(-1) != targets
        rows = supervised.nonzero()[:, 0]
        for row in rows[is_wrong].unique().tolist():
            right[places[row]] = False
    model.train(was_training)
    return right
