"""Continuous batching: requests join and leave at every step, and each gets the tokens it would get alone.

One cache holds the rows that write, in its leading places; who leaves is replaced by the last row. New prompts are read
beside it in portions, so that writing goes on, and a prompt that begins as one read before takes that up from the
prefix cache.
"""

import contextlib
import threading
from collections import deque

import torch

from nanochat.engine.batch import Batch
from nanochat.engine.live_row import Row
from nanochat.engine.prefill import MIN_SHARED, Prefill, num_shared
from nanochat.engine.prefix_cache import PrefixCache, PrefixMatch
from nanochat.engine.request import Handle, Request, RequestFailed, RequestRefused, check_ids
from nanochat.engine.sampling import SamplingParams, short
from nanochat.model import Cache, LanguageModel

LARGE = 8  # portions read at once where nobody waits for the next token


class Scheduler:
    """Requests over one model.

    max_rows: rows that write or are read at a time. max_cache_bytes: what their states may hold, those that are being
    read included, 0 without limit; only while the cache grows, the old one is held beside the new one for a moment.
    prefill_tokens: prompt tokens read per step. speculate: ids of a draft at most, 0 for none; only while at most
    speculate_rows rows are live, because reading a draft costs little where one row leaves the machine idle.
    has_graphs: steps of one token run at fixed shapes, recorded as CUDA graphs where there are any; None: on CUDA. The
    cache is then kept while nobody writes.

    submit, cancel and everything of a handle may be used from any thread. step() is for one thread at a time and waits
    for its turn. Tokens do not depend on order of arrival or company, up to rounding where two ids are as likely.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_rows: int = 64,
        max_cache_bytes: int = 0,
        prefill_tokens: int = 512,
        prefix_cache: PrefixCache | None = None,
        speculate: int = 0,
        speculate_rows: int = 2,
        has_graphs: bool | None = None,
    ) -> None:
        assert min(max_rows, prefill_tokens) > 0, f"max_rows {max_rows}, prefill_tokens {prefill_tokens}"
        self.model, self.prefix_cache = model, prefix_cache
        self.max_rows, self.prefill_tokens = max_rows, prefill_tokens
        self._batch = Batch(model, max_rows=max_rows, max_bytes=max_cache_bytes, speculate=speculate,
                            speculate_rows=speculate_rows,
                            has_graphs=model.device.type == "cuda" if has_graphs is None else has_graphs)
        self._max_bytes = max_cache_bytes
        self._waiting: deque[Handle] = deque()
        self._prefill: Prefill | None = None
        self._taken: list[Handle] = []  # out of the queue and not in a prefill yet
        self._matched: tuple[Handle, PrefixMatch | None] | None = None
        self._turn = threading.Lock()
        self._news = threading.Event()

    def submit(self, request: Request) -> Handle:
        """Queue a request. Raises RequestRefused when it can never be served."""
        if not isinstance(request.params, SamplingParams):
            raise RequestRefused(f"params is {short(request.params)}, not SamplingParams",
                                 hint="for example params=SamplingParams(max_tokens=64)")
        num_known = self.model.config.vocab_size
        check_ids("The prompt", request.ids, num_known)
        check_ids("stop_ids", request.params.stop_ids, num_known)
        check_ids("source", () if request.source is None else request.source, num_known)
        check_ids("boundaries", request.boundaries)
        num_ids, num_most = len(request.ids), request.num_tokens
        if not num_ids:
            raise RequestRefused("The request is empty", hint="a prompt has at least one token")
        # where it is read and where it is written to are held at once
        needed = self._batch.bytes_for(1, num_most) + self._batch.bytes_for(1, num_ids)
        if self._max_bytes and needed > self._max_bytes:
            raise RequestRefused(
                f"The request is too long: {num_ids} tokens and up to {request.params.max_tokens} more need "
                f"{needed:,} bytes, the limit is {self._max_bytes:,}",
                hint="shorten the prompt, lower max_tokens, or raise the limit of the cache",
            )
        handle = Handle(request)
        self._waiting.append(handle)
        self._news.set()
        return handle

    @property
    def num_live(self) -> int:
        """Rows that are writing."""
        return len(self._batch.rows)

    @property
    def num_waiting(self) -> int:
        """Requests that do not write yet."""
        return len(self._waiting) + (len(self._prefill.handles) if self._prefill else 0)

    def has_only(self, num_mine: int) -> bool:
        """Whether nobody else's requests are here: the caller has so many that are not done."""
        return self.num_live + self.num_waiting <= num_mine

    @property
    def num_bytes(self) -> int:
        """Memory of the states of rows, the prefix cache not counted."""
        return self._batch.num_bytes + (self._prefill.num_bytes if self._prefill else 0)

    @property
    def is_idle(self) -> bool:
        return not (self._batch.rows or self._prefill or self._waiting)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Sleep until there is work, at most so long; whether there is. For the thread that steps."""
        if self.is_idle:
            self._news.wait(timeout_s)
        return not self.is_idle

    @torch.no_grad()
    def step(self, *, reads_all: bool = False) -> bool:
        """Read some prompt tokens, write one token (or a draft's worth) in every live row; whether work is left.

        reads_all: first read every prompt there is room for, in large portions; for work that nobody watches. A request
        that fails ends with its error and the others go on. If the model itself fails, all of them end.
        """
        with self._turn:
            self._news.clear()
            is_done = False
            try:
                self._drop_cancelled()
                with self.prefix_cache.steady() if self.prefix_cache else contextlib.nullcontext():
                    self._read(reads_all)
                    self._batch.step(self._keep_answer)
                is_done = True
            finally:
                if not is_done:
                    self._give_up()
            return not self.is_idle

    def run(self) -> None:
        """Step until nothing is left."""
        while self.step():
            pass

    def _drop_cancelled(self) -> None:
        prefill = self._prefill.handles if self._prefill else []
        for handle in [*prefill, *(row.handle for row in self._batch.rows), *list(self._waiting)]:
            if handle.is_cancelled:
                handle.end("cancelled")
        for handle in [handle for handle in list(self._waiting) if handle.is_done]:
            self._waiting.remove(handle)
        self._batch.drop_ended()
        if prefill and all(handle.is_done for handle in prefill):
            self._prefill = None
        if self._matched and self._matched[0].is_done:
            # a state that was found for nobody
            self._matched = None

    def _read(self, reads_all: bool) -> None:
        portion = self.prefill_tokens * (LARGE if reads_all else 1)
        while True:
            if self._prefill is None:
                self._prefill = self._next_prefill(portion)
            if self._prefill is None:
                return
            self._prefill.read(portion)
            if not self._prefill.left:
                self._batch.join(self._prefill, len(self._waiting))
                self._prefill = None
            if not reads_all:
                return

    def _keep_answer(self, row: Row, cache: Cache) -> None:
        """The state at the end of an answer, for a next turn; the last id was not read."""
        if row.handle.request.keep and self.prefix_cache is not None:
            ids = [*row.handle.request.ids, *row.handle.ids][: cache.host_lengths[0]]
            self.prefix_cache.insert(ids, cache, features=row.features, version=row.version)

    def _next_prefill(self, budget: int) -> Prefill | None:
        """The first requests that wait and fit, in order, together at most a budget of tokens.

        One that begins as another of them does waits until that has been read, and goes on from there; who came behind
        it need not wait for that.
        """
        chosen: list[tuple[Handle, PrefixMatch | None]] = []
        followers: list[Handle] = []
        try:
            self._choose(chosen, followers, budget)
        finally:
            self._waiting.extendleft(reversed(followers))
        if not chosen:
            return None
        prefill = Prefill(self.model, *zip(*chosen, strict=True), self.prefix_cache)
        self._taken = []
        for handle in list(self._waiting):
            if place := self._alike(handle, chosen):
                prefill.keep_at(*place)
        return prefill

    def _choose(
        self, chosen: list[tuple[Handle, PrefixMatch | None]], followers: list[Handle], budget: int
    ) -> None:
        left, longest = budget, self._batch.longest
        while self._waiting:
            handle = self._waiting[0]
            if handle.is_cancelled:
                self._waiting.popleft().end("cancelled")
                if self._matched and self._matched[0] is handle:
                    self._matched = None
                continue
            if self.num_live + len(chosen) >= self.max_rows:
                break
            if self._alike(handle, chosen):
                followers.append(self._waiting.popleft())
                continue
            longest = max(longest, handle.request.num_tokens)
            prompts = [len(other.request.ids) for other in (handle, *(one for one, _ in chosen))]
            if not self._fits(len(prompts), max(prompts), longest):
                break
            match = self._match(handle)
            needed = len(handle.request.ids) - _num_known(match)
            if chosen and needed > left:
                self._matched = (handle, match)
                break
            self._taken.append(self._waiting.popleft())
            chosen.append((handle, match))
            left -= needed

    def _match(self, handle: Handle) -> PrefixMatch | None:
        if self.prefix_cache is None:
            return None
        # who found no room in the last portion is not looked up twice
        known, self._matched = self._matched, None
        # ... unless the weights may have changed since: a new match costs little, and knows
        if known and known[0] is handle and known[1] is not None and self.prefix_cache.is_current(known[1].version):
            return known[1]
        return self.prefix_cache.match(handle.request.ids)

    def _alike(self, handle: Handle, chosen: list[tuple[Handle, PrefixMatch | None]]) -> tuple[int, int] | None:
        """(number, length): who of the chosen is about to read most of what a request begins with, and how much."""
        if self.prefix_cache is None:
            return None
        best = (0, 0)
        for number, (other, match) in enumerate(chosen):
            length = num_shared(handle.request.ids, other.request.ids)
            if length >= MIN_SHARED + _num_known(match):
                best = max(best, (length, number))
        return (best[1], best[0]) if best[0] else None

    def _fits(self, num_new: int, num_read: int, num_tokens: int) -> bool:
        """Whether so many more rows, with prompts of up to num_read tokens, keep within the limit while they are read
        and when they have joined rows of up to num_tokens tokens.
        """
        if not self._max_bytes:
            return True
        batch = self._batch
        left = self._max_bytes - batch.bytes_for(num_new, num_read)
        if batch.num_bytes > left and not batch.rows:
            batch.release()
        return max(batch.num_bytes, batch.bytes_for(self.num_live + num_new, num_tokens)) <= left

    def _give_up(self) -> None:
        """The model failed: everything in the middle of something ends; what waits may try again."""
        failed = RequestFailed("The model failed in the middle of a step", hint="see the error that step() raised")
        prefill = self._prefill.handles if self._prefill else []
        for handle in [*(row.handle for row in self._batch.rows), *prefill, *self._taken]:
            handle.end("error", failed)
        self._prefill, self._taken = None, []
        self._batch.drop_ended()


def _num_known(match: PrefixMatch | None) -> int:
    return match.num_tokens if match else 0
