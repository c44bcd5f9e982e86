"""Choosing the next token: each row has its own temperature, top-k, top-p and min-p, and one number as its chance."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from nanochat.errors import ConfigError

POOL = 1024  # likeliest ids that top-p looks at first; a flatter distribution is sorted whole


def is_whole(value: Any) -> bool:
    """Whether this is a whole number, of Python or of numpy; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def short(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to sample; refuses values that cannot work with a ConfigError.

    The filters follow each other as in transformers: temperature, top_k, top_p, min_p, each on what the one before has
    left. top_p: Holtzman et al. 2020, arXiv:1904.09751; min_p: Nguyen et al. 2024, arXiv:2407.01082.
    """

    temperature: float = 1.0  # 0 means greedy; what follows has no effect then
    top_k: int = 0  # most likely tokens kept; 0 keeps the whole vocabulary
    top_p: float = 1.0  # likeliest tokens kept until they hold this much probability, the one that reaches it included
    min_p: float = 0.0  # tokens kept that are at least this likely, as a share of the likeliest one's probability
    max_tokens: int = 256  # sampled tokens only; inserted documents are free
    seed: int = 0  # with a row's number the source of its chance; a session has a seed of its own
    stop_ids: tuple[int, ...] = ()  # ids that end a row, kept as its last; besides those the caller names

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool):
                raise ConfigError(f"{name} is {short(value)}, not a number", hint=f"for example {name}=0.5")
        for name in ("top_k", "max_tokens", "seed"):
            if not is_whole(value := getattr(self, name)):
                raise ConfigError(f"{name} is {short(value)}, not a whole number", hint=f"for example {name}=50")
        if isinstance(self.stop_ids, str) or not isinstance(self.stop_ids, Iterable):
            raise ConfigError(f"stop_ids are {short(self.stop_ids)}", hint="stop ids are token ids, 0 or above")
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}", hint="0 is greedy, 1 the model as it is")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}", hint="0 keeps all tokens, 50 the fifty likeliest")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}", hint="1 keeps all tokens, 0.9 the likeliest nine tenths")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p is {self.min_p}", hint="0 keeps all tokens, 0.1 those at least a tenth as likely")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}", hint="an answer needs tokens: max_tokens 128")
        if any(type(id) is not int or id < 0 for id in self.stop_ids):
            raise ConfigError(f"stop_ids are {self.stop_ids}", hint="stop ids are token ids, 0 or above")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def pool_size(self, num_ids: int) -> int:
        """How many of the likeliest ids the draw looks at; 0: all of them, in the order of the vocabulary."""
        if 0 < self.top_k < num_ids:
            return self.top_k
        if self.top_p < 1 or self.min_p > 0:
            return min(POOL, num_ids)
        return 0


def choose(
    logits: Tensor,
    params: SamplingParams | Sequence[SamplingParams],
    uniforms: Sequence[float],
    *,
    allowed: Tensor | None = None,
) -> Tensor:
    """One token id per row, (B,) long.

    logits (B, V) float32; params for all rows or one per row; uniforms: one number in [0, 1) per row, the row's only
    source of chance; allowed (B, V) or (1, V) bool, at least one True per row. A row's choice depends on nothing but
    its own logits, params, number and mask. Sampling inverts the cumulative distribution in float64. Equal logits:
    greedy takes the lowest id.
    """
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -math.inf)
    each = [params] * len(logits) if isinstance(params, SamplingParams) else params
    assert len(each) == len(uniforms) == len(logits), f"{len(logits)} rows, {len(each)} params, {len(uniforms)} numbers"
    ways: dict[int, list[int]] = {}  # pool size, -1 for greedy -> rows
    for row, one in enumerate(each):
        ways.setdefault(-1 if one.is_greedy else one.pool_size(logits.shape[-1]), []).append(row)
    if len(ways) <= 1:
        return _choose_alike(logits, each, uniforms, *ways)
    ids = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for way, rows in ways.items():
        ids[rows] = _choose_alike(logits[rows], [each[row] for row in rows], [uniforms[row] for row in rows], way)
    return ids


def logprobs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability (B,) float32 of ids (B,) under the model itself: logits (B, V), temperature 1, nothing masked."""
    return torch.log_softmax(logits, dim=-1).gather(-1, ids[:, None])[:, 0]


def drawn_logprobs(
    logits: Tensor, params: Sequence[SamplingParams], ids: Tensor, *, allowed: Tensor | None = None
) -> list[float]:
    """Log-probability of ids (B,) under what they were drawn from: the allowed ones, at the row's temperature.

    Greedy rows count at temperature 1; top_k, top_p and min_p are not looked at.
    """
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -math.inf)
    heat = torch.tensor([one.temperature or 1.0 for one in params], dtype=logits.dtype, device=logits.device)[:, None]
    return logprobs_of(logits / heat, ids).tolist()


