"""Batches of plain text: documents as one shuffled stream of ids, cut into rows."""

import random
from collections.abc import Sequence

import numpy as np
import torch

from nanochat.errors import DocumentError
from nanochat.training.losses import Batch


class TextStream:
    """All documents one after another, a bos before each, in a new order every epoch.

    `batches(step, micro)` depends on its arguments only. Rows cut documents anywhere; state and attention restart at
    bos, which is never a target.
    """

    def __init__(
        self, documents: Sequence[Sequence[int]], *, bos: int, rows: int, row_len: int, micro_per_step: int, seed: int
    ) -> None:
        self.documents = [np.asarray([bos, *ids], dtype=np.int32) for ids in documents]
        self.num_tokens = sum(map(len, self.documents))
        self.bos, self.rows, self.row_len, self.micro_per_step, self.seed = bos, rows, row_len, micro_per_step, seed
        if self.num_tokens <= row_len:
            raise DocumentError(f"The text has only {self.num_tokens} tokens, one row needs {row_len + 1}",
                                hint="give more text with --input, or a smaller --sequence_len")
        self._epoch = -1
        self._stream = np.zeros(0, dtype=np.int32)

    def _of_epoch(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            order = list(range(len(self.documents)))
            random.Random(f"{self.seed}:{epoch}").shuffle(order)
            self._stream, self._epoch = np.concatenate([self.documents[i] for i in order]), epoch
        return self._stream

    def batches(self, step: int, micro: int) -> Batch:
        """`rows` rows of `row_len` tokens with the next token as target."""
        per_epoch = (self.num_tokens - 1) // self.row_len
        first = (step * self.micro_per_step + micro) * self.rows
        rows = []
        for number in range(first, first + self.rows):
            start = number % per_epoch * self.row_len
            rows.append(self._of_epoch(number // per_epoch)[start : start + self.row_len + 1])
        block = torch.from_numpy(np.stack(rows).astype(np.int64))
        ids, targets = block[:, :-1], block[:, 1:].clone()
        # what follows a document's end is chance
        targets[targets == self.bos] = -1
        return Batch(ids=ids.contiguous(), targets=targets, seq_idx=(ids == self.bos).cumsum(1))
