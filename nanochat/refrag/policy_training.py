"""Reinforcement learning in the shape of the one training loop: batches that roll out, a loss, and what follows a step.
"""

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from nanochat.chat_format import render
from nanochat.common import rank
from nanochat.engine import Engine
from nanochat.engine.hops import walk_masks
from nanochat.model import LanguageModel
from nanochat.refrag.advantages import Critic, is_even, piece_advantages
from nanochat.refrag.audit import OUTCOMES, Tally, leaked_places, tally_groups
from nanochat.refrag.control import Control
from nanochat.refrag.episode_log import EpisodeLog
from nanochat.refrag.likelihood_guard import LikelihoodGuard
from nanochat.refrag.pieces import pieces_of
from nanochat.refrag.policy_batch import GOLD, GUARD, POLICY, PolicyBatch, Sequenced, make_batches
from nanochat.refrag.policy_loss import chosen_logprobs, policy_loss
from nanochat.refrag.policy_settings import MAX_UPDATES_KL, PolicySettings
from nanochat.refrag.rewards import is_right
from nanochat.refrag.rollout import Group, roll_out
from nanochat.refrag.sources import QuestionSource
from nanochat.refrag.trace import Trace
from nanochat.training.distributed import any_rank, mean_over_ranks
from nanochat.training.losses import LossFunction

LEAST_LIVE = 0.25  # share of questions with different rewards below which more are asked
MOST_ROUNDS = 3  # of asking, in one step
GUARD_PER_STEP = 8  # right episodes that the guard takes in at a step
LOSS_NUMBERS = ("logprob_gap", "entropy_decision", "entropy_text", "likelihood_fall", "leaked_tokens", "policy_tokens")


@dataclass
class _Step:
    """What one rollout led to."""

    groups: list[Group]
    sequences: list[Sequenced]
    traces: list[Trace | None]  # of each sequence; None for gold and guard
    batches: list[PolicyBatch]
    uses_left: int
    used: int = 0


