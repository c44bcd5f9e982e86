"""The decisions of an answer: whether to give one, how likely the model finds that it has one, what else it cites."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanochat.errors import ConfigError

if TYPE_CHECKING:
    from nanochat.engine.live_row import Row


# probability from which a further document is cited where people ask; measured in docs/training_notes.md
CITATION_THRESHOLD = 0.9
_HINTS = {"answer_threshold": "0 always answers, 1 never; leave it out to take what is likeliest",
          "citation_threshold": "0.9 cites further documents where the model is sure; leave it out to take what is "
                                "likeliest"}


def check_threshold(threshold: float | None, name: str = "answer_threshold") -> float | None:
    """The threshold itself. Raises ConfigError unless it is None or lies between 0 and 1."""
    if threshold is None:
        return None
    if not isinstance(threshold, Real) or isinstance(threshold, bool) or not 0 <= threshold <= 1:
        raise ConfigError(f"{name} is {threshold!r}, must lie between 0 and 1", hint=_HINTS[name])
    return float(threshold)


@dataclass(frozen=True)
class Decision:
    """At two places of a row one id refuses to answer; everything else there goes on with an answer.

    The places are the first, and the one behind the first citation: whether a document speaks of the thing, and whether
    it says what was asked. The probability of answering is that of passing both.

    With a threshold the row refuses at the first of them where the probability of answering, so far, is below it, and 1
    always refuses; otherwise it answers, with what `SamplingParams` choose among the other ids. The rule comes first:
    what it forbids cannot be decided for, so 0 refuses where nothing else is allowed. None leaves the choice to the
    params; greedy ones then take the likeliest single id. That is what 0.5 does (up to a tie) at the first place where
    one id begins all answers, as after documents that must be cited. It is not where many ids do, nor at the second
    place, which sees the product.

    Behind each citation the row may cite a further document, such as one that contradicts the first. With `further` it
    does so only where the model finds that at least so likely; otherwise it goes on among the other ids.
    """

    id: int  # that refuses, such as "abstain"
    threshold: float | None = None  # in [0, 1]
    cite: int | None = None  # the id that begins a citation; None: only the first place decides
    further: float | None = None  # in [0, 1]

    def answers_at(self, ids: Sequence[int]) -> bool:
        """Whether behind `ids` the row decides to answer or not."""
        return not ids or len(ids) == 2 and ids[0] == self.cite

    def cites_at(self, ids: Sequence[int]) -> bool:
        """Whether behind `ids` the row decides to cite a further document or not."""
        return self.further is not None and len(ids) > 1 and ids[-2] == self.cite

    def is_due(self, ids: Sequence[int]) -> bool:
        """Whether the next id of an answer that has come to `ids` decides."""
        return self.answers_at(ids) or self.cites_at(ids)

    def comes_soon(self, ids: Sequence[int]) -> bool:
        """Whether a draft behind `ids` could run over a place that decides."""
        return len(ids) < 2 or self.is_due(ids) or (self.further is not None and ids[-1] == self.cite)


def decide(rows: Sequence["Row"], logits: Tensor) -> None:
    """Take note of how likely rows that are to decide are to answer, and narrow their masks to what is decided: whether
    to answer, and whether to cite a further document.

    logits (len(rows), V). The probability is the model's own, at temperature 1, after the rule's mask.
    """
    first = [(number, row) for number, row in enumerate(rows)
             if row.handle.request.decision and row.handle.request.decision.is_due(row.handle.ids)]
    if not first:
        return
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row.draft) + 1)
    assert len(logits) == starts[-1] and not any(row.draft for _, row in first), "a place that decides has no draft"
    masks = torch.stack([torch.ones_like(logits[0], dtype=torch.bool) if row.masks[0] is None else row.masks[0]
                         for number, row in first])
    mine = logits[[starts[number] for number, _ in first]].masked_fill(~masks, -math.inf)
    ids = torch.tensor([row.handle.request.decision.id for _, row in first], device=logits.device)[:, None]
    logprobs = torch.log_softmax(mine, dim=-1)
    refused = logprobs.gather(1, ids)[:, 0].tolist()
    others = masks.scatter(1, ids, False)
    may_refuse, may_answer = masks.gather(1, ids)[:, 0].tolist(), others.any(dim=-1).tolist()
    for place, (_, row) in enumerate(first):
        decision = row.handle.request.decision
        if not decision.answers_at(row.handle.ids):
            _cite_or_not(row, masks[place], logprobs[place])
            continue
        # 1 - exp(x) as a difference would lose what is left of a small one
        answers = max(0.0, -math.expm1(min(refused[place], 0.0)))
        if row.handle.ids:
            answers *= row.handle.answer_probability
        row.handle.answer_probability = answers
        threshold, allowed = decision.threshold, masks[place]
        if threshold is not None and (answers < threshold or threshold == 1):
            if may_refuse[place]:
                row.masks = [allowed & ~others[place]]
                continue
        elif threshold is not None and may_answer[place]:
            allowed = others[place]
            row.masks = [allowed]
        if decision.cites_at(row.handle.ids):
            _cite_or_not(row, allowed, logprobs[place])


def _cite_or_not(row: "Row", mask: Tensor, logprobs: Tensor) -> None:
    """Forbid a further citation that is not likely enough, where something else is allowed."""
    decision = row.handle.request.decision
    assert decision is not None and decision.further is not None and decision.cite is not None
    if not mask[decision.cite] or logprobs[decision.cite].exp().item() >= decision.further:
        return
    without = mask.clone()
    without[decision.cite] = False
    if without.any():
        row.masks = [without]
