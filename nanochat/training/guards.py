"""Guards of a run: steps that are out of line are cut or skipped and counted; a run that has diverged is stopped."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nanochat.errors import UserError

WINDOW = 64  # applied steps of one kind that are remembered
RECENT = 16  # of those, the last ones tell the usual loss
LEAST = 24  # steps seen before the guards judge
LEAST_SIGMA = 0.05  # nats; losses closer together than this are not told apart
LEAST_SHARE = 0.05  # the same, as a share of the usual loss
SKIPPED_SPIKES = 3  # that many loss spikes in a row are skipped as bad batches; later ones are trained on
MAX_SPIKES_IN_A_ROW = 50
MAX_SKIPPED_IN_A_ROW = 20  # steps without a finite loss and gradient

_LOWER = "resume from the last checkpoint with lower rates: --resume true, and half of --matrix_lr and --embedding_lr"


@dataclass
class Counters:
    """What the guards did so far; part of every log record that differs from zero, and of the result."""

    num_skipped: int = 0  # steps whose loss or gradient was not finite: parameters left as they were
    num_norm_spikes: int = 0  # steps whose gradient was cut to norm_factor usual norms
    num_loss_spikes: int = 0  # steps with a loss far above the usual
    num_spikes_skipped: int = 0  # those of them whose update was left out
    skipped_in_a_row: int = 0
    spikes_in_a_row: int = 0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to do with a step."""

    is_applied: bool
    max_norm: float  # its gradient is cut to this length


class Guard:
    """Judges each step by its loss and gradient norm, against the last steps of the same kind.

    norm_factor: a gradient longer than so many running medians is cut to that length (Kumar et al. 2025, "ZClip",
    arXiv:2504.02507, with a median). loss_sigmas: a loss so many robust standard deviations above the recent median
    is a spike; the first three in a row are skipped as bad batches, then training goes on to give the model a chance to
    recover, and 50 in a row end the run. 0 switches either off. Steps of one kind (see Batch.kind) are compared with
    each other only, so that a mixture or the next stage of a curriculum is no spike.
    """

    def __init__(
        self, *, clip_norm: float = 1.0, norm_factor: float = 10.0, loss_sigmas: float = 10.0,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """`record` is what `record()` gave when the run was saved. clip_norm 0 leaves gradients uncut."""
        self.clip_norm = clip_norm or math.inf
        self.norm_factor, self.loss_sigmas = norm_factor, loss_sigmas
        record = record or {}
        self.counters = Counters(**record.get("counters", {}))
        # kind -> losses and norms of its last applied steps
        self._seen: dict[str, dict[str, list[float]]] = {
            # a record of an older version may hold a loss that is no number, against which nothing can be judged
            kind: {name: list(filter(math.isfinite, values)) for name, values in window.items()}
            for kind, window in record.get("seen", {}).items()
        }

    def record(self) -> dict[str, Any]:
        """Plain data for JSON; a guard built with it goes on exactly."""
        return {"counters": asdict(self.counters), "seen": self._seen}

    @property
    def is_calm(self) -> bool:
        """No spike in the last step: a checkpoint of now holds a model that works."""
        return self.counters.spikes_in_a_row == 0 and self.counters.skipped_in_a_row == 0

    def judge(self, step: int, kind: str, loss: float, norm: float) -> Verdict:
        """The verdict on step number `step` (from 0). Raises UserError when the run has diverged."""
        counters = self.counters
        if not (math.isfinite(norm) and math.isfinite(loss)):
            counters.num_skipped += 1
            counters.skipped_in_a_row += 1
            if counters.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise UserError(f"Training diverged: {MAX_SKIPPED_IN_A_ROW} losses or gradients in a row were not "
                                f"finite, up to step {step + 1}", hint=_LOWER)
            return Verdict(is_applied=False, max_norm=self.clip_norm)
        counters.skipped_in_a_row = 0
        window = self._seen.setdefault(kind, {"losses": [], "norms": []})
        if self._is_loss_spike(window["losses"], loss):
            self._count_spike(step, loss, window["losses"])
            if counters.spikes_in_a_row <= SKIPPED_SPIKES:
                counters.num_spikes_skipped += 1
                return Verdict(is_applied=False, max_norm=self.clip_norm)
        else:
            counters.spikes_in_a_row = 0
            _keep(window["losses"], loss)
        limit = self._longest(window["norms"])
        if norm > limit:
            counters.num_norm_spikes += 1
        _keep(window["norms"], min(norm, limit))
        return Verdict(is_applied=True, max_norm=min(self.clip_norm, limit))

    def _longest(self, norms: list[float]) -> float:
        if not self.norm_factor or len(norms) < LEAST:
            return math.inf
        return self.norm_factor * statistics.median(norms) or math.inf

    def _is_loss_spike(self, losses: list[float], loss: float) -> bool:
        if not self.loss_sigmas or len(losses) < LEAST:
            return False
        return loss > usual(losses) + self.loss_sigmas * spread(losses)

    def _count_spike(self, step: int, loss: float, losses: list[float]) -> None:
        counters = self.counters
        counters.num_loss_spikes += 1
        counters.spikes_in_a_row += 1
        if counters.spikes_in_a_row >= MAX_SPIKES_IN_A_ROW:
            raise UserError(
                f"Training diverged: the loss stayed far above the usual {usual(losses):.3f} for {MAX_SPIKES_IN_A_ROW} "
                f"steps in a row, {loss:.3f} at step {step + 1}",
                hint=f"{_LOWER}; if the data changed on purpose: --spike_loss 0",
            )


def usual(losses: list[float]) -> float:
    """The median of the last few."""
    return statistics.median(losses[-RECENT:])


def spread(losses: list[float]) -> float:
    """A standard deviation that neither outliers nor a falling curve move, with a floor: from the differences of
    neighbours, 1.4826 median absolute differences over the root of 2.
    """
    steps = [abs(one - other) for one, other in zip(losses, losses[1:], strict=False)]
    return max(1.4826 * statistics.median(steps) / math.sqrt(2), LEAST_SIGMA, LEAST_SHARE * abs(usual(losses)))


def _keep(values: list[float], value: float) -> None:
    values.append(value)
    del values[:-WINDOW]
