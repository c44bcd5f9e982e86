"""The likelihood guard: right episodes of earlier steps, whose likelihood may not fall below what it was.

On a fresh batch and one update the likelihood is what it was, so the guard needs episodes from before: a falling
likelihood of right episodes is the earliest sign of a policy that collapses (LLDS, 2025, arXiv:2512.04220).
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from nanochat.refrag.policy_batch import GUARD, Sequenced

Masks = Callable[[Sequence[int], Sequence[int]], Mapping[int, Tensor]]  # ids, mask -> what was allowed where


@dataclass(frozen=True)
class Kept:
    """A right episode, and its mean log-likelihood per chosen token when it was sampled."""

    ids: list[int]
    mask: list[int]
    likelihood: float


class LikelihoodGuard:
    """The last `size` right episodes. `record` and `restore` go through checkpoints."""

    def __init__(self, size: int = 256) -> None:
        self.size = size
        self.kept: list[Kept] = []

    def add(self, ids: Sequence[int], mask: Sequence[int], logprobs: Sequence[float]) -> None:
        """Keep a right episode; logprobs of its chosen tokens, in order."""
        if logprobs:
            self.kept.append(Kept(list(ids), list(mask), statistics.fmean(logprobs)))
            del self.kept[: -self.size]

    def draw(
        self, count: int, rng: random.Random, masks: Masks, *, weight: Callable[[int], float]
    ) -> list[Sequenced]:
        """Up to `count` of them as sequences of a batch, none twice. weight: of a token in a sequence of so many."""
        chosen = rng.sample(self.kept, min(count, len(self.kept)))
        return [Sequenced(ids=one.ids, masks=allowed, kind=GUARD, weight=weight(len(allowed)), floor=one.likelihood)
                for one, allowed in ((one, masks(one.ids, one.mask)) for one in chosen)]

    def record(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"kept": [asdict(one) for one in self.kept]}

    def restore(self, record: Mapping[str, Any]) -> None:
        self.kept = [Kept(**one) for one in record.get("kept", [])]