def _choose_alike(
    logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], pool: int = -1
) -> Tensor:
    """choose() for rows of one way."""
    if pool < 0:
        return logits.argmax(dim=-1)
    heat = torch.tensor([one.temperature for one in params], dtype=torch.float64, device=logits.device)[:, None]
    numbers = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None]
    if not pool:
        # subtracting the largest keeps the division finite at any temperature
        scaled = (logits - logits.amax(dim=-1, keepdim=True)).double() / heat
        return _draw(torch.softmax(scaled, dim=-1), numbers)[:, 0]
    ids, flat = _choose_from_pool(logits, params, heat, numbers, pool)
    # too flat for the pool: the decision is the row's own, so company does not change it
    if pool < logits.shape[-1] and bool(flat.any()):
        rows = flat.nonzero()[:, 0].tolist()
        ids[rows], _ = _choose_from_pool(
            logits[rows], [params[row] for row in rows], heat[rows], numbers[rows], logits.shape[-1])
    return ids


def _choose_from_pool(
    logits: Tensor, params: Sequence[SamplingParams], heat: Tensor, numbers: Tensor, pool: int
) -> tuple[Tensor, Tensor]:
    """Ids (B,) drawn from the `pool` likeliest, and (B,) bool: rows that keep more than these."""
    top, kept = logits.topk(pool, dim=-1)  # (B, pool), likeliest first
    scaled = (top - top[:, :1]).double() / heat
    weights = torch.exp(scaled)  # 1 for the likeliest
    # with top_k the filters see the pool alone, otherwise the whole vocabulary
    cut = torch.tensor([0 < one.top_k <= pool for one in params], device=logits.device)[:, None]
    whole = weights.sum(dim=-1, keepdim=True)
    if not bool(cut.all()):
        everything = torch.exp((logits - top[:, :1]).double() / heat).sum(dim=-1, keepdim=True)
        whole = torch.where(cut, whole, everything)
    limit = torch.tensor([one.top_p for one in params], dtype=torch.float64, device=logits.device)[:, None] * whole
    least = torch.tensor([one.min_p for one in params], dtype=torch.float64, device=logits.device)[:, None]
    heights = weights.cumsum(dim=-1)
    keep = (heights - weights < limit) & (weights >= least)
    keep[:, 0] = True
    flat = ~cut[:, 0] & keep[:, -1]
    return kept.gather(-1, _draw(weights * keep, numbers))[:, 0], flat


def _draw(weights: Tensor, numbers: Tensor) -> Tensor:
    """Places (B, 1) of the distribution weights (B, V) at numbers (B, 1) in [0, 1)."""
    heights = weights.cumsum(dim=-1)
    # right=True: the first height above the draw, so a token of probability zero is never taken
    places = torch.searchsorted(heights, numbers * heights[:, -1:], right=True)
    # rounding may put the draw at the last height itself: the last token with a probability is meant
    last = (heights < heights[:, -1:]).sum(dim=-1, keepdim=True)
    return torch.minimum(places, last)
