"""Choosing the next token: greedy, or by temperature and top-k, for a batch of rows with one random number each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to sample; refuses values that cannot work with a ConfigError."""

    temperature: float = 1.0  # 0 means greedy
    top_k: int = 0  # most likely tokens kept; 0 keeps the whole vocabulary
    max_tokens: int = 256  # sampled tokens only; inserted documents are free

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}", hint="0 is greedy, 1 the model as it is")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}", hint="0 keeps all tokens, 50 the fifty likeliest")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}", hint="an answer needs tokens: max_tokens 128")


def choose(
    logits: Tensor, params: SamplingParams, uniforms: Sequence[float], *, allowed: Tensor | None = None
) -> Tensor:
    """One token id per row, (B,) long.

    logits (B, V) float32; uniforms: one number in [0, 1) per row, the row's only source of chance, so that a row's
    choice does not depend on its neighbours; allowed (B, V) bool, at least one True per row. Sampling inverts the
    cumulative distribution in float64. Equal logits: greedy takes the lowest id.
    """
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    if params.temperature == 0:
        return logits.argmax(dim=-1)
    kept = None
    if 0 < params.top_k < logits.shape[-1]:
        logits, kept = logits.topk(params.top_k, dim=-1)
    heights = torch.softmax(logits.double() / params.temperature, dim=-1).cumsum(dim=-1)
    drawn = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * heights[:, -1:]
    # right=True: the first height above the draw, so a token of probability zero is never taken
    picks = torch.searchsorted(heights, drawn, right=True).clamp(max=logits.shape[-1] - 1)
    return (picks if kept is None else kept.gather(-1, picks))[:, 0]


def logprobs_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability (B,) float32 of ids (B,) under the model itself: logits (B, V), temperature 1, nothing masked."""
    return torch.log_softmax(logits, dim=-1).gather(-1, ids[:, None])[:, 0]
