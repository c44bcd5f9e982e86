"""Trainable changes of a few rows of a frozen table: new ids of a large vocabulary learn, the rest costs nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RowChanges(nn.Module):
    """What is added to chosen rows of an embedding table or output head."""

    def __init__(self, ids: Sequence[int], width: int) -> None:
        """`ids`: the rows, ascending, at least one; `width`: C. All changes start at 0."""
        super().__init__()
        assert list(ids) == sorted(set(ids)) and len(ids) > 0, "row ids must ascend, and there must be some"
        self.register_buffer("ids", torch.tensor(list(ids), dtype=torch.long), persistent=False)
        self.delta = nn.Parameter(torch.zeros(len(ids), width))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (...) -> (..., C), what to add to their embeddings: 0 for ids that are not chosen."""
        places = torch.searchsorted(self.ids, tokens.contiguous()).clamp(max=len(self.ids) - 1)
        is_chosen = self.ids[places] == tokens
        return nn.functional.embedding(places, self.delta) * is_chosen[..., None]

    def add_to_logits(self, logits: Tensor, features: Tensor) -> Tensor:
        """logits (..., V) of features (..., C) with the frozen table -> those with the changed one."""
        return logits.index_add(-1, self.ids, nn.functional.linear(features, self.delta).to(logits.dtype))

    @torch.no_grad()
    def merge_into(self, table: Tensor) -> None:
        """Add the changes to the rows of table (V, C), in place."""
        table[self.ids] += self.delta.to(table.dtype)
