"""A session: rows of tokens that grow together over one cache, by given tokens (extend) and sampled ones (sample)."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nanochat.engine.placing import PlacedRows
from nanochat.engine.prefix_cache import PrefixCache
from nanochat.engine.reading import MIN_SHARED, find_shared, plan_steps
from nanochat.engine.rows import Row, SessionMark, TokenRule, row_random
from nanochat.engine.sampling import SamplingParams, choose, logprobs_of
from nanochat.model import Cache, LanguageModel

__all__ = ["Row", "Session", "SessionMark", "TokenRule", "plan_steps"]


class Session:
    """Rows over one cache. A row's ids, logits and samples are the same alone and in company.

    Row r draws its random numbers from (seed, numbers[r]), by default (seed, r), so a row repeats itself in another
    batch under the same number. Nothing is padded: rows that run together stand side by side in one cache and run in
    place. What rows begin with in common is read once; with a prefix cache also what was read before.
    """

    def __init__(
        self, model: LanguageModel, num_rows: int = 1, *, seed: int = 0, numbers: Sequence[int] | None = None,
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        assert prefix_cache is None or prefix_cache.model is model, "the prefix cache belongs to another model"
        self.model, self.prefix_cache = model, prefix_cache
        self._placed = PlacedRows(model.new_cache(num_rows))
        self.rows = [Row(random=row_random(seed, number)) for number in numbers or range(num_rows)]
        assert len(self.rows) == num_rows, f"{num_rows} rows, {len(self.rows)} numbers"
        self._features: Tensor | None = None  # (B, C) at the last fed id of each row

    @property
    def cache(self) -> Cache:
        """State of all rows after the ids they were fed; the session goes on writing to it."""
        return self._placed.in_order()

    @torch.no_grad()
    def extend(
        self, rows: Sequence[int], ids_per_row: Sequence[Sequence[int]], *,
        boundaries: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Append given ids (mask 0) to rows and let the model read them.

        boundaries: for each row lengths of its ids after which a prefix cache keeps the state, besides those it
        chooses itself; a row that was empty begins with the longest prefix known there. Cost: one forward for the
        length all rows share, then at most as many as binary digits in the spread of lengths, and so again from
        boundary to boundary.
        """
        assert len(rows) == len(set(rows)) == len(ids_per_row), f"{len(rows)} rows, {len(ids_per_row)} lists of ids"
        empty = [number for number in rows if not self.rows[number].ids]
        for number, ids in zip(rows, ids_per_row, strict=True):
            row = self.rows[number]
            row.ids.extend(ids)
            row.mask.extend([0] * len(ids))
            row.logprobs.extend([0.0] * len(ids))
        chosen = dict(zip(rows, boundaries or [()] * len(rows), strict=True))
        stops = {number: self._recall(number, chosen[number]) for number in empty}
        self._read_shared(empty, stops)
        self._feed(rows, stops)

    @torch.no_grad()
    def logits(self, rows: Sequence[int] | None = None) -> Tensor:
        """Logits (len(rows), V) float32 for the next id of each row."""
        rows = range(len(self.rows)) if rows is None else rows
        self._feed(rows)
        return self._head(self._known_features(rows))

    def sample(
        self,
        params: SamplingParams | Sequence[SamplingParams],
        *,
        stop_ids: Collection[int],
        rows: Sequence[int] | None = None,
        rule: TokenRule | None = None,
    ) -> list[list[int]]:
        """Sample rows (default all) until each has a stop id, which is kept, or max_tokens; the sampled ids per row.

        params: for all rows, or one for each of them.
        """
        rows = list(range(len(self.rows))) if rows is None else list(rows)
        starts = [len(self.rows[number].ids) for number in rows]
        for _ in self.steps(params, stop_ids=stop_ids, rows=rows, rule=rule):
            pass
        return [self.rows[number].ids[start:] for number, start in zip(rows, starts, strict=True)]

    @torch.no_grad()
    def steps(
        self,
        params: SamplingParams | Sequence[SamplingParams],
        *,
        stop_ids: Collection[int],
        rows: Sequence[int] | None = None,
        rule: TokenRule | None = None,
    ) -> Iterator[list[tuple[int, int]]]:
        """sample(), one step at a time: yields the (row, id) pairs of each step.

        Rows that stop leave the batch. The session is not to be touched between steps; leaving the iterator early
        keeps what was sampled.
        """
        live = list(range(len(self.rows))) if rows is None else list(rows)
        each = [params] * len(live) if isinstance(params, SamplingParams) else params
        ways = dict(zip(live, each, strict=True))
        left = {number: way.max_tokens for number, way in ways.items()}
        self._feed(live)
        while live:
            ids = self._choose(live, [ways[number] for number in live], rule).tolist()
            yield list(zip(live, ids, strict=True))
            for number, id in zip(live, ids, strict=True):
                left[number] = 0 if id in stop_ids or id in ways[number].stop_ids else left[number] - 1
            live = [number for number in live if left[number]]
            self._read(live, 1)

    @torch.no_grad()
    def keep(self, rows: Sequence[int] | None = None) -> None:
        """Hand what rows (default all) have read to the prefix cache: a next turn begins with it. No-op without one."""
        for number in range(len(self.rows)) if rows is None else rows:
            self._keep(number)

    def mark(self, rows: Sequence[int] | None = None) -> SessionMark:
        """Remember where rows (default all) are. Cheap: keys and values are not copied."""
        rows = list(range(len(self.rows))) if rows is None else list(rows)
        kept = {}
        for number in rows:
            row = self.rows[number]
            unread = slice(row.num_fed, None)
            kept[number] = {
                "num_fed": row.num_fed, "ids": row.ids[unread], "mask": row.mask[unread],
                "logprobs": row.logprobs[unread], "random": row.random.getstate(), "version": row.version,
                "features": self._features[number].clone() if row.num_fed else None,
            }
        return SessionMark(self._placed.cache.mark(self._placed.places(rows)), kept)

    def rollback(self, mark: SessionMark, rows: Sequence[int] | None = None) -> None:
        """Rows (default all that were marked) are what they were: ids, mask, logprobs, state and chance.

        A mark stays usable, unless a row went back further than it since.
        """
        rows = list(mark.rows if rows is None else rows)
        self._placed.cache.rollback(mark.state, self._placed.places(rows))
        for number in rows:
            row, kept = self.rows[number], mark.rows[number]
            for name in ("ids", "mask", "logprobs"):
                getattr(row, name)[kept["num_fed"] :] = kept[name]
            row.num_fed, row.version = kept["num_fed"], kept["version"]
            row.random.setstate(kept["random"])
            if kept["features"] is not None:
                self._features[number] = kept["features"]

    def fork(self, n: int, *, seed: int = 0) -> "Session":
        """A new session with every row repeated n times (row r becomes r*n .. r*n+n-1), each with its own chance."""
        child = Session.__new__(Session)
        child.model, child.prefix_cache = self.model, self.prefix_cache
        child._placed = PlacedRows(self.cache.fork(n))
        child.rows = [
            replace(row, ids=[*row.ids], mask=[*row.mask], logprobs=[*row.logprobs],
                    random=row_random(seed, number * n + copy))
            for number, row in enumerate(self.rows)
            for copy in range(n)
        ]
        child._features = None if self._features is None else self._features.repeat_interleave(n, dim=0)
        return child

    def _choose(self, live: list[int], params: Sequence[SamplingParams], rule: TokenRule | None) -> Tensor:
        logits = self._head(self._known_features(live))
        allowed = None if rule is None else rule.allowed(live)
        ids = choose(logits, params, [self.rows[number].random.random() for number in live], allowed=allowed)
        for number, id, logprob in zip(live, ids.tolist(), logprobs_of(logits, ids).tolist(), strict=True):
            self.rows[number].append(id, logprob)
        if rule is not None:
            rule.advance(live, ids)
        return ids

    def _recall(self, number: int, boundaries: Sequence[int]) -> list[int]:
        """Begin an empty row with what the prefix cache knows of its ids; the lengths at which to keep its state."""
        row = self.rows[number]
        if self.prefix_cache is None or not row.ids:
            return []
        match = self.prefix_cache.match(row.ids, boundaries=boundaries)
        row.version = match.version
        if match.num_tokens:
            row.num_fed = match.num_tokens
            match.put(self._placed.cache, *self._placed.places([number]))
            if match.features is not None:
                self._remember([number], match.features[None])
        return list(match.snapshots)

    def _read_shared(self, rows: Sequence[int], stops: dict[int, list[int]]) -> None:
        """What rows have in common is read by one of them, and copied."""
        while groups := find_shared({number: (self.rows[number].ids, self.rows[number].num_fed) for number in rows}):
            ends = {shared.rows[0]: shared.length for shared in groups}
            for shared in groups:
                first, length = shared.rows[0], shared.length
                # rows part ways here, and others may later
                if self.prefix_cache and not any(length - MIN_SHARED < place <= length for place in stops[first]):
                    stops[first] = sorted([*stops[first], length])
            self._feed(list(ends), stops, ends)
            for first, *others in (shared.rows for shared in groups):
                self._remember(others, self._features[[first]].expand(len(others), -1))
                for number in others:
                    self._placed.cache.copy_row(*self._placed.places([first, number]))
                    self.rows[number].num_fed = self.rows[first].num_fed

    def _feed(
        self, rows: Sequence[int], stops: dict[int, list[int]] | None = None, ends: dict[int, int] | None = None
    ) -> None:
        """Let the model read what rows hold and it has not read yet, up to `ends`; states are kept at `stops`."""
        stops, ends = stops or {}, ends or {}
        while True:
            unread: dict[int, int] = {}
            for number in rows:
                fed, end = self.rows[number].num_fed, ends.get(number, len(self.rows[number].ids))
                unread[number] = min((place for place in stops.get(number, ()) if fed < place < end), default=end) - fed
            live = [number for number in rows if unread[number] > 0]
            if not live:
                return
            for places, length in plan_steps([unread[number] for number in live]):
                self._read([live[place] for place in places], length)
            for number in live:
                if self.rows[number].num_fed in stops.get(number, ()):
                    self._keep(number, passing=self.rows[number].num_fed == len(self.rows[number].ids))

    def _read(self, rows: Sequence[int], length: int) -> None:
        """One forward: the next `length` unread ids of rows."""
        if not rows:
            return
        view, group = self._placed.group(rows, length)
        tails = [self.rows[number].ids[self.rows[number].num_fed :][:length] for number in group]
        features = self.model.features(torch.tensor(tails, device=self.model.device), view)[:, -1]
        for number in group:
            self.rows[number].num_fed += length
        self._remember(group, features)

    def _keep(self, number: int, *, passing: bool = False) -> None:
        row = self.rows[number]
        if self.prefix_cache is not None and row.version is not None and row.num_fed:
            self.prefix_cache.insert(
                row.ids[: row.num_fed], self._placed.cache, *self._placed.places([number]),
                features=self._features[number], version=row.version, passing=passing)

    def _head(self, features: Tensor) -> Tensor:
        return self.model.head(features[:, None])[:, 0].float()

    def _remember(self, rows: Sequence[int], features: Tensor) -> None:
        if self._features is None:
            self._features = features.new_zeros(len(self.rows), features.shape[-1])
        self._features[list(rows)] = features

    def _known_features(self, rows: Sequence[int]) -> Tensor:
        unread = [number for number in rows if not self.rows[number].num_fed]
        assert not unread, f"rows {unread} are empty: extend them before sampling"
        return self._features[list(rows)]
