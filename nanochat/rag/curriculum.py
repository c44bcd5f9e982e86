"""Batches of practice, stage by stage: a gate of competence leads on, not a number of steps."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from nanochat.chat_format import Rendered
from nanochat.common import print0
from nanochat.rag.packing import pack, render_all
from nanochat.rag.pool import ExampleConfig, Pool
from nanochat.rag.practice import EXAMPLES, STAGES, PracticeWorld, Stage
from nanochat.tokenizer import Tokenizer
from nanochat.training import Batch

STEPS_PER_WORLD = 2  # a new world every so many steps
HELD_OUT_SEED = 10**9  # worlds from here on are for gates and reports, never for training


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Where examples come from beside the practice worlds; shares are of all examples, worlds get the rest."""

    pool: Pool | None = None  # questions over the user's knowledge base
    pool_share: float = 0.0
    chats: Sequence[Mapping[str, Any]] = ()  # general conversations
    chat_share: float = 0.0


class Curriculum:
    """Training batches that depend on the step and the stage only, and the gate between stages.

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
        max_doc_tokens: int | None = None,
        max_documents: int | None = None,
        gate_examples: int = 48,
    ) -> None:
        self.names = list(stages)
        self.index = 0
        self.is_passed = False  # the last gate too
        self.tokenizer, self.seed, self.row_len = tokenizer, seed, row_len
        self.examples_per_step, self.context_weight = examples_per_step, context_weight
        self.retriever_type, self.mixture = retriever_type, mixture
        self.max_doc_tokens, self.max_documents = max_doc_tokens, max_documents
        self.gate_examples = gate_examples
        self._world: tuple[tuple[int, str], PracticeWorld] | None = None
        self.num_lost = 0  # examples whose cited documents did not fit: left out

    @property
    def stage(self) -> Stage:
        return STAGES[self.names[self.index]]

    def record(self) -> dict[str, Any]:
        """What a checkpoint must keep to go on with the same batches."""
        return {"stages": self.names, "index": self.index, "is_passed": self.is_passed}

    def restore(self, record: Mapping[str, Any]) -> None:
        if record.get("stages") == self.names:
            self.index, self.is_passed = int(record["index"]), bool(record["is_passed"])

    def batches(self, step: int, micro: int) -> Batch:
        """The micro-batch of a step: fresh examples of the current stage, packed."""
        rng = random.Random(f"{self.seed}:{step}:{micro}")
        world_seed = self.seed * 1_000_003 % HELD_OUT_SEED + (step // STEPS_PER_WORLD) * 64 + micro % 64
        return self._pack(self._examples(self._practice(world_seed % HELD_OUT_SEED), self.examples_per_step, rng))

    def evaluate(self, model: nn.Module, step: int) -> dict[str, Any]:
        """Share of answers that greedy decoding would get right in full, on a held-out world; passes the gate or not."""
        name, stage = self.names[self.index], self.stage
        rng = random.Random(f"gate:{self.seed}:{step}")
        world = PracticeWorld(HELD_OUT_SEED + step, stage.world, self.retriever_type)
        accuracy = answer_accuracy(model, self._render(world, self.gate_examples, rng), self.row_len,
                                   by_token=stage.kind == "copy")
        if accuracy >= stage.gate:
            if self.index + 1 < len(self.names):
                self.index += 1
                print0(f"  stage {name}: {accuracy:.2f} right, gate {stage.gate:.2f} passed; next stage "
                       f"{self.names[self.index]}")
            else:
                self.is_passed = True
        return {"stage": name, "accuracy": accuracy}

    def validate(self, model: nn.Module, pool: Pool) -> dict[str, float]:
        """Accuracy, as in `evaluate`, on the same fixed examples of a held-out pool each time."""
        conversations = pool.conversations(self.gate_examples, random.Random("validation"), self._examples_of(self.stage))
        return {"val_accuracy": answer_accuracy(model, self._render_conversations(conversations), self.row_len)}

    def _practice(self, seed: int) -> PracticeWorld:
        key = (seed, self.names[self.index])
        if self._world is None or self._world[0] != key:
            self._world = (key, PracticeWorld(seed, self.stage.world, self.retriever_type))
        return self._world[1]

    def _examples(self, world: PracticeWorld, count: int, rng: random.Random) -> list[Rendered]:
        mixture, stage = self.mixture, self.stage
        if stage.kind != "read":
            return self._render(world, count, rng)
        from_pool = round(count * mixture.pool_share) if mixture.pool is not None else 0
        from_chats = round(count * mixture.chat_share) if mixture.chats else 0
        rendered = self._render(world, max(0, count - from_pool - from_chats), rng)
        if mixture.pool is not None:
            rendered += self._render_conversations(mixture.pool.conversations(from_pool, rng, self._examples_of(stage)))
        return rendered + self._render_conversations([rng.choice(mixture.chats) for _ in range(from_chats)])

    def _examples_of(self, stage: Stage) -> ExampleConfig:
        return stage.examples if self.max_documents is None else replace(
            stage.examples, max_documents=self.max_documents)

    def _render(self, world: PracticeWorld, count: int, rng: random.Random) -> list[Rendered]:
        if self.stage.kind == "read":
            return self._render_conversations(world.pool.conversations(count, rng, self._examples_of(self.stage)))
        example: Callable[..., Rendered] = EXAMPLES[self.stage.kind]
        return [example(world, self.tokenizer, rng, self.row_len + 1) for _ in range(count)]

    def _render_conversations(self, conversations: Sequence[Mapping[str, Any]]) -> list[Rendered]:
        rendered = render_all(conversations, self.tokenizer, row_len=self.row_len, max_doc_tokens=self.max_doc_tokens)
        # an answer whose document fell out of the budget would teach answering without evidence
        kept = [item for item in rendered if item.lost_citations == 0 and len(item.ids) <= self.row_len + 1]
        self.num_lost += len(rendered) - len(kept)
        return kept

    def _pack(self, rendered: Sequence[Rendered]) -> Batch:
        return pack(rendered, row_len=self.row_len, context_weight=self.context_weight)


@torch.no_grad()
def answer_accuracy(model: nn.Module, rendered: Sequence[Rendered], row_len: int, *, by_token: bool = False) -> float:
    """Share of supervised spans (runs of supervised tokens) that the model would write token for token.

    Teacher forcing decides this exactly for greedy decoding: a span is right when each of its tokens is the likeliest.
    `by_token` counts tokens instead of spans.
    """
    batch = pack(rendered, row_len=row_len, context_weight=0.0).to(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    right: list[torch.Tensor] = []
    for start in range(0, len(batch.ids), 8):
        rows = slice(start, start + 8)
        guess = model(batch.ids[rows], seq_idx=batch.seq_idx[rows]).argmax(-1)
        right.append((guess == batch.targets[rows]).cpu())
    model.train(was_training)
    is_right, targets = torch.cat(right).flatten(), batch.targets.cpu().flatten()
    supervised = targets >= 0
    if not supervised.any():
        return 0.0
    if by_token:
        return is_right[supervised].float().mean().item()
    starts = supervised & ~torch.cat([torch.tensor([False]), supervised[:-1]])
    span = (torch.cumsum(starts, 0) - 1)[supervised]
    wrong = torch.zeros(int(starts.sum())).index_add(0, span, (~is_right[supervised]).float())
    return (wrong == 0).float().mean().item()
