"""A row that writes: its rule, its draft, and how far the two agree with what is chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from nanochat.engine.request import Handle, RequestFailed, error_of
from nanochat.engine.rules import RowRule, check_masks
from nanochat.engine.speculative import MAX_REREAD, Drafter, obey


@dataclass(eq=False)
class Row:
    """A row that writes."""

    handle: Handle
    version: int  # of the prefix cache when it was asked; -1 without one
    stop_ids: frozenset[int]
    num_ids: int  # V
    features: Tensor | None  # (C,) at the last id the cache has read for good
    rule: RowRule | None = None
    drafter: Drafter | None = None
    pending: list[int] = field(default_factory=list)  # known ids the cache has not read; the last is the newest
    draft: list[int] = field(default_factory=list)  # guesses to be read behind them
    masks: list[Tensor | None] = field(default_factory=lambda: [None])  # what the rule allows where an id is chosen
    is_whole: bool = True  # the last guess, if any, was right to its end

    @property
    def num_tokens(self) -> int:
        """Tokens it may come to in all."""
        return self.handle.request.num_tokens

    def begin(self, rule: RowRule) -> None:
        """The rule of this row, before its first id."""
        self.rule, self.masks = rule, [rule.allowed()]
        check_masks(self.masks, self.num_ids)

    def prepare(self, may_draft: bool) -> None:
        """Guess what comes next, as far as the rule allows, and ask the rule what may be chosen."""
        draft: list[int] = []
        if may_draft and self.drafter is not None and len(self.pending) <= MAX_REREAD:
            room = self.handle.request.params.max_tokens - len(self.handle.ids) - 1
            decision = self.handle.request.decision
            if decision is not None and decision.comes_soon(self.handle.ids):
                room = 0
            draft = self.drafter.draft(self.handle.ids, room) if room > 0 else []
            ends = (place for place, id in enumerate(draft) if id in self.stop_ids)
            draft = draft[: next(ends, len(draft))]
        self.draft, self.masks = obey(draft, self.rule)
        check_masks(self.masks, self.num_ids)

    def take(self, picks: Sequence[int], logprobs: Sequence[float] = ()) -> None:
        """Append what was chosen as far as the draft agrees, and one more.

        A pick of -1 is one the rule forbids: nothing is allowed there. logprobs: of the picks, or none of them.
        """
        handle, new = self.handle, []
        for place, id in enumerate(picks):
            if id < 0:
                raise RequestFailed(f"The rule allows no token after {len(handle.ids) + len(new)} of the answer",
                                    hint="a rule ends a row with one of its stop ids")
            new.append(id)
            if self.rule is not None:
                self.rule.advance(id)
            if id in self.stop_ids or place == len(self.draft) or id != self.draft[place]:
                break
        right = sum(one == other for one, other in zip(new, self.draft, strict=False))
        handle.drafted, handle.accepted = handle.drafted + len(self.draft), handle.accepted + right
        if self.drafter is not None:
            self.drafter.settle(len(self.draft), right)
        self.is_whole = right == len(self.draft)
        self.pending = new[-1:] if self.is_whole else [*self.pending, *new]
        # before the ids: who sees an id finds its log-probability
        handle.logprobs += logprobs[: len(new)]
        handle.emit(new)
        if new[-1] in self.stop_ids:
            handle.end("end")
        elif len(handle.ids) >= handle.request.params.max_tokens:
            handle.end("length")


def guard(row: Row, act: Callable[[], None]) -> None:
    """What goes wrong in a row's own rule ends that row."""
    error = error_of(act)
    if error is not None:
        row.draft, row.masks, row.is_whole = [], [None], False
        row.handle.end("error", error)
