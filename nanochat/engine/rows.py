"""One row of a session: what it has seen, and where its chance comes from."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from nanochat.model.cache import Mark


class TokenRule(Protocol):
    """Which ids may be sampled next; rows are numbers of the session's rows."""

    def allowed(self, rows: Sequence[int]) -> Tensor: ...  # (len(rows), V) bool, on the model's device
    def advance(self, rows: Sequence[int], ids: Tensor) -> None: ...  # ids (len(rows),)


@dataclass
class Row:
    """What one row has seen: ids, and for each id whether the policy sampled it and how likely it found it."""

    random: random.Random
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)  # 1 sampled (stop token included), 0 given
    logprobs: list[float] = field(default_factory=list)  # of sampled ids under the model itself; 0.0 where given
    num_fed: int = 0  # leading ids the model has read; the last sampled one is read when something follows it
    version: int | None = None  # of the prefix cache when this row began; None without one

    def append(self, id: int, logprob: float) -> None:
        self.ids.append(id)
        self.mask.append(1)
        self.logprobs.append(logprob)


@dataclass(eq=False)
class SessionMark:
    """A place that rows can go back to."""

    state: Mark
    rows: dict[int, dict[str, Any]]  # what each row was; ids only those the model had not read yet


def row_random(seed: int, number: int) -> random.Random:
    """The chance of row `number`."""
    # a string seed is hashed by SHA-512: neighbouring rows are unrelated
    return random.Random(f"{seed}:{number}")
