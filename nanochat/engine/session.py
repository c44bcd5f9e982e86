"""A session: rows of tokens that grow together over one cache, by given tokens (extend) and sampled ones (sample)."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from nanochat.engine.sampling import SamplingParams, choose, logprobs_of
from nanochat.model import Cache, LanguageModel


class TokenRule(Protocol):
    """Which ids may be sampled next; rows are numbers of the session's rows."""

    def allowed(self, rows: Sequence[int]) -> Tensor: ...  # (len(rows), V) bool, on the model's device
    def advance(self, rows: Sequence[int], ids: Tensor) -> None: ...  # ids (len(rows),)


@dataclass
class Row:
    """What one row has seen: ids, and for each id whether the policy sampled it and how likely it found it."""

    random: random.Random
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)  # 1 sampled (stop token included), 0 given
    logprobs: list[float] = field(default_factory=list)  # of sampled ids under the model itself; 0.0 where given
    num_fed: int = 0  # leading ids the model has read; the last sampled one is read when something follows it

    def append(self, id: int, logprob: float) -> None:
        self.ids.append(id)
        self.mask.append(1)
        self.logprobs.append(logprob)


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


class Session:
    """Rows over one cache. A row's ids, logits and samples are the same alone and in company.

    Row r draws its random numbers from (seed, numbers[r]), by default (seed, r), so a row repeats itself in another
    batch under the same number. Nothing is padded: rows that differ are gathered, stepped and scattered back.
    """

    def __init__(
        self, model: LanguageModel, num_rows: int = 1, *, seed: int = 0, numbers: Sequence[int] | None = None
    ) -> None:
        self.model = model
        self._cache = model.new_cache(num_rows)
        self._ended: list[tuple[list[int], Cache]] = []  # states of rows that left a batch, newer than those in _cache
        self.rows = [Row(random=_row_random(seed, number)) for number in numbers or range(num_rows)]
        assert len(self.rows) == num_rows, f"{num_rows} rows, {len(self.rows)} numbers"
        self._features: Tensor | None = None  # (B, C) at the last fed id of each row

    @property
    def cache(self) -> Cache:
        """State of all rows after the ids they were fed."""
        # rows that leave a batch are written back together and only if someone asks: most answers end here
        for rows, part in self._ended:
            self._cache.scatter(rows, part)
        self._ended = []
        return self._cache

    @torch.no_grad()
    def extend(self, rows: Sequence[int], ids_per_row: Sequence[Sequence[int]]) -> None:
        """Append given ids (mask 0) to rows and let the model read them.

        Cost: one forward for the length all rows share, then at most as many as binary digits in the spread of
        lengths; each of those copies the state of the rows it steps.
        """
        assert len(rows) == len(set(rows)) == len(ids_per_row), f"{len(rows)} rows, {len(ids_per_row)} lists of ids"
        for number, ids in zip(rows, ids_per_row, strict=True):
            row = self.rows[number]
            row.ids.extend(ids)
            row.mask.extend([0] * len(ids))
            row.logprobs.extend([0.0] * len(ids))
        self._feed(rows)

    @torch.no_grad()
    def logits(self, rows: Sequence[int] | None = None) -> Tensor:
        """Logits (len(rows), V) float32 for the next id of each row."""
        rows = range(len(self.rows)) if rows is None else rows
        self._feed(rows)
        return self._head(self._known_features(rows))

    def sample(
        self,
        params: SamplingParams,
        *,
        stop_ids: Collection[int],
        rows: Sequence[int] | None = None,
        rule: TokenRule | None = None,
    ) -> list[list[int]]:
        """Sample rows (default all) until each has a stop id, which is kept, or max_tokens; the sampled ids per row."""
        rows = list(range(len(self.rows))) if rows is None else list(rows)
        starts = [len(self.rows[number].ids) for number in rows]
        for _ in self.steps(params, stop_ids=stop_ids, rows=rows, rule=rule):
            pass
        return [self.rows[number].ids[start:] for number, start in zip(rows, starts, strict=True)]

    @torch.no_grad()
    def steps(
        self,
        params: SamplingParams,
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
        self._feed(live)
        cache, features = self._take(live), self._known_features(live)
        try:
            for left in reversed(range(params.max_tokens)):
                ids = self._choose(live, self._head(features), params, rule)
                sampled = ids.tolist()
                yield list(zip(live, sampled, strict=True))
                keep = [place for place, id in enumerate(sampled) if id not in stop_ids]
                if len(keep) < len(live):
                    ended = [place for place, id in enumerate(sampled) if id in stop_ids]
                    self._put([live[place] for place in ended], cache, features[ended], ended)
                    live, features, ids = [live[place] for place in keep], features[keep], ids[keep]
                    if not live:
                        return
                    cache = cache.gather(keep)
                if left:
                    features = self._read(cache, ids[:, None])
                    for number in live:
                        self.rows[number].num_fed += 1
        finally:
            self._put(live, cache, features)

    def fork(self, n: int, *, seed: int = 0) -> "Session":
        """A new session with every row repeated n times (row r becomes r*n .. r*n+n-1), each with its own chance."""
        child = Session.__new__(Session)
        child.model, child._cache, child._ended = self.model, self.cache.fork(n), []
        child.rows = [
            replace(row, ids=[*row.ids], mask=[*row.mask], logprobs=[*row.logprobs],
                    random=_row_random(seed, number * n + copy))
            for number, row in enumerate(self.rows)
            for copy in range(n)
        ]
        child._features = None if self._features is None else self._features.repeat_interleave(n, dim=0)
        return child

    def _choose(self, live: list[int], logits: Tensor, params: SamplingParams, rule: TokenRule | None) -> Tensor:
        allowed = None if rule is None else rule.allowed(live)
        ids = choose(logits, params, [self.rows[number].random.random() for number in live], allowed=allowed)
        for number, id, logprob in zip(live, ids.tolist(), logprobs_of(logits, ids).tolist(), strict=True):
            self.rows[number].append(id, logprob)
        if rule is not None:
            rule.advance(live, ids)
        return ids

    def _feed(self, rows: Sequence[int]) -> None:
        """Let the model read what rows hold and it has not read yet."""
        rows = [number for number in rows if self.rows[number].num_fed < len(self.rows[number].ids)]
        for places, length in plan_steps([len(self.rows[number].ids) - self.rows[number].num_fed for number in rows]):
            group = [rows[place] for place in places]
            cache = self._take(group)
            tails = [self.rows[number].ids[self.rows[number].num_fed :][:length] for number in group]
            features = self._read(cache, torch.tensor(tails, device=self.model.device))
            for number in group:
                self.rows[number].num_fed += length
            self._put(group, cache, features)

    def _read(self, cache: Cache, ids: Tensor) -> Tensor:
        return self.model.features(ids, cache)[:, -1]

    def _head(self, features: Tensor) -> Tensor:
        return self.model.head(features[:, None])[:, 0].float()

    def _take(self, rows: list[int]) -> Cache:
        cache = self.cache
        return cache if rows == list(range(len(self.rows))) else cache.gather(rows)

    def _put(self, rows: list[int], cache: Cache, features: Tensor, places: list[int] | None = None) -> None:
        """Keep features (len(rows), C) and the state of rows, which stand at these places (default all) of `cache`."""
        if not rows:
            return
        if cache is not self._cache:
            self._ended.append((rows, cache if places is None else cache.gather(places)))
        if self._features is None:
            self._features = features.new_zeros(len(self.rows), features.shape[-1])
        self._features[rows] = features

    def _known_features(self, rows: Sequence[int]) -> Tensor:
        unread = [number for number in rows if not self.rows[number].num_fed]
        assert not unread, f"rows {unread} are empty: extend them before sampling"
        return self._features[list(rows)]


def _row_random(seed: int, number: int) -> random.Random:
    # a string seed is hashed by SHA-512: neighbouring rows are unrelated
    return random.Random(f"{seed}:{number}")
