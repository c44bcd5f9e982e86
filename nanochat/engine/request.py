"""What the scheduler is asked for, and the handle through which the answer arrives."""

import queue
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanochat.engine.deciding import Decision
from nanochat.engine.rules import RowRule
from nanochat.engine.sampling import SamplingParams, is_whole, short
from nanochat.errors import UserError


class RequestRefused(UserError):
    """A request that this scheduler can never serve."""


class RequestFailed(UserError):
    """A request that ended without an answer while others went on."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One row: what it reads, how it goes on, and what is worth keeping of it."""

    ids: Sequence[int]  # the prompt, at least one id
    params: SamplingParams = field(default_factory=SamplingParams)
    rule: Callable[[], RowRule] | None = None  # makes the rule of this row
    decision: Decision | None = None  # what is chosen at the first place by threshold, or only observed
    number: int = 0  # with params.seed the row's source of chance: equal pairs draw alike
    keep: bool = True  # the prefix cache takes the prompt and the answer, for a next turn; it is asked in any case
    boundaries: Sequence[int] = ()  # lengths of the prompt worth keeping, besides those the prefix cache finds itself
    source: Sequence[int] | None = None  # what an answer may copy from, for drafts; the prompt by default
    has_logprobs: bool = False  # the handle takes note of how likely each id was, among those allowed
    on_event: Callable[["Handle"], None] | None = None  # called by the stepping thread after news; must not block

    @property
    def num_tokens(self) -> int:
        """Tokens the row may come to in all."""
        return len(self.ids) + self.params.max_tokens


def check_ids(name: str, ids: Any, num_known: int | None = None) -> None:
    """Raises RequestRefused unless these are whole numbers from 0, and with `num_known` ids of the model."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence | np.ndarray):
        raise RequestRefused(f"{name} is {short(ids)}, not a list of whole numbers", hint=_ENCODE)
    # the set is made in C: a prompt may have a hundred thousand ids
    if not set(map(type, ids)) <= {int}:
        wrong = [id for id in ids if not is_whole(id)]
        if wrong:
            raise RequestRefused(f"{name} holds {short(wrong[0])}, which is not a whole number", hint=_ENCODE)
    if num_known is not None and len(ids) and not 0 <= min(ids) <= max(ids) < num_known:
        wrong = next(id for id in ids if not 0 <= id < num_known)
        raise RequestRefused(f"Id {wrong} is outside 0..{num_known - 1}, the ids of this model", hint=_ENCODE)


def error_of(act: Callable[[], None]) -> Exception | None:
    """What a request's own rule or callback raised; it ends that request and no other. None when all went well."""
    try:
        act()
    except StopIteration as raised:
        # raised again inside an iterator it would pass for the iterator's end
        failed = RequestFailed("The request's own rule or callback raised StopIteration", hint="give next() a default")
        failed.__cause__ = raised
        return failed
    except Exception as raised:  # noqa: BLE001 - foreign code raises what it likes, and the other requests must go on
        return raised
    return None


_ENCODE = "encode texts with the model's own tokenizer"


class Handle:
    """A submitted request. Everything here may be read from any thread; only the scheduler writes."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ids: list[int] = []  # sampled so far, the stop id included; grows at its end only
        self.logprobs: list[float] = []  # of ids, under what they were drawn from; only where the request asks for it
        self.stop = ""  # why it ended: "end", "length", "cancelled", "error"; "" while it runs
        self.error: BaseException | None = None
        self.is_cancelled = False
        self.cached_tokens = 0  # of the prompt, taken from the prefix cache
        self.answer_probability: float | None = None  # of a request with a decision, once it was made
        self.drafted = self.accepted = 0  # ids proposed by lookup, and those that were right
        self.submitted_s = time.perf_counter()
        self.first_token_s = self.last_token_s = 0.0  # seconds after submission
        self._random = random.Random(f"{request.params.seed}:{request.number}")  # a string is hashed by SHA-512
        self._uniforms: list[float] = []  # drawn and not used up
        self._events: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()

    @property
    def is_done(self) -> bool:
        return bool(self.stop)

    def cancel(self) -> None:
        """Ask for the end, from any thread; the row leaves at the next step. What was written stays."""
        self.is_cancelled = True

    def __iter__(self) -> Iterator[list[int]]:
        """New ids as they arrive, blocking, for one reader in another thread than the one that steps.

        Raises the request's error at the end, if it failed.
        """
        while (ids := self._events.get()) is not None:
            yield ids
        if self.error is not None:
            raise self.error

    def uniforms(self, count: int) -> list[float]:
        """The next random numbers of this row; they stay the next ones until `emit` uses them up."""
        while len(self._uniforms) < count:
            self._uniforms.append(self._random.random())
        return self._uniforms[:count]

    def emit(self, ids: Sequence[int]) -> None:
        """New ids of the answer."""
        now = time.perf_counter() - self.submitted_s
        if not self.ids:
            self.first_token_s = now
        self.last_token_s = now
        del self._uniforms[: len(ids)]
        self.ids += ids
        self._events.put(list(ids))
        self._tell()

    def end(self, stop: str, error: BaseException | None = None) -> None:
        """The last event. A second end changes nothing."""
        if self.is_done:
            return
        self.error, self.stop = error, stop
        raised = error_of(self._tell)
        self.error = self.error or raised
        self._events.put(None)

    def _tell(self) -> None:
        if self.request.on_event is not None:
            self.request.on_event(self)
