"""Batches of plain text: documents as one shuffled stream of ids, cut into rows; documents may lie on disk."""

import random
from collections.abc import Sequence

import numpy as np
import torch

from nanochat.errors import DocumentError
from nanochat.training.losses import Batch


class Corpus:
    """Documents as slices of a few long arrays of ids, each with a bos in front; the arrays may be memory-mapped."""

    def __init__(self, parts: Sequence[np.ndarray], part: np.ndarray, start: np.ndarray, length: np.ndarray) -> None:
        """`parts`: 1-D arrays of ids; document i is parts[part[i]][start[i] : start[i] + length[i]], its bos first."""
        self.parts, self.part, self.start, self.length = list(parts), part, start, length

    @classmethod
    def of_array(cls, tokens: np.ndarray, starts: np.ndarray) -> "Corpus":
        """All documents of one array; starts (documents + 1) are the places of their bos, and the end."""
        num = len(starts) - 1
        return cls([tokens], np.zeros(num, dtype=np.int16), np.asarray(starts[:-1]), np.diff(starts))

    @classmethod
    def of_ids(cls, documents: Sequence[Sequence[int]], *, bos: int) -> "Corpus":
        """Documents that are in memory, given without bos."""
        starts = np.cumsum([0, *(len(ids) + 1 for ids in documents)])
        tokens = np.empty(starts[-1], dtype=np.int32)
        for ids, start, end in zip(documents, starts, starts[1:], strict=False):
            tokens[start], tokens[start + 1 : end] = bos, np.asarray(ids, dtype=np.int32)
        return cls.of_array(tokens, starts)

    @classmethod
    def join(cls, corpora: Sequence["Corpus"]) -> "Corpus":
        """The documents of several corpora, in that order; nothing is copied but their places."""
        first = np.cumsum([0, *(len(corpus.parts) for corpus in corpora)])
        return cls(
            [part for corpus in corpora for part in corpus.parts],
            np.concatenate([corpus.part + offset for corpus, offset in zip(corpora, first, strict=False)]),
            np.concatenate([corpus.start for corpus in corpora]),
            np.concatenate([corpus.length for corpus in corpora]),
        )

    def __len__(self) -> int:
        return len(self.length)

    @property
    def num_tokens(self) -> int:
        """Ids of all documents, with their bos."""
        return int(self.length.sum())

    def select(self, indices: Sequence[int] | np.ndarray) -> "Corpus":
        """The named documents in that order; one may be named several times."""
        index = np.asarray(indices, dtype=np.int64)
        return Corpus(self.parts, self.part[index], self.start[index], self.length[index])

    def repeat(self, weight: float, *, seed: int) -> "Corpus":
        """Every document `weight` times: as often as its whole part says, and a fixed random share for the rest."""
        order = list(range(len(self)))
        random.Random(f"repeat:{seed}").shuffle(order)
        some = sorted(order[: round(weight % 1 * len(self))])
        return self.select([*(list(range(len(self))) * int(weight)), *some])

    def split(self, share: float) -> tuple["Corpus", "Corpus"]:
        """(kept for training, held out): about `share` of the documents, at least one of several, whatever the seed."""
        order = list(range(len(self)))
        random.Random("held out").shuffle(order)
        num = min(max(1, round(len(self) * share)), max(0, len(self) - 1))
        return self.select(order[num:]), self.select(order[:num])

    def read(self, document: int, begin: int, end: int) -> np.ndarray:
        """Ids begin .. end of one document, its bos being number 0; fewer where the document ends before."""
        start = int(self.start[document])
        return self.parts[self.part[document]][start + begin : start + min(end, int(self.length[document]))]


class TextStream:
    """All documents one after another, a bos before each, in a new order every epoch.

    `batches(step, micro)` depends on its arguments only. Rows cut documents anywhere; state and attention restart at
    bos, which is never a target. Of a corpus on disk only the rows asked for are read.
    """

    def __init__(
        self, documents: Corpus | Sequence[Sequence[int]], *, bos: int, rows: int, row_len: int, micro_per_step: int,
        seed: int,
    ) -> None:
        self.corpus = documents if isinstance(documents, Corpus) else Corpus.of_ids(documents, bos=bos)
        self.num_tokens = self.corpus.num_tokens
        self.bos, self.rows, self.row_len, self.micro_per_step, self.seed = bos, rows, row_len, micro_per_step, seed
        if self.num_tokens <= row_len:
            raise DocumentError(f"The text has only {self.num_tokens} tokens, one row needs {row_len + 1}",
                                hint="give more text with --input, or a smaller --sequence_len")
        self._epoch = -1
        self._order: list[int] = []
        self._ends = np.zeros(0, dtype=np.int64)

    @property
    def rows_per_epoch(self) -> int:
        return (self.num_tokens - 1) // self.row_len

    def _begin(self, epoch: int) -> None:
        """The order of an epoch, and where each document ends in it."""
        if epoch != self._epoch:
            self._order = list(range(len(self.corpus)))
            random.Random(f"{self.seed}:{epoch}").shuffle(self._order)
            self._ends = self.corpus.length[self._order].cumsum()
            self._epoch = epoch

    def _read(self, number: int) -> np.ndarray:
        """Row `number` of all epochs, and the token after it: row_len + 1 ids."""
        epoch, place = divmod(number, self.rows_per_epoch)
        self._begin(epoch)
        begin, end = place * self.row_len, (place + 1) * self.row_len + 1
        row, filled = np.empty(end - begin, dtype=np.int64), 0
        index = int(self._ends.searchsorted(begin, side="right"))
        while filled < len(row):
            document = self._order[index]
            start = int(self._ends[index]) - int(self.corpus.length[document])
            piece = self.corpus.read(document, max(begin - start, 0), end - start)
            row[filled : filled + len(piece)] = piece
            filled, index = filled + len(piece), index + 1
        return row

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The rows of these numbers with the next token as target."""
        block = torch.from_numpy(np.stack([self._read(number) for number in numbers]))
        ids, targets = block[:, :-1], block[:, 1:].clone()
        # what follows a document's end is chance
        targets[targets == self.bos] = -1
        return Batch(ids=ids.contiguous(), targets=targets, seq_idx=(ids == self.bos).cumsum(1))

    def batches(self, step: int, micro: int) -> Batch:
        """`rows` rows of `row_len` tokens with the next token as target."""
        first = (step * self.micro_per_step + micro) * self.rows
        return self.batch(range(first, first + self.rows))
