"""Rules: which ids may be written next. One object follows one row; a batch of them is a session's rule.

Writing one takes three methods: `allowed` says what may come now, `advance` takes note of what came, `fork` gives a
copy that goes its own way (a draft is walked with a copy before the model has confirmed it). Keep masks ready and hand
out the same tensor again: rows in the same place of a grammar then share one mask, and a step costs no more than the
largest of them. docs/engine.md has an example.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class RowRule(Protocol):
    """Where one row stands."""

    def allowed(self) -> Tensor | None:
        """(V,) bool on the model's device, True where the id may come next; None where all may. Not to be changed."""
        ...

    def advance(self, id: int) -> None:
        """Take note of the id that was appended, one of those allowed."""
        ...

    def fork(self) -> "RowRule":
        """A copy that goes its own way."""
        ...


class OnlyIds:
    """The simplest rule: the same ids at every place, such as those of a tokenizer smaller than the model's table."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask  # (V,) bool

    def allowed(self) -> Tensor:
        return self._mask

    def advance(self, id: int) -> None:
        assert bool(self._mask[id]), f"id {id} is not allowed"

    def fork(self) -> "OnlyIds":
        return self


class RuleRows:
    """Rules of many rows as one, by row number: what Session.sample takes."""

    def __init__(self, rules: Sequence[RowRule]) -> None:
        self._rules = list(rules)

    def allowed(self, rows: Sequence[int]) -> Tensor:
        """(len(rows), V) bool."""
        masks = [self._rules[row].allowed() for row in rows]
        stacked = stack_masks(masks)
        assert stacked is not None, "a rule without a mask needs no RuleRows"
        return stacked.expand(len(masks), -1)

    def advance(self, rows: Sequence[int], ids: Tensor) -> None:
        """Take note of ids (len(rows),)."""
        for row, id in zip(rows, ids.tolist(), strict=True):
            self._rules[row].advance(id)


def stack_masks(masks: Sequence[Tensor | None]) -> Tensor | None:
    """One mask for all rows: (B, V) bool, (1, V) where all rows share theirs, None where nothing is forbidden."""
    if all(mask is masks[0] for mask in masks):
        return None if masks[0] is None else masks[0][None]
    some = next(mask for mask in masks if mask is not None)
    free = torch.ones_like(some) if any(mask is None for mask in masks) else some
    return torch.stack([free if mask is None else mask for mask in masks])


def check_masks(masks: Sequence[Tensor | None], num_ids: int) -> None:
    """Raises ValueError for a mask that is not (num_ids,) bool."""
    for mask in masks:
        if mask is not None and (mask.shape != (num_ids,) or mask.dtype != torch.bool):
            raise ValueError(f"A rule allows by {tuple(mask.shape)} {mask.dtype}, wanted is ({num_ids},) torch.bool")
