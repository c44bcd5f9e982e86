"""The one training loop: every stage gives it batches, a loss, an optimizer and what to do at checkpoints."""

import contextlib
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.common import rank, return_memory
from nanochat.training.distributed import any_rank, barrier, sum_gradients, sum_numbers, sum_over_ranks, sync_parameters
from nanochat.training.guards import MAX_SKIPPED_IN_A_ROW, Guard
from nanochat.training.losses import Batch, LossFunction
from nanochat.training.metrics_log import print_metrics
from nanochat.training.optim import CombinedOptimizer
from nanochat.training.progress import Clock, Progress
from nanochat.training.sharding import gradient_scale, take_part, whole

__all__ = ["MAX_SKIPPED_IN_A_ROW", "FitSettings", "Progress", "Schedule", "fit", "warmup_stable_decay"]

Batches = Callable[[int, int], Batch]  # step, micro -> micro-batch
Schedule = Callable[[int], float]
RETURN_STEPS = 20  # freed memory goes back to the system after so many; each costs some hundredths of a step
Parts = dict[str, tuple[Tensor, Tensor]]  # kind of token -> (sum of losses, number of tokens)


def warmup_stable_decay(num_steps: int, warmup: int, decay_frac: float, final: float = 0.0) -> Schedule:
    """Learning-rate scale by step: linear up over `warmup` steps, 1, linear down to `final` over the last share.

    Steps 0 .. num_steps - 1; the first step is already above 0. Hu et al. 2024, "MiniCPM", arXiv:2404.06395.
    """
    decay = round(num_steps * decay_frac)

    def scale(step: int) -> float:
        up = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
        down = min(1.0, max(0.0, (num_steps - step) / (decay + 1))) if decay > 0 else 1.0
        return min(up, final + (1.0 - final) * down)

    return scale


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of `fit`."""

    num_steps: int  # optimizer steps of the whole run
    start_step: int = 0  # steps done before, when resuming
    grad_accum_steps: int = 1  # micro-batches per step and process
    seed: int = 0  # of torch's random numbers in the loss; drawn anew for each micro-batch
    schedule: Schedule = lambda step: 1.0
    clip_norm: float = 1.0  # longest gradient; 0 sets no limit
    norm_factor: float = 10.0  # guards, see Guard; 0 switches them off
    loss_sigmas: float = 10.0
    evaluate: Callable[[int], Mapping[str, Any]] | None = None  # step -> metrics, on every rank
    eval_every: int = 0  # steps between evaluations; one more follows the last step
    save: Callable[[int, dict[str, Any]], None] | None = None  # step, progress; called on every rank
    save_every: int = 0  # steps between checkpoints; one more follows the last step
    log: Callable[[dict[str, Any]], None] | None = None  # gets a record; without it records are printed
    log_every: int = 20
    stop: Callable[[int, Mapping[str, Any]], bool] | None = None  # step, metrics -> whether training ends
    is_interrupted: Callable[[], bool] = lambda: False  # whether training shall end after the running step
    progress: Mapping[str, Any] | None = None  # the record that save got, when resuming
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext  # around each forward: autocast
    flops_per_token: float = 0.0  # forward and backward; 0 leaves FLOP/s out of the log
    peak_flops: float = 0.0  # of all devices together; 0 leaves MFU out


def fit(
    model: nn.Module, batches: Batches, loss_fn: LossFunction, optimizer: CombinedOptimizer, **settings: Any
) -> dict[str, Any]:
    """Train from `start_step` to `num_steps` and return what happened: losses, metrics, counters.

    `settings` are those of `FitSettings`. batches(step, micro) must depend on its arguments only: then resuming needs
    no reader state. `micro` counts the micro-batches of one optimizer step over all processes, 0 .. grad_accum_steps *
    world_size - 1, so two processes with one each compute the same step as one process with two. Torch's random
    numbers are seeded for each micro-batch by seed, step and micro, so they need no state either.

    After n steps, save(n, progress) runs when n is a multiple of `save_every` and at the end, always before
    evaluate(n), which runs at multiples of `eval_every` and at the end. In the middle of a spike the checkpoint waits
    for the first calm step. stop(n, metrics) follows each evaluation; True ends training with a checkpoint, and so does
    is_interrupted() on any rank, without an evaluation; the result then has "interrupted". log(record) gets one record
    per `log_every` steps and one per evaluation. Raises UserError when the run diverges, see `Guard`.
    """
    return _Loop(model, batches, loss_fn, optimizer, FitSettings(**settings)).run()


@dataclass
class _Step:
    """What one optimizer step did."""

    loss: float = math.nan  # over all processes; nan when nothing was supervised
    grad_norm: float = 0.0  # before clipping
    tokens: int = 0
    is_applied: bool = False
    is_empty: bool = False
    is_last: bool = False  # some process was told to end
    parts: Parts = field(default_factory=dict)


class _Loop:
    """One run of `fit`."""

    def __init__(
        self, model: nn.Module, batches: Batches, loss_fn: LossFunction, optimizer: CombinedOptimizer,
        settings: FitSettings,
    ) -> None:
        self.model, self.batches, self.loss_fn, self.optimizer, self.settings = (
            model, batches, loss_fn, optimizer, settings)
        start, end = settings.start_step, settings.num_steps
        assert start <= end, f"start_step {start} lies behind num_steps {end}"
        self.device = next(model.parameters()).device
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.scale = gradient_scale(model)
        self.emit = settings.log or print_metrics
        self.state = Progress(**(settings.progress or {}))
        assert settings.progress is None or self.state.step == start, f"progress is at {self.state.step}, not {start}"
        self.state.step = start
        self.guard = Guard(clip_norm=settings.clip_norm, norm_factor=settings.norm_factor,
                           loss_sigmas=settings.loss_sigmas, record=self.state.guard)
        self.clock = Clock(self.state, end, flops_per_token=settings.flops_per_token, peak_flops=settings.peak_flops)
        self.losses: list[float] = []
        self.metrics: dict[str, Any] = {}
        self.parts: Parts = {}
        self.saved_at = start

    def run(self) -> dict[str, Any]:
        """All steps, and what follows each of them."""
        settings, state = self.settings, self.state
        sync_parameters(self.model)
        self.model.train()
        is_stopped = is_interrupted = False
        save_is_due = False
        while state.step < settings.num_steps and not (is_stopped or is_interrupted):
            scale = settings.schedule(state.step)
            self.optimizer.set_lr_scale(scale)
            done = self._step(state.step)
            self._count(done)
            is_last, is_interrupted = state.step == settings.num_steps, done.is_last
            if is_last or _due(state.step, settings.log_every):
                self._log(scale, done)
            if self.device.type == "cpu" and _due(state.step, RETURN_STEPS):
                return_memory()
            save_is_due = save_is_due or _due(state.step, settings.save_every)
            if is_last or is_interrupted or (save_is_due and self.guard.is_calm):
                self._save()
                save_is_due = False
            if not is_interrupted and (is_last or _due(state.step, settings.eval_every)):
                is_stopped = self._evaluate()
        if is_stopped:
            self._save()
        self.clock.read()
        return {**self._record(), **asdict(self.guard.counters), "stopped": is_stopped, "interrupted": is_interrupted,
                "loss": state.mean_loss, "losses": self.losses, "metrics": self.metrics,
                "model_share": self.clock.model_share}

    def _step(self, step: int) -> _Step:
        """One optimizer step over all micro-batches of all processes."""
        settings = self.settings
        first = rank() * settings.grad_accum_steps
        micro_batches = [self.clock.waiting(self.batches, step, first + index)
                         for index in range(settings.grad_accum_steps)]
        left_out = sorted({name for batch in micro_batches for name in batch.counts})
        counts = [sum(batch.weight() for batch in micro_batches), sum(batch.num_tokens() for batch in micro_batches),
                  *(sum(batch.counts[name] for batch in micro_batches) for name in left_out)]
        normaliser, tokens, *sums = sum_numbers(counts, self.device)
        for name, number in zip(left_out, sums, strict=True):
            self.state.left_out[name] = self.state.left_out.get(name, 0) + int(number)
        if normaliser == 0:
            return _Step(tokens=int(tokens), is_empty=True, is_last=any_rank(settings.is_interrupted(), self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        parts: Parts = {}
        for micro, batch in enumerate(micro_batches, first):
            torch.manual_seed(random.Random(f"{settings.seed}:{step}:{micro}").getrandbits(63))
            with settings.context():
                output = self.loss_fn(self.model, batch.to(self.device), normaliser)
            if output.loss.requires_grad:
                (output.loss * self.scale).backward()
            elif self.scale != 1:
                take_part(self.model).backward()
            loss += output.loss.detach()
            _add_parts(parts, output.parts)
        sum_gradients(self.parameters)
        wish = torch.tensor(float(settings.is_interrupted()), device=self.device)
        total, wishes = sum_over_ranks(torch.stack([loss, wish])).tolist()
        norm, is_applied = self._apply(step, micro_batches[0].kind, total)
        self.optimizer.zero_grad(set_to_none=True)
        return _Step(loss=total, grad_norm=norm, tokens=int(tokens), is_applied=is_applied, is_last=wishes > 0,
                     parts=parts)

    def _apply(self, step: int, kind: str, loss: float) -> tuple[float, bool]:
        """Update the parameters if the guards allow it; the gradient's norm before clipping, and whether."""
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        total = torch.nn.utils.get_total_norm(grads)
        norm = float(whole(total))
        verdict = self.guard.judge(step, kind, loss, norm)
        if verdict.is_applied:
            if math.isfinite(verdict.max_norm):
                torch.nn.utils.clip_grads_with_norm_(self.parameters, verdict.max_norm, total)
            self.optimizer.step()
        return norm, verdict.is_applied

    def _count(self, done: _Step) -> None:
        self.state.step += 1
        self.state.tokens += done.tokens
        self.state.num_empty += done.is_empty
        self.state.num_skipped = self.guard.counters.num_skipped
        if done.is_applied:
            self.state.add_loss(done.loss)
        self.losses.append(done.loss)
        _add_parts(self.parts, done.parts)

    def _log(self, scale: float, done: _Step) -> None:
        means = {f"loss_{kind}": float(loss / count) for kind, (loss, count) in self.parts.items() if float(count) > 0}
        self.parts = {}
        counted = {name: number for name, number in asdict(self.guard.counters).items()
                   if number and name.startswith("num_")}
        numbers = {"loss": self.state.mean_loss, **means, "lr_scale": scale, "grad_norm": done.grad_norm, **counted,
                   **{name: number for name, number in self.state.left_out.items() if number}}
        self.emit({"step": self.state.step, "num_steps": self.settings.num_steps, **numbers, **self.clock.read()})

    def _record(self) -> dict[str, Any]:
        self.state.guard = self.guard.record()
        return self.state.record()

    def _save(self) -> None:
        if self.settings.save is None or self.saved_at == self.state.step:
            return
        self.clock.read()
        self.clock.outside(self.settings.save, self.state.step, self._record())
        self.saved_at = self.state.step
        barrier()

    def _evaluate(self) -> bool:
        """Evaluate if there is something to; whether training ends."""
        settings, step = self.settings, self.state.step
        if settings.evaluate is None:
            return False
        self.metrics = dict(self.clock.outside(settings.evaluate, step))
        self.model.train()
        self.emit({"step": step, **self.metrics})
        return settings.stop is not None and any_rank(settings.stop(step, self.metrics), self.device)


def _add_parts(totals: Parts, new: Parts) -> None:
    for kind, (loss, count) in new.items():
        old_loss, old_count = totals.get(kind, (0, 0))
        totals[kind] = (old_loss + loss, old_count + count)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
