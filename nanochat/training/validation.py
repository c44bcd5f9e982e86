"""Validation on text: loss and bits per byte over a fixed set of rows, the same for every seed, model and process."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from nanochat.common import rank, world_size
from nanochat.training.distributed import sum_numbers
from nanochat.training.losses import Batch, language_model_loss
from nanochat.training.text import Corpus, TextStream

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer


class Validation:
    """At most `rows` different rows, spread evenly over the held-out documents.

    Bits per byte is exact: the bits of all scored tokens, divided by the bytes of these very tokens. It may be compared
    between models with different tokenizers only if they read the same text, and then nearly: rows cut it at other
    places.
    """

    def __init__(self, corpus: Corpus, tokenizer: "Tokenizer", *, rows: int, row_len: int, batch_rows: int) -> None:
        """Raises DocumentError when the corpus does not fill a row. `batch_rows` rows are read at a time."""
        bos = tokenizer.special("bos")
        stream = TextStream(corpus, bos=bos, rows=1, row_len=row_len, micro_per_step=1, seed=0)
        self.rows = min(rows, stream.rows_per_epoch)
        places = [i * stream.rows_per_epoch // self.rows for i in range(self.rows)]
        self.batches: list[Batch] = [
            stream.batch(places[i : i + batch_rows]) for i in range(0, self.rows, batch_rows)]
        self.group = tokenizer.doc_ids
        sizes = np.asarray(tokenizer.bytes_per_id())
        targets = np.concatenate([batch.targets[batch.supervised()].numpy() for batch in self.batches])
        self.num_tokens, self.num_bytes = len(targets), int(sizes[targets].sum())

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """val_loss in nats per token and val_bits_per_byte; processes share the work. Leaves the model in eval mode."""
        model.eval()
        device = next(model.parameters()).device
        nats = 0.0
        for first in range(0, len(self.batches), world_size()):
            # every process runs as many forwards, as sharded models need it; what is too many does not count
            place = first + rank()
            batch = self.batches[place % len(self.batches)].to(device)
            loss = float(language_model_loss(model, batch, 1.0, group=self.group).loss)
            nats += loss if place < len(self.batches) else 0.0
        total = sum_numbers([nats], device)[0]
        return {"val_loss": total / self.num_tokens, "val_bits_per_byte": total / math.log(2) / self.num_bytes}
