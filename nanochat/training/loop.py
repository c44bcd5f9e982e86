"""The one training loop: every stage gives it batches, a loss, an optimizer and what to do at checkpoints."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.common import rank
from nanochat.errors import UserError
from nanochat.training.distributed import any_rank, barrier, sum_gradients, sum_numbers, sum_over_ranks, sync_parameters
from nanochat.training.losses import Batch, LossFunction
from nanochat.training.metrics_log import print_metrics
from nanochat.training.optim import CombinedOptimizer

MAX_SKIPPED_IN_A_ROW = 20
SMOOTHING = 0.95  # share of the past in the printed loss

Schedule = Callable[[int], float]
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


@dataclass
class Progress:
    """Counters that a checkpoint keeps, so that a resumed run goes on counting."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # tokens read by all processes
    seconds: float = 0.0  # wall time of all parts of this run so far
    smoothed_loss: float = 0.0
    smoothed_weight: float = 0.0  # share of smoothed_loss that is data, not the start value 0
    num_skipped: int = 0  # steps whose gradient was not finite: parameters left as they were
    num_empty: int = 0  # steps without a supervised token

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def add_loss(self, loss: float) -> None:
        self.smoothed_loss = SMOOTHING * self.smoothed_loss + (1 - SMOOTHING) * loss
        self.smoothed_weight = SMOOTHING * self.smoothed_weight + (1 - SMOOTHING)

    @property
    def mean_loss(self) -> float:
        return self.smoothed_loss / self.smoothed_weight if self.smoothed_weight else math.nan


@dataclass
class _Step:
    """What one optimizer step did."""

    loss: float = math.nan  # over all processes; nan when nothing was supervised
    grad_norm: float = 0.0  # before clipping
    tokens: int = 0
    is_applied: bool = False
    is_empty: bool = False
    parts: Parts = field(default_factory=dict)