class PolicyTraining:
    """Learns from rewards: `batches` and `loss` are for `training.fit`, `after_update` is to follow every step.

    The engine samples with the model that is trained; `frozen` is the supervised model that the policy stays near, or
    None. `control` acts on alarms. `record` and `restore` go through checkpoints, so that a resumed run goes on with
    the same episodes.
    """

    def __init__(
        self, engine: Engine, source: QuestionSource, settings: PolicySettings, control: Control, *,
        frozen: LanguageModel | None = None, log: EpisodeLog | None = None,
        context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext, gap_limit: float = 0.01,
    ) -> None:
        """gap_limit: nats by which sampling and training may differ about a token, on average: more than rounding in
        float32; products in bfloat16 are less exact. `context` is what forwards run in, such as autocast.
        """
        self.engine, self.source, self.settings, self.control = engine, source, settings, control
        self.frozen, self.log, self.context = frozen, log, context
        self.gap_limit = gap_limit
        self.model, self.tokenizer = engine.model, engine.tokenizer
        self.guard, self.critic = LikelihoodGuard(), Critic()
        self.loss: LossFunction = partial(policy_loss, settings=control.loss)
        self._now: _Step | None = None
        self._drift = 0.0

    def record(self) -> dict[str, Any]:
        """What a checkpoint must keep. Episodes are not kept: the next step begins with new ones, here as in a run that
        is resumed.
        """
        self.forget_episodes()
        return {"guard": self.guard.record(), "critic": self.critic.record(), "control": self.control.record()}

    def restore(self, record: Mapping[str, Any]) -> None:
        self.restore_memory(record)
        self.control.restore(record.get("control", {}))

    def restore_memory(self, record: Mapping[str, Any]) -> None:
        """Of what `record` gave, what is remembered of episodes; alarms go on as they are."""
        self.guard.restore(record.get("guard", {}))
        self.critic.restore(record.get("critic", {}))

    def forget_episodes(self) -> None:
        """Use the episodes of now in no other step, as where the weights are no more those that they came from."""
        if self._now is not None:
            self._now.uses_left = 0

    def batches(self, step: int, micro: int) -> PolicyBatch:
        """A micro-batch of the step: episodes that the policy of now wrote, or those of the last step once more."""
        own = micro - rank() * self.settings.num_batches
        if own == 0:
            self._begin(step)
        assert self._now is not None, "micro-batches of a step come in order"
        return self._now.batches[own]

    def after_update(self, step: int, record: Mapping[str, Any]) -> dict[str, float]:
        """Look at what step number `step` (from 1) did, act on alarms; numbers for the log. `record` is that of fit."""
        assert self._now is not None, "no step was made"
        now, tally = self._now, Tally()
        found = self._found(now)
        if now.used == 1:
            # each rollout once: its later updates are no new evidence
            tally_groups(now.groups, tally)
            self._compare(now, found, tally)
            self._keep(step, now, found)
        self._drift = abs(record.get("loss_drift", 0.0))
        numbers = tally.means((*OUTCOMES, *LOSS_NUMBERS), self.model.device)
        numbers |= {"kl": mean_over_ranks(record.get("loss_kl", 0.0), self.model.device),
                    "grad_norm": record.get("grad_norm") or math.nan, "logprob_limit": self.gap_limit}
        if self.log is not None and now.used == 1:
            self.log.write(step, now.groups, now.sequences, now.traces, found, self.settings.log_episodes)
        self.control.update(step, numbers)
        return numbers | {"rate": self.control.rate, "kl_weight": self.control.loss.kl}

    def _begin(self, step: int) -> None:
        wants_new = self._now is None or not self._now.uses_left or abs(self._drift) > MAX_UPDATES_KL
        if any_rank(wants_new, self.model.device):
            self._now = self._roll(step)
        assert self._now is not None
        self._now.uses_left -= 1
        self._now.used += 1

    def _roll(self, step: int) -> _Step:
        settings = self.settings
        groups: list[Group] = []
        sequences: list[Sequenced] = []
        traces: list[Trace | None] = []
        rng = random.Random(f"gold:{settings.seed}:{step}:{rank()}")
        for turn in range(MOST_ROUNDS):
            key = f"{settings.seed}:{step}:{rank()}:{turn}"
            drawn = self.source.draw(key, settings.questions_per_step)
            with self._sampling():
                new = roll_out(
                    self.engine, drawn.questions, drawn.search, settings.hops, group_size=settings.group_size,
                    rewards=replace(settings.rewards, evidence_scale=settings.evidence_scale(step)),
                    temperature=settings.temperature, max_tokens=settings.max_answer_tokens,
                    seed=random.Random(key).getrandbits(31))
            groups += new
            if step < settings.gold_steps:
                gold = [self._gold(drawn.gold(group.question, rng)) for group in new]
                sequences += [one for one in gold if one is not None]
            live = sum(not is_even(rewards) for group in groups if len(rewards := group.whole_rewards) > 1)
            if not settings.how.compares or live >= LEAST_LIVE * len(groups):
                break
        traces = [None] * len(sequences)
        mine, whose = self._policy_sequences(groups)
        guarded = self.guard.draw(settings.guarded, rng, self._masks, weight=self._token_weight)
        sequences, traces = sequences + mine + guarded, traces + whose + [None] * len(guarded)
        batches = make_batches(sequences, settings.num_batches, num_ids=self.model.config.vocab_size,
                               normaliser=self._normaliser(mine) or self._normaliser(self._whole(groups)))
        batches = [self._scored(batch) for batch in batches]
        return _Step(groups, sequences, traces, batches, settings.updates_per_rollout)

    @contextlib.contextmanager
    def _sampling(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        try:
            with self.context():
                yield
        finally:
            self.model.train(was_training)

    def _masks(self, ids: Sequence[int], mask: Sequence[int]) -> dict[int, torch.Tensor]:
        return dict(walk_masks(self.engine, ids, mask, self.settings.hops))

    def _gold(self, conversation: Mapping[str, Any] | None) -> Sequenced | None:
        """An episode as it should be, as a sequence of the batch; None where nobody knows one, or it has no room."""
        if conversation is None:
            return None
        rendered = render(conversation, self.tokenizer, max_tokens=self.model.config.sequence_len)
        masks = self._masks(rendered.ids, rendered.mask)
        is_possible = all(bool(allowed[rendered.ids[place]]) for place, allowed in masks.items())
        if rendered.lost_citations or len(rendered.ids) > self.model.config.sequence_len or not is_possible:
            return None
        weight = self.settings.gold_weight * self._token_weight(len(masks))
        return Sequenced(ids=rendered.ids, masks=masks, kind=GOLD, weight=weight)

    def _policy_sequences(self, groups: Sequence[Group]) -> tuple[list[Sequenced], list[Trace]]:
        """The episodes that something is learned from, whole ones of groups that tell something."""
        how = self.settings.how
        whole = [[(trace, reward) for trace, reward in zip(group.traces, group.rewards, strict=True)
                  if not trace.is_truncated] for group in groups]
        whole = [members for members in whole if len(members) >= (2 if how.compares else 1)]
        walked = [[self._masks(trace.token_ids, trace.mask) for trace, _ in members] for members in whole]
        pieces = [[pieces_of(masks) for (trace, _), masks in zip(*pair, strict=True)]
                  for pair in zip(whole, walked, strict=True)]
        advantages = piece_advantages(
            how, [[reward for _, reward in members] for members in whole],
            [[max(piece.values(), default=-1) + 1 for piece in group] for group in pieces], self.critic)
        sequences, traces = [], []
        for members, masks, piece, values in zip(whole, walked, pieces, advantages, strict=True):
            if how.compares and is_even([reward for _, reward in members]):
                continue
            for (trace, _), mask, piece_of, value in zip(members, masks, piece, values, strict=True):
                if not mask:
                    continue
                sequences.append(Sequenced(
                    ids=trace.token_ids, masks=mask, kind=POLICY, weight=self._token_weight(len(mask)),
                    advantages={place: value[number] for place, number in piece_of.items()}))
                traces.append(trace)
        return sequences, traces

    def _whole(self, groups: Sequence[Group]) -> list[Sequenced]:
        """All whole episodes, which gold and guarded ones are weighed against where none of them teaches anything."""
        return [Sequenced(ids=trace.token_ids, masks=self._masks(trace.token_ids, trace.mask), kind=POLICY, weight=0.0)
                for group in groups for trace in group.traces if not trace.is_truncated]

    def _token_weight(self, num_tokens: int) -> float:
        weighting = self.settings.how.weighting
        if weighting == "token":
            return 1.0
        return 1 / (num_tokens if weighting == "sequence" else self.settings.most_tokens)

    def _normaliser(self, sequences: Sequence[Sequenced]) -> float:
        """What the step's loss is divided by: policy tokens, or policy sequences."""
        return float(sum(len(item.masks) for item in sequences) if self.settings.how.weighting == "token"
                     else len(sequences))

    @torch.no_grad()
    def _scored(self, batch: PolicyBatch) -> PolicyBatch:
        """With the log-probabilities of the frozen model, and where it is used again those of the policy of now."""
        here = batch.to(self.model.device)
        for name, model in (("reference", self.frozen if self.control.loss.kl else None),
                            ("old", self.model if self.settings.updates_per_rollout > 1 else None)):
            if model is not None:
                with self.context():
                    logprobs, _, where = chosen_logprobs(model, here, temperature=self.settings.temperature)
                getattr(batch, name)[tuple(part.cpu() for part in where)] = logprobs.cpu().clamp_min(-1e4)
        return batch

    def _found(self, now: _Step) -> list[tuple[list[float], list[float]]]:
        """Log-probabilities and entropies at the chosen places of each sequence, in order."""
        found: list[tuple[list[float], list[float]]] = [([], []) for _ in now.sequences]
        for batch in now.batches:
            where = (batch.targets >= 0).nonzero(as_tuple=True)
            if "logprobs" not in batch.found:
                continue
            for number, logprob, entropy in zip(batch.numbers[where].tolist(), batch.found["logprobs"].tolist(),
                                                batch.found["entropies"].tolist(), strict=True):
                found[number][0].append(logprob)
                found[number][1].append(entropy)
        return found

    def _compare(self, now: _Step, found: Sequence[tuple[list[float], list[float]]], tally: Tally) -> None:
        """What was trained with what was sampled."""
        decisions = {self.tokenizer.special(name) for name in ("query_start", "assistant_start")}
        for item, trace, (logprobs, entropies) in zip(now.sequences, now.traces, found, strict=True):
            tally.add("leaked_tokens", len(leaked_places(item.ids, item.masks, self.tokenizer))
                      + sum(value < -1e3 for value in logprobs), 0.0 if tally.counts.get("leaked_tokens") else 1.0)
            if not logprobs:
                continue
            if item.kind == GUARD:
                tally.add("likelihood_fall", item.floor - sum(logprobs) / len(logprobs))
            if item.kind != POLICY or trace is None:
                continue
            tally.add("policy_tokens", float(len(logprobs)))
            for place, logprob, entropy in zip(sorted(item.masks), logprobs, entropies, strict=True):
                tally.add("logprob_gap", abs(logprob - trace.logprobs[place]))
                is_decision = item.ids[place] in decisions
                tally.add("entropy_decision" if is_decision else "entropy_text", entropy)

    def _keep(self, step: int, now: _Step, found: Sequence[tuple[list[float], list[float]]]) -> None:
        """Right episodes for the guard."""
        right = {id(trace) for group in now.groups for trace in group.traces if is_right(trace, group.reference)}
        chosen = [(trace, logprobs) for trace, (logprobs, _) in zip(now.traces, found, strict=True)
                  if trace is not None and id(trace) in right]
        # any of them: the first ones are those of the first questions
        chosen = random.Random(f"guard:{self.settings.seed}:{step}").sample(chosen, min(GUARD_PER_STEP, len(chosen)))
        for trace, logprobs in chosen:
            self.guard.add(trace.token_ids, trace.mask, logprobs)
