"""Where a run stands: counters that a checkpoint keeps, and the clock behind tokens/s, FLOP/s and time left."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

SMOOTHING = 0.95  # share of the past in the printed loss


@dataclass
class Progress:
    """Counters that a checkpoint keeps, so that a resumed run goes on counting."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # tokens read by all processes
    seconds: float = 0.0  # wall time of all parts of this run so far
    smoothed_loss: float = 0.0
    smoothed_weight: float = 0.0  # share of smoothed_loss that is data, not the start value 0
    num_skipped: int = 0  # steps whose loss or gradient was not finite, as in the guards' counters
    num_empty: int = 0  # steps without a supervised token
    guard: dict[str, Any] = field(default_factory=dict)  # what the guards remember, see Guard.record
    left_out: dict[str, int] = field(default_factory=dict)  # sums of Batch.counts over the steps done

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def add_loss(self, loss: float) -> None:
        self.smoothed_loss = SMOOTHING * self.smoothed_loss + (1 - SMOOTHING) * loss
        self.smoothed_weight = SMOOTHING * self.smoothed_weight + (1 - SMOOTHING)

    @property
    def mean_loss(self) -> float:
        return self.smoothed_loss / self.smoothed_weight if self.smoothed_weight else math.nan


class Clock:
    """Wall time: totals for the checkpoint, speed of training alone, and an estimate of what remains."""

    def __init__(
        self, state: Progress, num_steps: int, *, flops_per_token: float = 0.0, peak_flops: float = 0.0
    ) -> None:
        """flops_per_token: forward and backward; peak_flops: what all processes' devices could do in a second."""
        self.state, self.start_step, self.num_steps = state, state.step, num_steps
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.begin = self.last = time.perf_counter()
        self.read_seconds, self.read_tokens, self.outside_seconds = 0.0, state.tokens, 0.0
        self.data_seconds = 0.0  # of training, waiting for batches
        self.speed = 0.0

    def outside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call evaluate or save without counting its time against the speed of training."""
        start = time.perf_counter()
        result = function(*arguments)
        self.outside_seconds += time.perf_counter() - start
        return result

    def waiting(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what gives batches; its time is not the model's."""
        start = time.perf_counter()
        result = function(*arguments)
        self.data_seconds += time.perf_counter() - start
        return result

    @property
    def model_share(self) -> float:
        """Share of the time of training (without evaluations and checkpoints) that was not spent waiting for batches.
        """
        training = time.perf_counter() - self.begin - self.outside_seconds
        return 1 - self.data_seconds / max(training, 1e-9)

    def read(self) -> dict[str, float]:
        """tokens, tokens_per_s (and flops_per_s and mfu, the share of the peak, where known), elapsed_s, remaining_s,
        model_share since the start.
        """
        now = time.perf_counter()
        self.state.seconds += now - self.last
        self.last = now
        training = now - self.begin - self.outside_seconds
        if self.state.tokens > self.read_tokens:
            self.speed = (self.state.tokens - self.read_tokens) / max(training - self.read_seconds, 1e-9)
            self.read_seconds, self.read_tokens = training, self.state.tokens
        steps = max(1, self.state.step - self.start_step)
        times = {"tokens": self.state.tokens, "tokens_per_s": self.speed}
        if self.flops_per_token:
            times["flops_per_s"] = self.speed * self.flops_per_token
            if self.peak_flops:
                times["mfu"] = times["flops_per_s"] / self.peak_flops
        return times | {
            "elapsed_s": self.state.seconds,
            "remaining_s": (now - self.begin) / steps * (self.num_steps - self.state.step),
            "model_share": self.model_share,
        }
