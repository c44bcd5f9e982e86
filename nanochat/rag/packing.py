"""Conversations to training batches: rendered, packed into rows without padding between them, weighted."""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nanochat.chat_format import Rendered, parse_answer, render
from nanochat.tokenizer import Tokenizer
from nanochat.training.losses import Batch


def render_all(
    conversations: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, *, row_len: int, max_doc_tokens: int | None = None
) -> list[Rendered]:
    """Render within `row_len` + 1 tokens (the last one is only a target); documents pay for it."""
    return [render(conversation, tokenizer, max_tokens=row_len + 1, max_doc_tokens=max_doc_tokens)
            for conversation in conversations]


def is_grounded(rendered: Rendered, tokenizer: Tokenizer) -> bool:
    """Whether every answer still has what it cites: no cited document was dropped, and of those that lost their tail
    one still states the answer word for word.
    """
    if rendered.lost_citations or not rendered.trimmed:
        return not rendered.lost_citations
    end = tokenizer.special("assistant_end")
    for start, token in enumerate(rendered.ids):
        if token != tokenizer.special("assistant_start") or end not in rendered.ids[start:]:
            continue
        answer = parse_answer(rendered.ids[start + 1 :], tokenizer, rendered.documents)
        shown = "\n".join(_text_of(slot, rendered, tokenizer) for slot in answer.citations)
        is_whole = not set(answer.citations) & set(rendered.trimmed)
        if not is_whole and not re.search(rf"(?<!\w){re.escape(answer.text)}(?!\w)", shown):
            return False
    return True


def _text_of(slot: int, rendered: Rendered, tokenizer: Tokenizer) -> str:
    """What a context shows of the document in a slot."""
    ends = (tokenizer.special("results_end"), *(tokenizer.doc(slot + 1) for _ in rendered.documents[slot + 1 :][:1]))
    start = rendered.ids.index(tokenizer.doc(slot))
    end = next(place for place, token in enumerate(rendered.ids[start:], start) if token in ends)
    return tokenizer.decode(rendered.ids[start:end])


def pack(
    rendered: Sequence[Rendered], *, row_len: int, context_weight: float, context_share: float = 1.0,
    rng: random.Random | None = None, decision_after: int | Sequence[int] = (), decision_weight: float = 1.0,
) -> Batch:
    """Put sequences into as few rows of `row_len` as first fit finds, longest first.

    Targets are the next token of the same sequence, -1 at its end and in the unused tail of a row; supervised tokens
    weigh 1, all others `context_weight` (0 leaves them out). Of the latter only `context_share` are kept, drawn by
    `rng`, with their weight raised to make up for it: the head is a large part of a small model's work. A supervised
    token right after an id of `decision_after` weighs `decision_weight`: whether to answer is one token of many.
    seq_idx numbers the sequences of a row. A sequence that is longer than a row (an over-long question) is left out;
    without any the batch has no rows.
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
    seq_idx = torch.zeros(shape, dtype=torch.long)
    is_answer = torch.zeros(shape, dtype=torch.bool)
    for row, items in enumerate(rows):
        start = 0
        for number, item in enumerate(items):
            end = start + len(item.ids) - 1
            sequence = torch.tensor(item.ids)
            ids[row, start:end], targets[row, start:end] = sequence[:-1], sequence[1:]
            is_answer[row, start:end] = torch.tensor(item.mask[1:]) == 1
            seq_idx[row, start:end] = number
            start = end
        seq_idx[row, start:] = len(items)
    is_kept = torch.full(shape, context_weight > 0)
    if context_weight > 0 and context_share < 1:
        generator = torch.Generator().manual_seed((rng or random.Random(0)).getrandbits(62))
        is_kept = torch.rand(shape, generator=generator) < context_share
    targets[~(is_answer | is_kept)] = -1
    marks = [decision_after] if isinstance(decision_after, int) else list(decision_after)
    is_decided_next = torch.isin(ids, torch.tensor(marks, dtype=torch.long))
    answer_weights = torch.where(is_decided_next, decision_weight, 1.0)
    weights = torch.where(is_answer, answer_weights, context_weight / context_share) * (targets >= 0)
    return Batch(ids=ids, targets=targets, weights=weights, is_answer=is_answer, seq_idx=seq_idx)
