"""Which documents belong together, so that a split into training and test documents leaks nothing.

Passages of one document, and documents that are nearly the same, fall on the same side. Likeness is that of MinHash
signatures over sequences of three words (Broder 1997).
"""

import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from nanochat.rag.library import Library, folded

# 21 bands of three: 94 % of the pairs that are half the same meet in one, 99 % of those that are alike to 0.6
NUM_HASHES, ROWS_PER_BAND = 63, 3
COMPARED = 40  # latest texts of a bucket that a new one is compared with
NEAR_SHARE = 0.5  # of a signature: documents that share more are near-duplicates
SPLITS = ("train", "validation", "test")
_WIDTH = 3


def signature(text: str) -> np.ndarray:
    """uint32 (NUM_HASHES,): the share of equal places of two signatures is about the share of common sequences."""
    words = folded(text).split()
    grams = {" ".join(words[place : place + _WIDTH]) for place in range(max(1, len(words) - _WIDTH + 1))}
    hashes = np.fromiter((zlib.crc32(gram.encode("utf-8", "replace")) for gram in grams), np.uint64, len(grams))
    return ((_FACTORS[:, None] * hashes[None] + _OFFSETS[:, None]) % _PRIME).min(1).astype(np.uint32)


_PRIME = np.uint64(4_294_967_291)
_FACTORS = np.array([2 * random.Random(place).randrange(1, 2**30) + 1 for place in range(NUM_HASHES)], np.uint64)
_OFFSETS = np.array([random.Random(~place).randrange(2**31) for place in range(NUM_HASHES)], np.uint64)


def groups_of(library: Library) -> list[int]:
    """A number for each document, equal for those that belong together: the lowest position among them.

    Passages belong to their document, unless there are fewer than three documents; then only near-duplicates do.
    """
    parents = [library.parent(position) for position in range(len(library.documents))]
    roots = list(range(len(parents)))

    def root(position: int) -> int:
        while roots[position] != position:
            roots[position] = roots[roots[position]]
            position = roots[position]
        return position

    def join(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)))
        roots[high] = low

    if len(set(parents)) >= len(SPLITS):
        first: dict[str, int] = {}
        for position, parent in enumerate(parents):
            join(first.setdefault(parent, position), position)
    for one, other in near_duplicates([document["content"] for document in library.documents]):
        join(one, other)
    return [root(position) for position in range(len(parents))]


def near_duplicates(texts: Sequence[str]) -> Iterable[tuple[int, int]]:
    """Pairs of texts that are nearly the same; among many of one kind not every pair, but enough to join them all."""
    signatures = np.stack([signature(text) for text in texts]) if texts else np.zeros((0, NUM_HASHES), np.uint32)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for position, row in enumerate(signatures):
        candidates: set[int] = set()
        for band in range(0, NUM_HASHES, ROWS_PER_BAND):
            bucket = buckets[band, row[band : band + ROWS_PER_BAND].tobytes()]
            candidates.update(bucket[:1], bucket[-COMPARED:])
            bucket.append(position)
        found = np.array(sorted(candidates), np.int64)
        for other in found[(signatures[found] == row).mean(1) >= NEAR_SHARE] if len(found) else ():
            yield int(other), position


def split_of(
    groups: Sequence[int], names: Sequence[str], asked: set[int], shares: Sequence[float], seed: int
) -> list[int]:
    """The split (0 train, 1 validation, 2 test) of each document; whole groups fall into one.

    A group's place is a stable draw by the name of its first document, so that added documents move no others; a group
    as large as half a split, such as documents of much repeated text, is for training. Where
    three groups or more have questions (`asked`, positions), every split of a share above zero gets one of them.
    """
    places = {group: random.Random(f"{seed}:{names[group]}").random() for group in sorted(set(groups))}
    bounds = (shares[2], shares[2] + shares[1])
    chosen = {group: 2 if place < bounds[0] else 1 if place < bounds[1] else 0 for group, place in places.items()}
    sizes = Counter(groups)
    for group, split in chosen.items():
        if split and sizes[group] > max(1, shares[split] * len(groups) / 2):
            chosen[group] = 0
    having = sorted({groups[position] for position in asked}, key=lambda group: places[group])
    wanted = [split for split in (2, 1, 0) if split == 0 or shares[split] > 0]
    if len(having) >= len(wanted):
        for split in wanted:
            if not any(chosen[group] == split for group in having):
                # the nearest one changes sides, if its own side keeps another
                edge = {2: 0.0, 1: bounds[0], 0: 1.0}[split]
                for group in sorted(having, key=lambda group: abs(places[group] - edge)):
                    if sum(chosen[other] == chosen[group] for other in having) > 1:
                        chosen[group] = split
                        break
    return [chosen[group] for group in groups]
