"""Validation while tuning: loss and accuracy on documents, or a whole knowledge base, that training never sees."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nanochat.rag.curriculum import ROWS_AT_ONCE, Curriculum, answer_accuracy
from nanochat.rag.packing import pack
from nanochat.rag.pool import Pool
from nanochat.training.losses import Batch, language_model_loss


class HeldOut:
    """The same examples at every evaluation: drawn from a pool of questions, and from episodes."""

    def __init__(self, curriculum: Curriculum, pool: Pool | None, episodes: Sequence[Mapping[str, Any]] = ()) -> None:
        self.row_len, self.group = curriculum.row_len, curriculum.tokenizer.doc_ids
        self.rendered = curriculum.fixed_examples(pool, episodes)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """val_loss: nats per token of the answers, citations and abstentions; val_accuracy: share of them that greedy
        decoding would write token for token. Empty without an example that fits into a row.
        """
        if not self.rendered:
            return {}
        batch = pack(self.rendered, row_len=self.row_len, context_weight=0.0)
        return {"val_loss": answer_loss(model, batch, group=self.group),
                "val_accuracy": answer_accuracy(model, self.rendered, self.row_len, group=self.group)}


@torch.no_grad()
def answer_loss(model: nn.Module, batch: Batch, *, group: range) -> float:
    """Nats per supervised token of a batch, a few rows at once; the model's mode is left as it was."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, count = 0.0, 0.0
    for start in range(0, len(batch.ids), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        piece = Batch(ids=batch.ids[rows], targets=batch.targets[rows], weights=batch.weights[rows],
                      seq_idx=batch.seq_idx[rows])
        weight = piece.weight()
        if weight:
            total += float(language_model_loss(model, piece.to(device), 1.0, group=group).loss)
            count += weight
    model.train(was_training)
    return total / count if count else float("nan")
