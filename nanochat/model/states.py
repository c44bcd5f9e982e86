"""One layer's decoding state for a batch of rows: keys and values of attention, convolution tails, SSM states."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor


@dataclass
class LayerState:
    """One layer's state, or what belongs to none of them; every field is a tensor whose first dimension is the row."""

    recurrent: ClassVar[tuple[str, ...]] = ()  # fields that say nothing about the past once they are overwritten
    _parent: ClassVar["LayerState | None"] = None  # an instance's own, where it is a view

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def view(self, start: int, stop: int) -> "LayerState":
        """Rows start to stop sharing memory."""
        view = type(self)(**{name: tensor[start:stop] for name, tensor in self.tensors().items()})
        view.__dict__["_parent"], view.__dict__["_seen"] = self, tuple(self.tensors().values())
        return view

    @property
    def is_stale(self) -> bool:
        """True for a view whose parent has moved elsewhere: what it would write, nobody would see."""
        if self._parent is None:
            return False
        now = self._parent.tensors().values()
        return any(new is not old for new, old in zip(now, self._seen, strict=True)) or self._parent.is_stale

    def check(self) -> None:
        assert not self.is_stale, f"a view of {type(self).__name__} is out of date: its cache grew or was replaced"

    def update(self, **tensors: Tensor) -> None:
        """New values of some fields: written in place, so that views see them, unless gradients are recorded."""
        self.check()
        for name, value in tensors.items():
            if torch.is_grad_enabled():
                assert self._parent is None, f"{name} of a view would be lost: views are for use without gradients"
                setattr(self, name, value)
            else:
                getattr(self, name).copy_(value)

    def reserve(self, capacity: int) -> None:
        """Room for at least `capacity` positions, where positions take room."""

    def used_bytes(self, lengths: Sequence[int]) -> int:
        """Memory of what rows of these lengths hold."""
        return sum(tensor[0].numel() * tensor.element_size() * len(lengths) for tensor in self.tensors().values())

    def gather(self, rows: Tensor, longest: int, capacity: int) -> "LayerState":
        """A copy with the chosen rows, in that order, the longest with `longest` tokens, and room for `capacity`."""
        return type(self)(**{name: tensor[rows] for name, tensor in self.tensors().items()})

    def scatter(self, rows: Tensor, other: "LayerState", longest: int) -> None:
        """Write all rows of `other`, the longest with `longest` tokens, into these places: in place as `update` is."""
        self.check()
        for name, tensor in self.tensors().items():
            if torch.is_grad_enabled():
                self.update(**{name: tensor.index_copy(0, rows, getattr(other, name))})
            else:
                tensor.index_copy_(0, rows, getattr(other, name))

    def copy_row(self, target: int, other: "LayerState", source: int, length: int) -> None:
        """Row `target` becomes row `source` of `other`, which holds `length` tokens."""
        self.check()
        for name, tensor in self.tensors().items():
            tensor[target].copy_(getattr(other, name)[source])

    def swap_rows(self, one: int, other: int, longest: int) -> None:
        """Two rows change places; the longer one holds `longest` tokens."""
        self.check()
        for tensor in self.tensors().values():
            _swap(tensor, one, other)


@dataclass
class SSMState(LayerState):
    """State of an M block."""

    conv: Tensor  # (B, K-1, inner + 2 * groups * N) inputs of the convolution just before the next token
    ssm: Tensor  # (B, H, P, N) float32

    recurrent: ClassVar[tuple[str, ...]] = ("conv", "ssm")


@dataclass
class KVState(LayerState):
    """State of a T block; positions at or past a row's length hold garbage (finite) that the mask hides."""

    keys: Tensor  # (B, Hkv, S, D) with room for S positions
    values: Tensor  # (B, Hkv, S, D)
    conv: Tensor  # (B, K-1, (H + 2 * Hkv) * D) inputs of the q, k, v convolution; K-1 is 0 without one

    recurrent: ClassVar[tuple[str, ...]] = ("conv",)

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    def reserve(self, capacity: int) -> None:
        """Make room for at least `capacity` positions. Growing moves the tensors, so a view cannot."""
        room = self.capacity
        if room < capacity:
            assert self._parent is None, f"a view has room for {room} positions, not {capacity}: reserve in its cache"
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, capacity - room))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, capacity - room))

    def append(self, lengths: Tensor, keys: Tensor, values: Tensor, *, total: int, start: int | None = None) -> None:
        """Write keys and values (B, Hkv, T, D) behind each row's length (B); `total` is the longest row afterwards.

        start: the rows' length where all have the same one, known to the caller; writes one block then.
        """
        self.check()
        new = keys.shape[2]
        if self.capacity < total:
            self.reserve(max(total, 2 * self.capacity))
        if start is not None and not torch.is_grad_enabled():
            self.keys[:, :, start : start + new] = keys
            self.values[:, :, start : start + new] = values
            return
        rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
        places = lengths[:, None] + torch.arange(new, device=keys.device)
        self.keys[rows, :, places] = keys.transpose(1, 2)
        self.values[rows, :, places] = values.transpose(1, 2)

    def used_bytes(self, lengths: Sequence[int]) -> int:
        per_token = 2 * self.keys.shape[1] * self.keys.shape[3] * self.keys.element_size()
        return sum(lengths) * per_token + len(lengths) * self.conv[0].numel() * self.conv.element_size()

    def gather(self, rows: Tensor, longest: int, capacity: int) -> "KVState":
        if torch.is_grad_enabled():
            return KVState(keys=self.keys[rows], values=self.values[rows], conv=self.conv[rows])
        shape = (len(rows), self.keys.shape[1], capacity, self.keys.shape[3])
        keys, values = self.keys.new_zeros(shape), self.values.new_zeros(shape)
        keys[:, :, :longest] = self.keys[:, :, :longest][rows]
        values[:, :, :longest] = self.values[:, :, :longest][rows]
        return KVState(keys=keys, values=values, conv=self.conv[rows])

    def scatter(self, rows: Tensor, other: "LayerState", longest: int) -> None:
        assert isinstance(other, KVState), f"cannot scatter {type(other).__name__} into KVState"
        self.check()
        self.reserve(longest)
        if torch.is_grad_enabled():
            # copies of this state made before stay what they were
            self.keys, self.values = self.keys.clone(), self.values.clone()
        self.keys[:, :, :longest].index_copy_(0, rows, other.keys[:, :, :longest])
        self.values[:, :, :longest].index_copy_(0, rows, other.values[:, :, :longest])
        self.update(conv=self.conv.index_copy(0, rows, other.conv))

    def copy_row(self, target: int, other: "LayerState", source: int, length: int) -> None:
        assert isinstance(other, KVState), f"cannot copy a row of {type(other).__name__} into KVState"
        self.check()
        self.reserve(length)
        self.keys[target, :, :length] = other.keys[source, :, :length]
        self.values[target, :, :length] = other.values[source, :, :length]
        self.conv[target].copy_(other.conv[source])

    def swap_rows(self, one: int, other: int, longest: int) -> None:
        self.check()
        for tensor in (self.keys[:, :, :longest], self.values[:, :, :longest], self.conv):
            _swap(tensor, one, other)


def _swap(tensor: Tensor, one: int, other: int) -> None:
    kept = tensor[one].clone()
    tensor[one].copy_(tensor[other])
    tensor[other].copy_(kept)
