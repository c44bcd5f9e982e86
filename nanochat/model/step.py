"""What all layers of one forward share: places of the new tokens, and which positions each may see."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat.model.cache import Cache
from nanochat.model.states import LayerState

# packed rows from this length on see each other through a table of blocks on a GPU: a mask takes length squared
LENGTH_OF_BLOCKS = 2048


@dataclass(frozen=True)
class Step:
    """Computed once per forward and handed to every layer."""

    positions: Tensor  # (B, T) long, place of each new token in its own sequence
    lengths: Tensor | None = None  # (B,) long, tokens each row of the cache holds already; None without a cache
    total: int = 0  # S, keys and values to read: the longest row, its new tokens included
    mask: Tensor | None = None  # (B, 1, T, S) bool, True where seen; None: see is_causal
    is_causal: bool = True  # without a mask: new tokens see all before the first, and of the new ones those before them
    seq_idx: Tensor | None = None  # (B, T) long, segments of packed rows
    start: int | None = None  # tokens held already, where all rows hold equally many
    blocks: Any = None  # a BlockMask of flex_attention in place of the mask


class StaticCache:
    """Rows of a cache for one token each whose forward has the same shapes and addresses at any length.

    What a CUDA graph records. All `capacity` positions take part, those behind a row's length hidden by a mask that is
    computed on the device; a row without room writes its last position, over and over. Lengths are not counted up.
    """

    def __init__(self, lengths: Tensor, layers: list[LayerState], capacity: int) -> None:
        self.lengths, self.layers, self.capacity = lengths, layers, capacity

    def __len__(self) -> int:
        return self.lengths.shape[0]

    def advance(self, num_tokens: int) -> None:
        """Lengths belong to the cache that this is a part of."""

    def plan(self, length: int) -> Step:
        """The step that adds one token to each row."""
        assert length == 1, f"a static step reads one token, not {length}"
        lengths = self.lengths.clamp(max=self.capacity - 1)
        mask = torch.arange(self.capacity, device=lengths.device) <= lengths[:, None]
        return Step(positions=self.lengths[:, None], lengths=lengths, total=self.capacity, mask=mask[:, None, None])


def plan_step(
    batch: int, length: int, device: torch.device, cache: Cache | StaticCache | None, seq_idx: Tensor | None
) -> Step:
    """The step that adds `length` tokens to each of `batch` rows; a mask is built only where shapes do not say it all.

    Never waits for the device.
    """
    if isinstance(cache, StaticCache):
        return cache.plan(length)
    index = torch.arange(length, device=device)
    if cache is None:
        if seq_idx is None:
            return Step(positions=index.expand(batch, length), total=length)
        return _plan_packed(index, seq_idx)
    known = cache.host_lengths
    shortest, longest = min(known, default=0), max(known, default=0)
    lengths = cache.lengths.clone()
    positions = lengths[:, None] + index
    total, start = longest + length, longest if shortest == longest else None
    if longest == 0 or (start is not None and (length == 1 or has_lower_right(device))):
        return Step(positions=positions, lengths=lengths, total=total, is_causal=length > 1, start=start)
    mask = (torch.arange(total, device=device) <= positions[..., None])[:, None]
    return Step(positions=positions, lengths=lengths, total=total, mask=mask, start=start)


def has_lower_right(device: torch.device) -> bool:
    """True where attention of several tokens behind a longer past needs no mask."""
    return device.type == "cuda"


def has_blocks(device: torch.device) -> bool:
    """True where packed rows may go through flex_attention."""
    return device.type == "cuda"


def _plan_packed(index: Tensor, seq_idx: Tensor) -> Step:
    length = len(index)
    is_start = torch.ones_like(seq_idx, dtype=torch.bool)
    is_start[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    # numbers that come back later are other segments: everything restarts where the number changes
    seq_idx = is_start.cumsum(dim=1)
    starts = torch.where(is_start, index, 0).cummax(dim=1).values
    positions = index - starts
    if length >= LENGTH_OF_BLOCKS and has_blocks(index.device):
        return Step(positions=positions, total=length, seq_idx=seq_idx, blocks=_blocks(seq_idx))
    causal = torch.ones(length, length, dtype=torch.bool, device=index.device).tril()
    mask = (causal & (seq_idx[:, :, None] == seq_idx[:, None, :]))[:, None]
    return Step(positions=positions, total=length, mask=mask, seq_idx=seq_idx)


def _blocks(seq_idx: Tensor) -> Any:
    """Which blocks of positions see each other in packed rows: a BlockMask."""
    from torch.nn.attention.flex_attention import create_block_mask

    batch, length = seq_idx.shape

    def is_seen(row: Tensor, head: Tensor, later: Tensor, earlier: Tensor) -> Tensor:
        return (later >= earlier) & (seq_idx[row, later] == seq_idx[row, earlier])

    return create_block_mask(is_seen, batch, None, length, length, device=str(seq_idx.device))
