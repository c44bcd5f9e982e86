"""Tokens of a retrieved document know their slot: a share of the slot's own embedding is added to theirs.

Answers cite documents by a slot's id. A token that stands behind results_start, and not behind the results_end after
it, belongs to the last slot id since that results_start; the marks themselves belong to nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nanochat.model.states import LayerState

SlotIds = tuple[int, ...]  # of results_start, of results_end, of the first slot, and how many slots there are


@dataclass
class SlotState(LayerState):
    """Where rows stand in their documents."""

    slot: Tensor  # (B,) long: 0 outside of results, 1 in results before any document, 2 + i in the document of slot i

    recurrent: ClassVar[tuple[str, ...]] = ("slot",)


def slots_of(layers: Sequence[LayerState]) -> SlotState | None:
    """The slot state among a cache's states, where it is the last; None where the model has none."""
    return layers[-1] if layers and isinstance(layers[-1], SlotState) else None


def document_slots(
    ids: Tensor, slot_ids: SlotIds, before: Tensor | None = None, is_fresh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """ids (B, T) -> (B, T) long, 1 + i for a token of the document of slot i, 0 for every other one; and where the rows
    stand after them (B,), as in SlotState.

    before (B,): where they stood; None means outside of results. is_fresh (B, T): True where another sequence begins,
    which is outside. Cutting ids anywhere and passing on where rows stand gives the same. Never waits for the device.
    """
    start, end, first, count = slot_ids
    is_start, is_mark = ids == start, (ids >= first) & (ids < first + count)
    is_border = is_start | (ids == end)
    if is_fresh is not None:
        is_border = is_border | is_fresh
    if before is None:
        before = ids.new_zeros(len(ids))
    # column 0 stands for all that came before
    codes = torch.cat([before[:, None], torch.where(is_mark, ids - first + 2, is_start.long())], dim=1)
    is_open = torch.cat([before[:, None] > 0, is_start], dim=1)
    index = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    border = torch.where(is_border, index, 0).cummax(dim=1).values
    last = torch.where(is_border | is_mark, index, 0).cummax(dim=1).values
    standing = codes.gather(1, last) * is_open.gather(1, border)
    return torch.where(is_mark, 0, (standing - 1).clamp(min=0)), standing[:, -1]


def meets_documents(ids: Tensor, slot_ids: SlotIds, before: Tensor) -> bool:
    """Whether a row stands in results (B,), or ids (B, T) open some: where not, no token has a slot. Waits for the
    device.
    """
    return bool(before.any()) or bool((ids == slot_ids[0]).any())


def slot_problems(slot_scale: float, slot_ids: SlotIds, vocab_size: int) -> list[str]:
    """What is wrong with these settings of a model, in words; empty when nothing is."""
    if not 0 <= slot_scale < float("inf"):
        return [f"slot_scale is {slot_scale}, must be at least 0"]
    if not slot_ids:
        return [f"slot_scale is {slot_scale} without slot_ids"] if slot_scale else []
    if len(slot_ids) != 4 or any(type(number) is not int for number in slot_ids):
        return [f"slot_ids {slot_ids} are not four numbers: results_start, results_end, first slot, number of slots"]
    start, end, first, count = slot_ids
    slots = range(first, first + count)
    if count < 1 or start == end or start in slots or end in slots:
        return [f"slot_ids {slot_ids} name an id twice, or no slot"]
    if min(slot_ids) < 0 or max(start, end, slots[-1]) >= vocab_size:
        return [f"slot_ids {slot_ids} are outside of {vocab_size} ids"]
    return []
