"""How rows of given tokens are read: in few forwards without padding, and what several begin with only once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

MIN_SHARED = 32  # tokens that rows must have in common to make reading them once worth a forward of its own


@dataclass(frozen=True)
class Shared:
    """Rows that hold the same ids up to `length`, the first of which reads them for all."""

    rows: list[int]
    length: int


def plan_steps(lengths: Sequence[int]) -> list[tuple[list[int], int]]:
    """How to feed rows of different length without padding: (positions in lengths, tokens each takes), in order.

    All rows step their common length together. What is left goes either length by length (one call per distinct
    length) or by powers of two (one call per binary digit of the spread), whichever needs fewer calls: rows may
    stand at different places, only the number of tokens of a call must be the same for all.
    """
    common = min(lengths, default=0)
    steps = [(list(range(len(lengths))), common)] if common else []
    rest = [length - common for length in lengths]
    marks = sorted(set(rest) - {0})
    digits = [1 << bit for bit in reversed(range(max(rest, default=0).bit_length()))]
    digits = [digit for digit in digits if any(left & digit for left in rest)]
    if len(marks) <= len(digits):
        for before, mark in zip([0, *marks], marks, strict=False):
            steps.append(([i for i, left in enumerate(rest) if left >= mark], mark - before))
    else:
        steps += [([i for i, left in enumerate(rest) if left & digit], digit) for digit in digits]
    return steps


def find_shared(rows: dict[int, tuple[Sequence[int], int]]) -> list[Shared]:
    """Groups of rows that have read the same and have at least MIN_SHARED ids in common to read next.

    rows: number -> its ids and how many leading ones it has read.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, (ids, num_read) in rows.items():
        if len(rows) > 1 and len(ids) >= num_read + MIN_SHARED:
            groups.setdefault((num_read, *ids[: num_read + MIN_SHARED]), []).append(row)
    return [Shared(group, len(os.path.commonprefix([list(rows[row][0]) for row in group])))
            for group in groups.values() if len(group) > 1]
