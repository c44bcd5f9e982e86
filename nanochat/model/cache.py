"""Decoding state of a batch of rows: keys and values of attention, convolution tails and SSM states of Mamba."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class LayerState:
    """One layer's state; every field is a tensor whose first dimension is the row."""

    def gather(self, rows: Tensor) -> "LayerState":
        """A copy with the chosen rows, in that order."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def update(self, **tensors: Tensor) -> None:
        """New values of some fields: written in place, so that views see them, unless gradients are recorded."""
        for name, value in tensors.items():
            if torch.is_grad_enabled():
                setattr(self, name, value)
            else:
                getattr(self, name).copy_(value)

    def scatter(self, rows: Tensor, other: "LayerState") -> None:
        """Write the rows of `other` into the given places of this state, leaving older copies of it untouched."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name).index_copy(0, rows, getattr(other, field.name)))


@dataclass
class SSMState(LayerState):
    """State of an M block."""

    conv: Tensor  # (B, K-1, inner + 2 * groups * N) inputs of the convolution just before the next token
    ssm: Tensor  # (B, H, P, N) float32


@dataclass
class KVState(LayerState):
    """State of a T block; positions at or past a row's length hold garbage that the mask hides."""

    keys: Tensor  # (B, Hkv, S, D) with room for S positions
    values: Tensor  # (B, Hkv, S, D)
    conv: Tensor  # (B, K-1, (H + 2 * Hkv) * D) inputs of the q, k, v convolution; K-1 is 0 without one

    def reserve(self, capacity: int) -> None:
        """Make room for at least `capacity` positions; grows by doubling."""
        room = self.keys.shape[2]
        if room < capacity:
            extra = max(capacity, 2 * room) - room
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))

    def scatter(self, rows: Tensor, other: "LayerState") -> None:
        assert isinstance(other, KVState), f"cannot scatter {type(other).__name__} into KVState"
        capacity = max(self.keys.shape[2], other.keys.shape[2])
        self.reserve(capacity)
        if other.keys.shape[2] < self.keys.shape[2]:
            other = KVState(keys=other.keys, values=other.values, conv=other.conv)
            extra = self.keys.shape[2] - other.keys.shape[2]
            other.keys = torch.nn.functional.pad(other.keys, (0, 0, 0, extra))
            other.values = torch.nn.functional.pad(other.values, (0, 0, 0, extra))
        super().scatter(rows, other)

    def append(self, lengths: Tensor, keys: Tensor, values: Tensor, *, total: int) -> None:
        """Write keys and values (B, Hkv, T, D) behind each row's length (B); `total` is the longest row afterwards."""
        new = keys.shape[2]
        self.reserve(total)
        rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
        places = lengths[:, None] + torch.arange(new, device=keys.device)
        self.keys[rows, :, places] = keys.transpose(1, 2)
        self.values[rows, :, places] = values.transpose(1, 2)


class Cache:
    """All layers' decoding state for B rows, each with its own length."""

    def __init__(self, lengths: Tensor, layers: list[LayerState]) -> None:
        self.lengths = lengths  # (B,) long, tokens seen so far
        self.layers = layers

    def __len__(self) -> int:
        return self.lengths.shape[0]

    @property
    def num_bytes(self) -> int:
        """Memory held by all state tensors."""
        tensors = [getattr(layer, field.name) for layer in self.layers for field in fields(layer)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def gather(self, rows: Sequence[int]) -> "Cache":
        """An independent cache with the chosen rows, in that order; a row may be chosen several times."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        return Cache(self.lengths[index], [layer.gather(index) for layer in self.layers])

    def scatter(self, rows: Sequence[int], other: "Cache") -> None:
        """Write all rows of `other` into the given places."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        self.lengths = self.lengths.index_copy(0, index, other.lengths)
        for layer, new in zip(self.layers, other.layers, strict=True):
            layer.scatter(index, new)

    def fork(self, n: int) -> "Cache":
        """An independent cache in which every row stands n times in a row: (B) -> (B * n)."""
        return self.gather([row for row in range(len(self)) for _ in range(n)])

    def snapshot(self) -> "Cache":
        """A copy by value."""
        return self.gather(range(len(self)))

    def restore(self, snapshot: "Cache") -> None:
        """Go back to a snapshot; the snapshot stays usable."""
        copy = snapshot.snapshot()
        self.lengths, self.layers = copy.lengths, copy.layers
