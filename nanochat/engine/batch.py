"""The rows that write: one cache, its leading places taken, one forward for all of them and a choice for each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.engine.cuda_graphs import DecodeGraphs
from nanochat.engine.deciding import decide
from nanochat.engine.live_row import Row, guard
from nanochat.engine.prefill import Prefill
from nanochat.engine.request import Handle
from nanochat.engine.rules import stack_masks
from nanochat.engine.sampling import choose, drawn_logprobs
from nanochat.engine.speculative import Drafter
from nanochat.model import Cache, LanguageModel
from nanochat.model.cache import Mark

SPARE = 128  # the room for tokens is a multiple of this where the limit allows it


@dataclass(eq=False)
class _Forward:
    """One forward of a step, of rows that stand side by side."""

    rows: list[Row]
    cache: Cache  # a view
    mark: Mark | None  # where they stood, if anything was guessed
    features: Tensor  # (len(rows), T, C)


class Batch:
    """Live rows over one cache that grows by doubling and is given back when the last row leaves."""

    def __init__(
        self, model: LanguageModel, *, max_rows: int, max_bytes: int, speculate: int, speculate_rows: int,
        has_graphs: bool,
    ) -> None:
        self._model, self._max_rows, self._max_bytes = model, max_rows, max_bytes
        self._speculate, self._speculate_rows = speculate, speculate_rows
        self.rows: list[Row] = []
        self._cache: Cache | None = None
        self._view: Cache | None = None  # of the live rows, while they stay the same
        self._has_graphs = has_graphs
        self._graphs: DecodeGraphs | None = None  # over _cache
        empty = model.new_cache(1)
        self._row_bytes = empty.num_bytes
        empty.reserve(1)
        self._position_bytes = empty.num_bytes - self._row_bytes

    def bytes_for(self, num_rows: int, num_tokens: int) -> int:
        """Memory of so many rows with room for so many tokens each."""
        return num_rows * (self._row_bytes + num_tokens * self._position_bytes)

    @property
    def num_bytes(self) -> int:
        return self._cache.num_bytes if self._cache else 0

    @property
    def longest(self) -> int:
        """Tokens the longest row may come to."""
        return max((row.num_tokens for row in self.rows), default=0)

    def release(self) -> None:
        """Give the memory back that is kept while nobody writes."""
        assert not self.rows, f"{len(self.rows)} rows live in the cache"
        self._cache = self._view = self._graphs = None

    def join(self, prefill: Prefill, num_waiting: int = 0) -> None:
        """Rows that have read their prompts choose their first id and take the places behind the others.

        num_waiting: who will join soon, so that the cache need not grow again for them.
        """
        rows = []
        for place, handle in enumerate(prefill.handles):
            row = self._new_row(handle, prefill, place)
            if not handle.is_done:
                rows.append((row, place))
        if not rows:
            return
        self._settle([row for row, _ in rows], torch.stack([row.features for row, _ in rows]))
        rows = [(row, place) for row, place in rows if not row.handle.is_done]
        if not rows:
            return
        limit = self._max_bytes - prefill.num_bytes if self._max_bytes else math.inf
        self._make_room(len(self.rows) + len(rows), max(self.longest, *(row.num_tokens for row, _ in rows), 0),
                        num_waiting=num_waiting, limit=limit)
        assert self._cache is not None, "no cache for new rows"
        for row, place in rows:
            self._cache.put_row(len(self.rows), *prefill.state(place))
            self.rows.append(row)
        self._view = None

    def leave(self, place: int) -> None:
        """The row in a place is gone; the last one takes it."""
        last = len(self.rows) - 1
        if place != last:
            assert self._cache is not None, "live rows without a cache"
            self._cache.copy_row(last, place)
            self.rows[place] = self.rows[last]
        self.rows.pop()
        self._view = None
        # what was recorded is worth more than the memory of a cache that does not grow
        if not self.rows and not self._has_graphs:
            self._cache = None

    def drop_ended(self) -> None:
        """Rows whose handles ended outside of a step leave."""
        for place in reversed(range(len(self.rows))):
            if self.rows[place].handle.is_done:
                self.leave(place)

    def step(self, when_ended: Callable[[Row, Cache], None]) -> None:
        """One forward, and one id for every row, or more where a guess was right.

        when_ended: called with every row that came to its end and its state, after which its place is given away.
        """
        may_draft = 0 < len(self.rows) <= self._speculate_rows
        for row in self.rows:
            guard(row, lambda row=row: row.prepare(may_draft))
        self.drop_ended()
        if not self.rows:
            return
        forwards = [self._forward(start, end) for start, end, _ in self._groups()]
        pieces: list[Tensor] = []
        for forward in forwards:
            if forward.mark is None:
                pieces.append(forward.features[:, -1])
            else:
                pieces += [features[-1 - len(row.draft) :] for row, features in zip(
                    forward.rows, forward.features, strict=True)]
        rows = [row for forward in forwards for row in forward.rows]
        self._settle(rows, torch.cat(pieces) if len(pieces) > 1 else pieces[0])
        for forward in forwards:
            self._put_back(forward)
        for place in reversed(range(len(self.rows))):
            row = self.rows[place]
            if row.handle.is_done:
                if row.handle.error is None:
                    when_ended(row, self._cache.view(place + 1, start=place))
                self.leave(place)

    def _groups(self) -> list[tuple[int, int, int]]:
        """(first place, end, ids to read) of rows that read equally many; such rows are brought side by side."""
        wanted = [len(row.pending) + len(row.draft) for row in self.rows]
        groups, start = [], 0
        for length in sorted(set(wanted)):
            for place in range(start, len(wanted)):
                if wanted[place] == length:
                    self._swap(start, place)
                    wanted[start], wanted[place] = wanted[place], wanted[start]
                    start += 1
            groups.append((start - wanted.count(length), start, length))
        return groups

    def _swap(self, one: int, other: int) -> None:
        if one != other:
            self._cache.swap_rows(one, other)
            self.rows[one], self.rows[other] = self.rows[other], self.rows[one]

    def _forward(self, start: int, end: int) -> _Forward:
        rows = self.rows[start:end]
        if len(rows) == len(self.rows):
            self._view = cache = self._view or self._cache.view(end)
        else:
            cache = self._cache.view(end, start=start)
        mark = cache.mark() if any(row.draft for row in rows) else None
        ids = torch.tensor([[*row.pending, *row.draft] for row in rows], device=self._model.device)
        # a recorded step may write to places behind the rows it is for
        is_recorded = self._graphs is not None and ids.shape[1] == 1 and len(rows) == len(self.rows)
        read = self._graphs.step(cache, ids) if is_recorded else self._model.features(ids, cache)
        return _Forward(rows, cache, mark, read)

    def _settle(self, rows: Sequence[Row], features: Tensor) -> None:
        """Choose the next ids of rows; features (sum of their drafts and one each, C) at the places to choose at."""
        logits = self._model.head(features).float()
        decide(rows, logits)
        params, uniforms, masks = [], [], []
        for row in rows:
            count, request = len(row.draft) + 1, row.handle.request
            params += [request.params] * count
            uniforms += [0.0] * count if request.params.is_greedy else row.handle.uniforms(count)
            masks += row.masks
        allowed = stack_masks(masks)
        ids = choose(logits, params, uniforms, allowed=allowed)
        has_logprobs = any(row.handle.request.has_logprobs for row in rows)
        logprobs = drawn_logprobs(logits, params, ids, allowed=allowed) if has_logprobs else []
        if allowed is not None:
            # where nothing is allowed the choice is no choice
            ids = ids.where(allowed.expand(len(ids), -1).gather(1, ids[:, None])[:, 0], -1)
        picks, start = ids.tolist(), 0
        for row in rows:
            count = len(row.draft) + 1
            own = slice(start, start + count)
            known = logprobs[own] if row.handle.request.has_logprobs else ()
            guard(row, lambda row=row, mine=picks[own], known=known: row.take(mine, known))
            start += count

    def _put_back(self, forward: _Forward) -> None:
        """Rows whose guess was wrong go back to where they stood; the others know their new features."""
        for row, features in zip(forward.rows, forward.features, strict=True):
            if row.is_whole:
                row.features = features[-1]
        back = [number for number, row in enumerate(forward.rows) if not row.is_whole]
        if back and forward.mark is not None:
            forward.cache.rollback(forward.mark, back)

    def _new_row(self, handle: Handle, prefill: Prefill, place: int) -> Row:
        request, match = handle.request, prefill.matches[place]
        row = Row(handle, features=prefill.features[place], version=match.version if match else -1,
                  stop_ids=frozenset(request.params.stop_ids), num_ids=self._model.config.vocab_size)
        if request.rule is not None:
            guard(row, lambda: row.begin(request.rule()))
        if self._speculate:
            source = request.ids if request.source is None else request.source
            row.drafter = Drafter(source, max_draft=self._speculate)
        return row

    def _make_room(self, num_rows: int, num_tokens: int, *, limit: float, num_waiting: int = 0) -> None:
        """A cache of at most `limit` bytes, with places for num_rows rows of num_tokens tokens; live rows keep theirs.

        Where it has to grow it has places for those that wait, too, if half of the limit holds them: they have to be
        read beside it.
        """
        old, size = self._cache, len(self._cache) if self._cache else 0
        if size < num_rows:
            hoped = min(self._max_rows, num_rows + num_waiting)
            size = min(self._max_rows, max(num_rows, 2 * size))
            if hoped > size and self.bytes_for(hoped, num_tokens) <= limit / 2:
                size = hoped
        if self.bytes_for(size, num_tokens) > limit:
            size = num_rows
        room = max(num_tokens, (old.capacity or 0) if old else 0)
        if not self._has_graphs and (not old or room > (old.capacity or 0)):
            # somewhat longer rows than these need no new cache
            room = -(-room // SPARE) * SPARE
        if self.bytes_for(size, room) > limit:
            # longer rows than now lived here
            room = num_tokens
        if old is not None and size == len(old) and old.capacity in (room, None):
            return
        if self._has_graphs:
            # every new cache is recorded anew: let there be few
            larger = self._max_rows, 1 << (room - 1).bit_length()
            if self.bytes_for(*larger) <= limit:
                size, room = larger
            self._graphs = DecodeGraphs(self._model, size, room, is_static=True)
            self._cache = self._graphs.cache
        else:
            self._cache = self._model.new_cache(size)
            self._cache.reserve(room)
        for place in range(len(self.rows)):
            self._cache.put_row(place, old, place)
