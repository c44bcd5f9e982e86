"""Inverted index of a range of rows: one array, in memory or mapped from one file, searched without parsing it."""

import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np

from nanochat.retrieval.document import Document
from nanochat.retrieval.words.analysis import indexed_words, term

MAX_COUNT = 255  # of one term in one document; more count as this many
# weight of a term that occurs so many times in a document: 1 + ln(1 + ln count)
WEIGHTS = np.concatenate([[0.0], 1 + np.log1p(np.log(np.arange(1, MAX_COUNT + 1)))])


class Postings:
    """Which rows hold which terms, and how often.

    Terms are sorted by their UTF-8 bytes. Term i owns positions[offsets[i]:offsets[i + 1]], rows counted from the first
    of this range, ascending, with the counts beside them. `lengths` are the Euclidean norms of the rows' weights.
    """

    def __init__(self, packed: np.ndarray) -> None:
        """`packed` (bytes): four numbers (rows, terms, postings, bytes of the terms), then the arrays one by one."""
        if packed.dtype != np.uint8 or packed.ndim != 1 or len(packed) < 32:
            raise ValueError("not an inverted index")
        sizes = packed[:32].view(np.int64).tolist()
        self.num_rows, num_terms, num_postings, num_letters = sizes
        self.packed = packed
        lengths = _section_bytes(*sizes)
        if min(sizes) < 0 or len(packed) != 32 + sum(lengths):
            raise ValueError("the inverted index is not as long as it says")
        cuts = [32, *accumulate(lengths, initial=32)][1:]
        parts = [packed[start:end] for start, end in zip(cuts, cuts[1:])]
        self._starts, self.offsets = parts[0].view(np.int64), parts[1].view(np.int64)
        self.positions, self.lengths = parts[2].view(np.int32), parts[3].view(np.float32)
        self.counts, self._letters = parts[4], parts[5]
        if self._starts[-1] != num_letters or self.offsets[-1] != num_postings:
            raise ValueError("the parts of the inverted index do not belong together")

    @property
    def num_terms(self) -> int:
        return len(self._starts) - 1

    def name(self, number: int) -> bytes:
        """One term."""
        return self._letters[self._starts[number] : self._starts[number + 1]].tobytes()

    def names(self) -> list[bytes]:
        """All terms, ascending."""
        letters, starts = self._letters.tobytes(), self._starts.tolist()
        return [letters[start:end] for start, end in zip(starts, starts[1:])]

    def find(self, name: bytes) -> slice | None:
        """Where a term's rows are in `positions` and `counts`."""
        number = bisect_left(range(self.num_terms), name, key=self.name)
        if number == self.num_terms or self.name(number) != name:
            return None
        return slice(int(self.offsets[number]), int(self.offsets[number + 1]))


def _section_bytes(num_rows: int, num_terms: int, num_postings: int, num_letters: int) -> list[int]:
    return [8 * (num_terms + 1), 8 * (num_terms + 1), 4 * num_postings, 4 * num_rows, num_postings, num_letters]


def _pack(names: Sequence[bytes], offsets: Any, positions: Any, lengths: Any, counts: Any) -> Postings:
    letters = np.frombuffer(b"".join(names), np.uint8)
    starts = np.concatenate([[0], np.cumsum([len(name) for name in names], dtype=np.int64)]).astype(np.int64)
    sizes = np.array([len(lengths), len(names), len(positions), len(letters)], np.int64)
    arrays = (
        sizes, starts, offsets.astype(np.int64), positions.astype(np.int32), lengths.astype(np.float32),
        counts.astype(np.uint8), letters,
    )
    return Postings(np.concatenate([values.view(np.uint8) for values in arrays]))


class Counter:
    """Makes postings of documents; remembers the words it has seen, so that each is stemmed once."""

    def __init__(self) -> None:
        self._numbers = _Numbers()

    def count(self, documents: Sequence[Document]) -> Postings:
        """The inverted index of some documents (at most some ten thousand, to bound memory)."""
        if len(self._numbers) > 1_000_000:
            self._numbers = _Numbers()
        words = [indexed_words(document).split() for document in documents]
        numbers = np.frombuffer(array.array("q", map(self._numbers.__getitem__, chain.from_iterable(words))), np.int64)
        owners = np.repeat(np.arange(len(documents)), [len(row) for row in words])
        owners, numbers = owners[numbers >= 0], numbers[numbers >= 0]
        used, ranks = np.unique(numbers, return_inverse=True)
        names = [self._numbers.names[number] for number in used.tolist()]
        order = sorted(range(len(names)), key=names.__getitem__)
        place = np.empty(len(names), np.int64)
        place[order] = np.arange(len(names))
        # a key is (term, row) in one number: sorted, it is the inverted index
        keys, counts = np.unique(place[ranks] * max(len(documents), 1) + owners, return_counts=True)
        rows, positions = np.divmod(keys, max(len(documents), 1))
        counts = np.minimum(counts, MAX_COUNT)
        lengths = np.sqrt(np.bincount(positions, WEIGHTS[counts] ** 2, minlength=len(documents)))
        offsets = np.searchsorted(rows, np.arange(len(names) + 1))
        return _pack([names[number] for number in order], offsets, positions, lengths, counts)


def merge(parts: Sequence[Postings]) -> Postings:
    """One inverted index of ranges that follow each other: the same as if all documents had been counted together."""
    if len(parts) == 1:
        return parts[0]
    listed = [part.names() for part in parts]
    names = sorted(set(chain.from_iterable(listed)))
    places = {name: place for place, name in enumerate(names)}
    maps = [np.array([places[name] for name in own], np.int64) for own in listed]
    sizes = np.zeros(len(names), np.int64)
    for part, own in zip(parts, maps):
        sizes[own] += np.diff(part.offsets)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    positions, counts = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.uint8)
    # where the next rows of every term go
    cursor, first = offsets[:-1].copy(), 0
    for part, own in zip(parts, maps):
        spans = np.diff(part.offsets)
        target = np.repeat(cursor[own] - part.offsets[:-1], spans) + np.arange(len(part.positions))
        positions[target], counts[target] = part.positions + first, part.counts
        cursor[own] += spans
        first += part.num_rows
    return _pack(names, offsets, positions, np.concatenate([part.lengths for part in parts]), counts)


class _Numbers(dict):
    """Word -> term number, filled on first sight; -1 for words that are not indexed."""

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self._terms: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        name = term(word)
        number = -1
        if name:
            number = self._terms.setdefault(name, len(self._terms))
            if number == len(self.names):
                self.names.append(name.encode("utf-8"))
        self[word] = number
        return number