def fit(
    model: nn.Module,
    batches: Callable[[int, int], Batch],
    loss_fn: LossFunction,
    optimizer: CombinedOptimizer,
    *,
    num_steps: int,
    start_step: int = 0,
    grad_accum_steps: int = 1,
    schedule: Schedule = lambda step: 1.0,
    clip_norm: float = 1.0,
    evaluate: Callable[[int], Mapping[str, Any]] | None = None,
    eval_every: int = 0,
    save: Callable[[int, dict[str, Any]], None] | None = None,
    save_every: int = 0,
    log: Callable[[dict[str, Any]], None] | None = None,
    log_every: int = 20,
    stop: Callable[[int, Mapping[str, Any]], bool] | None = None,
    progress: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train from `start_step` to `num_steps` and return what happened: losses, metrics, counters.

    batches(step, micro) must depend on its arguments only: then resuming needs no reader state. `micro` counts the
    micro-batches of one optimizer step over all processes, 0 .. grad_accum_steps * world_size - 1, so two processes
    with one each compute the same step as one process with two.
    After n steps, save(n, progress) runs on rank 0 when n is a multiple of `save_every` and at the end, always before
    evaluate(n), which every rank runs at multiples of `eval_every` and at the end. stop(n, metrics) follows each
    evaluation; True ends training with a checkpoint. log(record) gets one record per `log_every` steps and one per
    evaluation; without it they are printed. `progress` is the record that save got, when resuming.
    Steps with a non-finite gradient are skipped and counted; 20 in a row raise UserError.
    """
    assert start_step <= num_steps, f"start_step {start_step} lies behind num_steps {num_steps}"
    device = next(model.parameters()).device
    emit = log or print_metrics
    state = Progress(**(progress or {}))
    assert progress is None or state.step == start_step, f"progress is at step {state.step}, not {start_step}"
    state.step = start_step
    sync_parameters(model)
    clock = _Clock(state, start_step, num_steps)
    losses: list[float] = []
    metrics: dict[str, Any] = {}
    stopped = False
    skipped_in_a_row = 0
    parts: Parts = {}
    model.train()
    while state.step < num_steps and not stopped:
        scale = schedule(state.step)
        optimizer.set_lr_scale(scale)
        done = _train_step(model, batches, loss_fn, optimizer, state.step, grad_accum_steps, clip_norm, device)
        skipped_in_a_row = _count(state, done, skipped_in_a_row)
        losses.append(done.loss)
        _add_parts(parts, done.parts)
        is_last = state.step == num_steps
        if is_last or _due(state.step, log_every):
            numbers = {"loss": state.mean_loss, **_part_means(parts), "lr_scale": scale, "grad_norm": done.grad_norm}
            emit({"step": state.step, "num_steps": num_steps, **numbers, **clock.read()})
            parts = {}
        is_saved = save is not None and (is_last or _due(state.step, save_every))
        if is_saved:
            _save(save, state, clock)
        if evaluate is not None and (is_last or _due(state.step, eval_every)):
            metrics = dict(clock.outside(evaluate, state.step))
            model.train()
            emit({"step": state.step, **metrics})
            stopped = stop is not None and any_rank(stop(state.step, metrics), device)
        if stopped and save is not None and not is_saved:
            _save(save, state, clock)
    clock.read()
    return {**state.record(), "stopped": stopped, "loss": state.mean_loss, "losses": losses, "metrics": metrics}


def _add_parts(totals: Parts, new: Parts) -> None:
    for kind, (loss, count) in new.items():
        old_loss, old_count = totals.get(kind, (0, 0))
        totals[kind] = (old_loss + loss, old_count + count)


def _part_means(parts: Parts) -> dict[str, float]:
    return {f"loss_{kind}": float(loss / count) for kind, (loss, count) in parts.items() if float(count) > 0}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _save(save: Callable[[int, dict[str, Any]], None], state: Progress, clock: "_Clock") -> None:
    clock.read()
    if rank() == 0:
        clock.outside(save, state.step, state.record())
    barrier()


def _count(state: Progress, done: _Step, skipped_in_a_row: int) -> int:
    """Add one step to the counters; returns how many steps in a row were skipped."""
    state.step += 1
    state.tokens += done.tokens
    state.num_empty += done.is_empty
    if done.is_applied:
        state.add_loss(done.loss)
        return 0
    if done.is_empty:
        return skipped_in_a_row
    state.num_skipped += 1
    if skipped_in_a_row + 1 >= MAX_SKIPPED_IN_A_ROW:
        raise UserError(
            f"Training diverged: {MAX_SKIPPED_IN_A_ROW} gradients in a row were not finite, up to step {state.step}",
            hint="resume from the last checkpoint with lower learning rates, e.g. half of --matrix_lr",
        )
    return skipped_in_a_row + 1


def _train_step(
    model: nn.Module,
    batches: Callable[[int, int], Batch],
    loss_fn: LossFunction,
    optimizer: CombinedOptimizer,
    step: int,
    grad_accum_steps: int,
    clip_norm: float,
    device: torch.device,
) -> _Step:
    """One optimizer step over all micro-batches of all processes."""
    first = rank() * grad_accum_steps
    micro_batches = [batches(step, first + index) for index in range(grad_accum_steps)]
    weight = sum(batch.weight() for batch in micro_batches)
    normaliser, tokens = sum_numbers([weight, sum(batch.num_tokens() for batch in micro_batches)], device)
    if normaliser == 0:
        return _Step(tokens=int(tokens), is_empty=True)
    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=device)
    parts: Parts = {}
    for batch in micro_batches:
        output = loss_fn(model, batch.to(device), normaliser)
        if output.loss.requires_grad:
            output.loss.backward()
        loss += output.loss.detach()
        _add_parts(parts, output.parts)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sum_gradients(parameters)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, clip_norm if clip_norm > 0 else math.inf))
    is_applied = math.isfinite(norm)
    if is_applied:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    total = float(sum_over_ranks(loss))
    return _Step(loss=total, grad_norm=norm, tokens=int(tokens), is_applied=is_applied, parts=parts)


class _Clock:
    """Wall time: totals for the checkpoint, speed of training alone, and an estimate of what remains."""

    def __init__(self, state: Progress, start_step: int, num_steps: int) -> None:
        self.state, self.start_step, self.num_steps = state, start_step, num_steps
        self.begin = self.last = time.perf_counter()
        self.read_seconds, self.read_tokens, self.outside_seconds = 0.0, state.tokens, 0.0
        self.speed = 0.0

    def outside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call evaluate or save without counting its time against the speed of training."""
        start = time.perf_counter()
        result = function(*arguments)
        self.outside_seconds += time.perf_counter() - start
        return result

    def read(self) -> dict[str, float]:
        now = time.perf_counter()
        self.state.seconds += now - self.last
        self.last = now
        training = now - self.begin - self.outside_seconds
        if self.state.tokens > self.read_tokens:
            self.speed = (self.state.tokens - self.read_tokens) / max(training - self.read_seconds, 1e-9)
            self.read_seconds, self.read_tokens = training, self.state.tokens
        steps = max(1, self.state.step - self.start_step)
        return {
            "tokens": self.state.tokens,
            "tokens_per_s": self.speed,
            "elapsed_s": self.state.seconds,
            "remaining_s": (now - self.begin) / steps * (self.num_steps - self.state.step),
        }
