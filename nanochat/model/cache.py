"""Decoding state of a batch of rows: every layer's, with each row's length, and the ways to copy, move and go back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor

from nanochat.model.states import KVState, LayerState, SSMState

__all__ = ["Cache", "KVState", "LayerState", "Mark", "SSMState"]


@dataclass(eq=False)
class Mark:
    """A place to go back to: what cannot be undone by forgetting, that is all but keys and values.

    It follows its rows when they swap places, and is void for a row that was overwritten or went back further.
    """

    places: list[int]  # where each marked row stands now; -1 where the mark is void
    lengths: list[int]
    layers: list[dict[str, Tensor]]  # copies of the recurrent fields, (len(places), ...)


@dataclass(eq=False)
class _Shared:
    """What a cache and its views know together: row lengths without asking the device, and marks in use."""

    known: list[int]  # lengths of all rows, true while the tensor's version is this
    version: int
    marks: "WeakSet[Mark]"


class Cache:
    """All layers' decoding state for B rows, each with its own length.

    Without gradients every change is made in place, so that a view of leading rows and its cache are one memory.
    """

    def __init__(self, lengths: Tensor, layers: list[LayerState]) -> None:
        self.lengths = lengths  # (B,) long, tokens seen so far
        self.layers = layers  # states of the model's layers, in order, and its slot state if it has one
        self._start = 0  # of a view: where its first row stands in the cache
        self._parent: Cache | None = None
        self._shared = _Shared(known=[], version=-1, marks=WeakSet())

    def __len__(self) -> int:
        return self.lengths.shape[0]

    @property
    def host_lengths(self) -> list[int]:
        """Tokens seen by each row, without asking the device as long as only `advance` and own methods change them."""
        shared, root = self._shared, self._root()
        version = _version(root.lengths)
        if shared.version != version or version < 0:
            shared.known[:] = root.lengths.tolist()
            shared.version = version
        return shared.known[self._start : self._start + len(self)]

    @property
    def is_stale(self) -> bool:
        """True for a view that does not share memory with its cache any more; it refuses to go on."""
        return self._parent is not None and any(layer.is_stale for layer in self.layers)

    @property
    def capacity(self) -> int | None:
        """Positions there is room for; None without attention."""
        return min((layer.capacity for layer in self.layers if isinstance(layer, KVState)), default=None)

    @property
    def num_bytes(self) -> int:
        """Memory held by all state tensors."""
        tensors = [tensor for layer in self.layers for tensor in layer.tensors().values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def used_bytes(self) -> int:
        """Memory of what the rows hold, without room kept for more tokens."""
        lengths = self.host_lengths
        return sum(layer.used_bytes(lengths) for layer in self.layers)

    def advance(self, num_tokens: int) -> None:
        """Every row has seen `num_tokens` more."""
        lengths = self.host_lengths
        self.lengths += num_tokens
        self._know([length + num_tokens for length in lengths])

    def reserve(self, capacity: int) -> None:
        """Room for at least `capacity` positions per row; a cache whose rows run in views needs it beforehand."""
        for layer in self.layers:
            layer.reserve(capacity)

    def view(self, stop: int, *, start: int = 0) -> "Cache":
        """The leading `stop` rows (from `start`), sharing memory: what either does to them, both see.

        A view cannot grow; one whose cache has grown since refuses to go on.
        """
        assert 0 <= start <= stop <= len(self), f"rows {start} to {stop} of {len(self)}"
        view = Cache(self.lengths[start:stop], [layer.view(start, stop) for layer in self.layers])
        view._parent, view._start, view._shared = self, self._start + start, self._shared
        return view

    def gather(self, rows: Sequence[int], *, capacity: int | None = None) -> "Cache":
        """An independent cache with the chosen rows, in that order; a row may be chosen several times.

        Costs what the rows hold, and has the same room for tokens, or `capacity`.
        """
        rows = list(rows)
        index = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        known = self.host_lengths
        longest = max((known[row] for row in rows), default=0)
        room = max(longest, (self.capacity or 0) if capacity is None else capacity)
        return Cache(self.lengths[index], [layer.gather(index, longest, room) for layer in self.layers])

    def scatter(self, rows: Sequence[int], other: "Cache") -> None:
        """Write all rows of `other` into the given places."""
        rows = list(rows)
        assert len(rows) == len(other), f"{len(other)} rows for places {rows}"
        if not rows:
            return
        known, lengths = other.host_lengths, self.host_lengths
        index = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        for layer, new in zip(self.layers, other.layers, strict=True):
            layer.scatter(index, new, max(known))
        self.lengths.index_copy_(0, index, other.lengths)
        for row, length in zip(rows, known, strict=True):
            lengths[row] = length
        self._know(lengths)
        self._void(rows)

    def fork(self, n: int) -> "Cache":
        """An independent cache in which every row stands n times in a row: (B) -> (B * n)."""
        return self.gather([row for row in range(len(self)) for _ in range(n)])

    def snapshot(self) -> "Cache":
        """A copy by value."""
        return self.gather(range(len(self)))

    def restore(self, snapshot: "Cache") -> None:
        """Go back to a snapshot of all rows; the snapshot stays usable."""
        self.scatter(range(len(self)), snapshot)

    @torch.no_grad()
    def copy_row(self, source: int, target: int) -> None:
        """Row `target` becomes a copy of row `source`, in place."""
        if source != target:
            self.put_row(target, self, source)

    @torch.no_grad()
    def put_row(self, target: int, other: "Cache", source: int = 0) -> None:
        """Row `target` becomes row `source` of `other`, in place; costs what that row holds."""
        known, lengths = other.host_lengths[source], self.host_lengths
        for layer, new in zip(self.layers, other.layers, strict=True):
            layer.copy_row(target, new, source, known)
        lengths[target] = known
        self.lengths[target] = known
        self._know(lengths)
        self._void([target])

    @torch.no_grad()
    def load_row(
        self, row: int, pieces: Sequence[tuple[Sequence[tuple[Tensor, Tensor]], int]],
        recurrent: Sequence[Mapping[str, Tensor]],
    ) -> None:
        """Row `row`, which has seen nothing, becomes what was kept of another, in place.

        pieces: one behind the other, keys and values (Hkv, L, D) of every attention layer, and how many of the L
        positions count. recurrent: of every layer its recurrent fields without the row dimension; empty: none read.
        """
        depth = sum(length for _, length in pieces)
        self.reserve(depth)
        attention = [layer for layer in self.layers if isinstance(layer, KVState)]
        at = 0
        for pairs, length in pieces:
            for layer, (keys, values) in zip(attention, pairs, strict=True):
                layer.keys[row, :, at : at + length] = keys[:, :length]
                layer.values[row, :, at : at + length] = values[:, :length]
            at += length
        for layer, kept in zip(self.layers, recurrent, strict=True) if recurrent else ():
            for name, tensor in kept.items():
                getattr(layer, name)[row] = tensor
        lengths = self.host_lengths
        lengths[row] = depth
        self.lengths[row] = depth
        self._know(lengths)
        self._void([row])

    @torch.no_grad()
    def clear_row(self, row: int) -> None:
        """Row `row` has seen nothing; its place is free for another."""
        lengths = self.host_lengths
        for layer in self.layers:
            layer.check()
            for name in layer.recurrent:
                getattr(layer, name)[row].zero_()
        lengths[row] = 0
        self.lengths[row] = 0
        self._know(lengths)
        self._void([row])

    @torch.no_grad()
    def swap_rows(self, one: int, other: int) -> None:
        """Two rows change places, in place; marks go with them."""
        if one == other:
            return
        lengths = self.host_lengths
        for layer in self.layers:
            layer.swap_rows(one, other, max(lengths[one], lengths[other]))
        lengths[one], lengths[other] = lengths[other], lengths[one]
        self.lengths[one], self.lengths[other] = lengths[one], lengths[other]
        self._know(lengths)
        moved = {self._start + one: self._start + other, self._start + other: self._start + one}
        for mark in self._shared.marks:
            mark.places = [moved.get(place, place) for place in mark.places]

    @torch.no_grad()
    def mark(self, rows: Sequence[int] | None = None) -> Mark:
        """Remember where rows (default all) stand, at the cost of their convolution tails and SSM states.

        Keys and values are not copied: going back hides what came later. In use as long as the mark is held.
        """
        rows = list(range(len(self)) if rows is None else rows)
        known = self.host_lengths
        index = torch.as_tensor(rows, dtype=torch.long, device=self.lengths.device)
        mark = Mark(
            places=[self._start + row for row in rows],
            lengths=[known[row] for row in rows],
            layers=[{name: getattr(layer, name)[index] for name in layer.recurrent} for layer in self.layers],
        )
        self._shared.marks.add(mark)
        return mark

    @torch.no_grad()
    def rollback(self, mark: Mark, rows: Sequence[int] | None = None) -> None:
        """Rows (default all that were marked) are as they were at the mark, which stays usable.

        Marks of these rows that were taken further on are void afterwards.
        """
        lengths = self.host_lengths
        rows = [place - self._start for place in mark.places] if rows is None else list(rows)
        where = {place - self._start: number for number, place in enumerate(mark.places) if place >= 0}
        lost = [row for row in rows if row not in where or not 0 <= row < len(self)]
        assert not lost, f"rows {lost} cannot go back: unmarked, overwritten, or back further already ({mark.places})"
        shrunk = [row for row in rows if lengths[row] < mark.lengths[where[row]]]
        assert not shrunk, f"rows {shrunk} are shorter than at the mark"
        numbers = [where[row] for row in rows]
        source, target = (torch.as_tensor(x, dtype=torch.long, device=self.lengths.device) for x in (numbers, rows))
        for layer, kept in zip(self.layers, mark.layers, strict=True):
            layer.check()
            for name, tensor in kept.items():
                getattr(layer, name).index_copy_(0, target, tensor[source])
        for row in rows:
            lengths[row] = mark.lengths[where[row]]
        self.lengths.copy_(torch.as_tensor(lengths, dtype=torch.long))
        self._know(lengths)
        self._void(rows, lengths)

    def _void(self, rows: Sequence[int], lengths: Sequence[int] | None = None) -> None:
        """Of these rows only marks up to their lengths still hold; without lengths only those before the first token.
        """
        kept = {self._start + row: 0 if lengths is None else lengths[row] for row in rows}
        for mark in self._shared.marks:
            mark.places = [
                -1 if length > kept.get(place, length) else place
                for place, length in zip(mark.places, mark.lengths, strict=True)
            ]

    def _root(self) -> "Cache":
        return self if self._parent is None else self._parent._root()

    def _know(self, lengths: Sequence[int]) -> None:
        """Lengths of these rows, just written to the device."""
        self._shared.known[self._start : self._start + len(self)] = lengths
        self._shared.version = _version(self._root().lengths)


def _version(tensor: Tensor) -> int:
    """How often the tensor was written to; -1 where that is not counted."""
    return -1 if tensor.is_inference() else tensor._version
