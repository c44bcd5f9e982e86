"""What all layers of one forward share: places of the new tokens, and which positions each may see."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.model.cache import Cache


@dataclass(frozen=True)
class Step:
    """Computed once per forward and handed to every layer."""

    positions: Tensor  # (B, T) long, place of each new token in its own sequence
    lengths: Tensor | None = None  # (B,) long, tokens each row of the cache holds already; None without a cache
    total: int = 0  # S, keys and values to read: the longest row, its new tokens included
    mask: Tensor | None = None  # (B, 1, T, S) bool, True where seen; None: see is_causal
    is_causal: bool = True  # without a mask: new tokens see what stands before them; False: they see everything
    seq_idx: Tensor | None = None  # (B, T) long, segments of packed rows


def plan_step(batch: int, length: int, device: torch.device, cache: Cache | None, seq_idx: Tensor | None) -> Step:
    """The step that adds `length` tokens to each of `batch` rows; a mask is built only where shapes do not say it all.
    """
    index = torch.arange(length, device=device)
    if cache is None:
        if seq_idx is None:
            return Step(positions=index.expand(batch, length), total=length)
        is_start = torch.ones_like(seq_idx, dtype=torch.bool)
        is_start[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
        starts = torch.where(is_start, index, 0).cummax(dim=1).values
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        mask = (causal & (seq_idx[:, :, None] == seq_idx[:, None, :]))[:, None]
        return Step(positions=index - starts, total=length, mask=mask, seq_idx=seq_idx)
    lengths = cache.lengths.clone()
    shortest, longest = int(lengths.min()), int(lengths.max())
    positions = lengths[:, None] + index
    total = longest + length
    if longest == 0 or (length == 1 and shortest == longest):
        return Step(positions=positions, lengths=lengths, total=total, is_causal=longest == 0)
    mask = (torch.arange(total, device=device) <= positions[..., None])[:, None]
    return Step(positions=positions, lengths=lengths, total=total, mask=mask)
