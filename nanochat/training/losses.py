"""What is minimised: cross entropy on supervised tokens, normalised over a whole optimizer step."""

from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import torch
from torch import Tensor, nn

IGNORED = -1  # target of a position without loss
# positions per call of the head: 4,096 at once take a CPU 560 ms forward and backward at V = 4,096, in pieces 390 ms
HEAD_POSITIONS = 1024


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch of rows."""

    ids: Tensor  # (B, T) long
    targets: Tensor  # (B, T) long, the token after each position; -1 is ignored
    weights: Tensor | None = None  # (B, T) float, weight of each target; None counts every target as 1
    is_answer: Tensor | None = None  # (B, T) bool, targets that count as answers in the log; None counts all of them
    seq_idx: Tensor | None = None  # (B, T) long, changes where a packed row starts a new sequence
    kind: str = ""  # what it practises; guards compare the losses of a kind only. The same for all of a step
    counts: dict[str, int] = field(default_factory=dict)  # what was left out of it to fit, by name; summed for the log

    def supervised(self) -> Tensor:
        """(B, T) bool: positions that carry loss."""
        known = self.targets != IGNORED
        return known if self.weights is None else known & (self.weights > 0)

    def weight(self) -> float:
        """Sum of the weights of supervised targets: this batch's share of the step's normaliser."""
        mask = self.supervised()
        return float(mask.sum() if self.weights is None else self.weights[mask].double().sum())

    def num_tokens(self) -> int:
        return self.ids.numel()

    def to(self, device: torch.device) -> "Batch":
        moved = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in moved.items() if isinstance(value, Tensor)})


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """What a loss function returns."""

    loss: Tensor  # scalar to call backward on: already divided by the normaliser, so micro-batches just add up
    parts: dict[str, tuple[Tensor, Tensor]]  # kind -> (sum of losses, number of tokens), for the log


class LossFunction(Protocol):
    def __call__(self, model: nn.Module, batch: Batch, normaliser: float) -> LossOutput: ...


def keep_group(logits: Tensor, targets: Tensor, group: range) -> Tensor:
    """Logits (..., V) in which ids of `group` compete with each other only: -inf on the side where the target is not.

    For reserved ids that a grammar allows in one place only, such as document slots. In a common softmax with a tied
    embedding, ids that are never right there are pushed the same way at every step and end up alike: the slots' mean
    cosine rose from 0 to 0.8 before the first citation was trained, and choosing a slot stayed at chance.
    """
    ids = torch.arange(logits.shape[-1], device=logits.device)
    is_member = (ids >= group.start) & (ids < group.stop)
    is_wanted = (targets >= group.start) & (targets < group.stop)
    return logits.masked_fill(is_member != is_wanted[..., None], float("-inf"))


def language_model_loss(
    model: nn.Module, batch: Batch, normaliser: float | None = None, *, group: range = range(0)
) -> LossOutput:
    """Weighted cross entropy of the next token, divided by `normaliser` (default: this batch's own weight).

    `group`: ids that compete with each other only, see `keep_group`.

    The head runs on supervised positions only: logits are the largest tensor of a step. Without any, the loss is a
    constant 0. Parts: "answer" and, where the batch says which targets are answers, "context": all the others.
    """
    mask = batch.supervised()
    rows, columns = mask.nonzero(as_tuple=True)
    if len(rows) == 0:
        return LossOutput(loss=torch.zeros((), device=batch.ids.device), parts={})
    features = model.features(batch.ids, seq_idx=batch.seq_idx)[rows, columns]  # (N, C)
    pieces = zip(features.split(HEAD_POSITIONS), batch.targets[rows, columns].split(HEAD_POSITIONS))
    losses = torch.cat(
        [nn.functional.cross_entropy(keep_group(model.head(x), y, group), y, reduction="none") for x, y in pieces]
    )  # (N,)
    weighted = losses if batch.weights is None else losses * batch.weights[rows, columns].to(losses.dtype)
    is_answer = None if batch.is_answer is None else batch.is_answer[rows, columns]
    return LossOutput(loss=weighted.sum() / (batch.weight() if normaliser is None else normaliser),
                      parts=_parts(losses.detach(), is_answer))


def _parts(losses: Tensor, chosen: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
    if chosen is None:
        return {"answer": (losses.sum(), torch.tensor(float(len(losses)), device=losses.device))}
    is_answer = chosen.to(losses.dtype)
    is_context = 1 - is_answer
    return {
        "answer": ((losses * is_answer).sum(), is_answer.sum()),
        "context": ((losses * is_context).sum(), is_context.sum()),
    }
