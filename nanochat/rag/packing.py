"""Conversations to training batches: rendered, packed into rows without padding between them, weighted."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nanochat.chat_format import Rendered, render
from nanochat.tokenizer import Tokenizer
from nanochat.training.losses import Batch


def render_all(
    conversations: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, *, row_len: int, max_doc_tokens: int | None = None
) -> list[Rendered]:
    """Render within `row_len` + 1 tokens (the last one is only a target); documents pay for it."""
    return [render(conversation, tokenizer, max_tokens=row_len + 1, max_doc_tokens=max_doc_tokens)
            for conversation in conversations]


def pack(rendered: Sequence[Rendered], *, row_len: int, context_weight: float) -> Batch:
    """Put sequences into as few rows of `row_len` as first fit finds, longest first.

    Targets are the next token of the same sequence, -1 at its end and in the unused tail of a row; supervised tokens
    weigh 1, all others `context_weight` (0 leaves them out). seq_idx numbers the sequences of a row.
    A sequence that is longer than a row (an over-long question) is left out; callers count by the targets.
    """
    rows: list[list[Rendered]] = []
    room: list[int] = []
    for item in sorted(rendered, key=lambda item: -len(item.ids)):
        need = len(item.ids) - 1
        if need > row_len:
            continue
        place = next((row for row, free in enumerate(room) if free >= need), None)
        if place is None:
            rows.append([item])
            room.append(row_len - need)
        else:
            rows[place].append(item)
            room[place] -= need
    shape = (len(rows), row_len)
    ids, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    weights, seq_idx = torch.zeros(shape), torch.zeros(shape, dtype=torch.long)
    for row, items in enumerate(rows):
        start = 0
        for number, item in enumerate(items):
            end = start + len(item.ids) - 1
            sequence, mask = torch.tensor(item.ids), torch.tensor(item.mask[1:])
            ids[row, start:end] = sequence[:-1]
            targets[row, start:end] = torch.where((mask == 1) | (context_weight > 0), sequence[1:], -1)
            weights[row, start:end] = torch.where(mask == 1, 1.0, context_weight)
            seq_idx[row, start:end] = number
            start = end
        seq_idx[row, start:] = len(items)
    return Batch(ids=ids, targets=targets, weights=weights, seq_idx=seq_idx)
