"""Batches of practice, stage by stage: a gate of competence leads on, not a number of steps."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from nanochat.chat_format import Rendered, render
from nanochat.errors import ConfigError
from nanochat.rag.packing import is_grounded, pack, render_all
from nanochat.rag.pool import Pool
from nanochat.rag.practice import EXAMPLES, STAGES, PracticeWorld, Stage
from nanochat.tokenizer import Tokenizer
from nanochat.training import Batch, mean_over_ranks
from nanochat.training.losses import keep_group

STEPS_PER_WORLD = 2  # a new world every so many steps
# seeds below are for knowledge bases that people generate, so that a model is never tested on a world it trained on
FIRST_SEED = 10**6
HELD_OUT_SEED = 10**9  # worlds from here on are for gates
SEEDS_PER_STEP = 64  # micro-batches of a step beyond that many share worlds
ROWS_AT_ONCE = 8  # rows per forward of an evaluation


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Where examples come from beside the practice worlds; shares are of all examples, worlds get the rest."""

    pool: Pool | None = None  # questions over the user's knowledge base
    pool_share: float = 0.0
    chats: Sequence[Mapping[str, Any]] = ()  # general conversations
    chat_share: float = 0.0


class Curriculum:
    """Training batches that depend on step, micro-batch and stage only, and the gate between stages.

    `batches` and `evaluate` fit `training.fit`. The stage is part of the training state: `record` and `restore`.
    """

    def __init__(
        self,
        stages: Sequence[str],
        tokenizer: Tokenizer,
        *,
        seed: int,
        row_len: int,
        examples_per_step: int,
        context_weight: float,
        retriever_type: str,
        mixture: Mixture = Mixture(),
        context_share: float = 0.25,
        decision_weight: float = 1.0,
        max_doc_tokens: int | None = None,
        max_documents: int | None = None,
        gate_examples: int = 48,
    ) -> None:
        if decision_weight <= 0:
            raise ConfigError(f"--decision_weight is {decision_weight}, must be above 0",
                              hint="--decision_weight 1 weighs the decision like any other token of an answer")
        self.names = list(stages)
        self.index = 0
        self.is_passed = False  # the last gate too
        self.tokenizer, self.seed, self.row_len = tokenizer, seed, row_len
        self.examples_per_step, self.context_weight = examples_per_step, context_weight
        self.context_share, self.decision_weight = context_share, decision_weight
        self.retriever_type, self.mixture = retriever_type, mixture
        self.max_doc_tokens, self.max_documents = max_doc_tokens, max_documents
        self.gate_examples = gate_examples
        self.decision_after = ["assistant_start"]  # marks behind which something is decided
        self._worlds: dict[int, PracticeWorld] = {}  # of the running steps and stage, by seed
        self._worlds_of = (-1, -1)
        self.num_rendered = 0  # conversations so far, and those left out of them because their evidence did not fit
        self.num_lost = 0
        self.num_shortened = 0  # questions and documents taken out of a conversation so that it fits
        self.num_cut_documents = 0  # documents that lost their tail or were dropped, and the tokens lost
        self.num_cut_tokens = 0

    @property
    def stage(self) -> Stage:
        return STAGES[self.names[self.index]]

    def record(self) -> dict[str, Any]:
        """What a checkpoint must keep to go on with the same batches."""
        return {"stages": self.names, "index": self.index, "is_passed": self.is_passed}

    def restore(self, record: Mapping[str, Any]) -> bool:
        """Go on where `record` was taken; False, and the first stage, when it is of other stages."""
        if record.get("stages") != self.names:
            return False
        self.index, self.is_passed = int(record["index"]), bool(record["is_passed"])
        return True

    def batches(self, step: int, micro: int) -> Batch:
        """The micro-batch of a step: fresh examples of the current stage, packed."""
        rng = random.Random(f"{self.seed}:{step}:{micro}")
        before = self.left_out()
        rendered = self._examples(self._practice(step, micro), self.examples_per_step, rng)
        packed = pack(rendered, row_len=self.row_len, context_weight=self.context_weight,
                      context_share=self.context_share, rng=rng,
                      decision_after=[self.tokenizer.special(name) for name in self.decision_after],
                      decision_weight=self.decision_weight)
        counts = {name: number - before[name] for name, number in self.left_out().items()}
        return replace(packed, kind=self.names[self.index], counts=counts)

    def left_out(self) -> dict[str, int]:
        """What was left out so far so that conversations fit into rows."""
        return {"examples_lost": self.num_lost, "parts_dropped": self.num_shortened,
                "documents_cut": self.num_cut_documents, "tokens_cut": self.num_cut_tokens}

    def evaluate(self, model: nn.Module, step: int) -> dict[str, Any]:
        """Share of answers that greedy decoding would get right in full, on a held-out world; moves on at the gate.

        Metrics: stage, accuracy, and when the gate was passed gate_passed and next_stage.
        """
        stage = self.stage
        metrics: dict[str, Any] = {"stage": self.names[self.index]}
        rng = random.Random(f"gate:{self.seed}:{step}")
        world = self._world(HELD_OUT_SEED + step)
        rendered = self._render(world, self.gate_examples, rng)
        accuracy = answer_accuracy(model, rendered, self.row_len, group=self.tokenizer.doc_ids,
                                   by_token=stage.kind == "copy")
        # one number for all processes: they must pass a gate together
        metrics["accuracy"] = mean_over_ranks(accuracy, next(model.parameters()).device)
        return self._past_gate(metrics)

    def _past_gate(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """The metrics of an evaluation, with what became of the gate; moves on where it is passed."""
        if metrics["accuracy"] >= self.stage.gate:
            metrics["gate_passed"] = self.stage.gate
            if self.index + 1 < len(self.names):
                self.index += 1
                metrics["next_stage"] = self.names[self.index]
            else:
                self.is_passed = True
        return metrics

    def validate(self, model: nn.Module, pool: Pool) -> dict[str, float]:
        """Accuracy, as in `evaluate`, on the same fixed examples of a held-out pool each time."""
        rendered = self.fixed_examples(pool, ())
        return {"val_accuracy": answer_accuracy(model, rendered, self.row_len, group=self.tokenizer.doc_ids)}

    def fixed_examples(
        self, pool: Pool | None, episodes: Sequence[Mapping[str, Any]], *, is_plain: bool = False
    ) -> list[Rendered]:
        """The same examples each time: `gate_examples` from a pool, and as many of the episodes. Plain ones show the
        pool's documents as they are.
        """
        rng = random.Random("validation")
        rendered = self._from_pool(pool, self.gate_examples, rng, is_plain=is_plain) if pool is not None else []
        chosen = rng.sample(range(len(episodes)), min(self.gate_examples, len(episodes)))
        return rendered + self._render_conversations([episodes[place] for place in chosen])

    def _world(self, seed: int) -> PracticeWorld:
        return PracticeWorld(seed, self.stage.world, self.retriever_type)

    def _practice(self, step: int, micro: int) -> PracticeWorld:
        turn = step // STEPS_PER_WORLD
        if self._worlds_of != (turn, self.index):
            self._worlds, self._worlds_of = {}, (turn, self.index)
        number = self.seed * 1_000_003 + turn * SEEDS_PER_STEP + micro % SEEDS_PER_STEP
        seed = FIRST_SEED + number % (HELD_OUT_SEED - FIRST_SEED)
        if seed not in self._worlds:
            self._worlds[seed] = self._world(seed)
        return self._worlds[seed]

    def _examples(self, world: PracticeWorld, count: int, rng: random.Random) -> list[Rendered]:
        mixture = self.mixture
        if self.stage.kind != "read":
            return self._render(world, count, rng)
        # rounded by chance, so that small batches get their share too
        from_pool = int(count * mixture.pool_share + rng.random()) if mixture.pool is not None else 0
        from_chats = min(count - from_pool, int(count * mixture.chat_share + rng.random())) if mixture.chats else 0
        from_worlds = count - from_pool - from_chats
        rendered = self._render(world, from_worlds, rng) if from_worlds else []
        if mixture.pool is not None:
            rendered += self._from_pool(mixture.pool, from_pool, rng)
        return rendered + self._render_conversations([rng.choice(mixture.chats) for _ in range(from_chats)])

    def _render(self, world: PracticeWorld, count: int, rng: random.Random) -> list[Rendered]:
        if self.stage.kind in ("keys", "read"):
            return self._from_pool(world.pool if self.stage.kind == "read" else world.key_pool, count, rng)
        example: Callable[..., Rendered] = EXAMPLES[self.stage.kind]
        return [example(world, self.tokenizer, rng, self.row_len + 1) for _ in range(count)]

    def _from_pool(
        self, pool: Pool, count: int, rng: random.Random, *, is_plain: bool = False
    ) -> list[Rendered]:
        examples = self.stage.examples
        if is_plain:
            examples = replace(examples, edited_share=0.0, rival_share=0.0, injected_share=0.0)
        if self.max_documents is not None:
            examples = replace(examples, max_documents=self.max_documents)
        return self._render_conversations(pool.conversations(count, rng, examples, self._fits))

    def _fits(self, conversation: Mapping[str, Any]) -> bool:
        fits = len(render(conversation, self.tokenizer, max_doc_tokens=self.max_doc_tokens).ids) <= self.row_len + 1
        self.num_shortened += not fits
        return fits

    def _render_conversations(self, conversations: Sequence[Mapping[str, Any]]) -> list[Rendered]:
        rendered = render_all(conversations, self.tokenizer, row_len=self.row_len, max_doc_tokens=self.max_doc_tokens)
        # an answer whose evidence fell out of the budget would teach answering without it
        kept = [item for item in rendered if len(item.ids) <= self.row_len + 1 and is_grounded(item, self.tokenizer)]
        self.num_rendered += len(rendered)
        self.num_cut_documents += sum(item.dropped for item in rendered)
        self.num_cut_tokens += sum(item.lost_tokens for item in rendered)
        self.num_lost += len(rendered) - len(kept)
        return kept


@torch.no_grad()
def answer_accuracy(
    model: nn.Module, rendered: Sequence[Rendered], row_len: int, *, group: range, by_token: bool = False
) -> float:
    """Share of supervised spans (runs of supervised tokens) that the model would write token for token.

    Teacher forcing decides this exactly for greedy decoding: a span is right when each of its tokens is the likeliest
    of those that may stand there (`group` as in training). The engine's grammar forbids some more, so it can only do
    better. `by_token` counts tokens instead of spans; without any the share is 0.
    """
    batch = pack(rendered, row_len=row_len, context_weight=0.0).to(next(model.parameters()).device)
    supervised = batch.supervised()
    if not supervised.any():
        return 0.0
    was_training = model.training
    model.eval()
    right = []
    for start in range(0, len(batch.ids), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        features = model.features(batch.ids[rows], seq_idx=batch.seq_idx[rows])[supervised[rows]]
        targets = batch.targets[rows][supervised[rows]]
        # the head sees supervised positions only: logits are by far the largest tensor
        right.append(keep_group(model.head(features), targets, group).argmax(-1) == targets)
    model.train(was_training)
    is_right = torch.cat(right)
    if by_token:
        return is_right.float().mean().item()
    starts = supervised & ~nn.functional.pad(supervised, (1, 0))[:, :-1]
    spans = (starts.flatten().cumsum(0) - 1)[supervised.flatten()]
    num_wrong = torch.zeros(int(starts.sum()), device=spans.device).index_add(0, spans, (~is_right).float())
    return (num_wrong == 0).float().mean().item()
