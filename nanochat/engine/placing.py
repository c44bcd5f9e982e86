"""Rows of one cache brought side by side, so that any group of them can run as a view, without copying the others."""

from collections.abc import Sequence

from nanochat.model import Cache


class PlacedRows:
    """A cache whose rows may stand in any place; row numbers stay what they are."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._place = list(range(len(cache)))  # of each row
        self._row = list(range(len(cache)))  # in each place
        self._last: tuple[list[int], Cache, list[int]] | None = None  # what group() gave, while rows stay put

    def places(self, rows: Sequence[int]) -> list[int]:
        return [self._place[row] for row in rows]

    @property
    def cache(self) -> Cache:
        """The cache, its rows wherever they stand."""
        return self._cache

    def in_order(self) -> Cache:
        """The cache with every row in its own place."""
        for row in range(len(self._row)):
            self._swap(self._place[row], row)
        return self._cache

    def group(self, rows: Sequence[int], room: int) -> tuple[Cache, list[int]]:
        """A view of exactly these rows, with room for `room` more tokens, and their numbers in the order of the view.

        Rows that stand elsewhere change places with rows that are in the way: as few of them as can be.
        """
        if self._last is None or self._last[0] != list(rows) or self._last[1].is_stale:
            start = self._gather(set(rows))
            view = self._cache.view(start + len(rows), start=start)
            self._last = list(rows), view, self._row[start : start + len(rows)]
        _, view, group = self._last
        needed, capacity = max(view.host_lengths, default=0) + room, view.capacity
        if capacity is None or needed <= capacity:
            return view, group
        self._cache.reserve(max(needed, 2 * capacity))
        self._last = None
        return self.group(rows, room)

    def _gather(self, rows: set[int]) -> int:
        """Put rows side by side; the first of their places."""
        held = [row in rows for row in self._row]
        size = len(rows)
        inside = sum(held[:size])
        best, start = inside, 0
        for stop in range(size, len(held)):
            inside += held[stop] - held[stop - size]
            if inside > best:
                best, start = inside, stop - size + 1
        window = range(start, start + size)
        guests = [place for place in window if not held[place]]
        away = [place for place, is_held in enumerate(held) if is_held and place not in window]
        for one, other in zip(guests, away, strict=True):
            self._swap(one, other)
        return start

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            self._last = None
            self._cache.swap_rows(one, other)
            self._row[one], self._row[other] = self._row[other], self._row[one]
            self._place[self._row[one]], self._place[self._row[other]] = one, other
