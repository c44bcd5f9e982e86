"""The policy's loss: advantages on the tokens it chose, under the very distribution they were drawn from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nanochat.refrag.policy_batch import GOLD, GUARD, POLICY, PolicyBatch
from nanochat.training.losses import HEAD_POSITIONS, LossOutput

CLIP_LOW, CLIP_HIGH = 0.2, 0.28  # Yu et al. 2025, "DAPO", arXiv:2503.14476


@dataclass
class LossSettings:
    """What the loss weighs; monitors change it while training runs."""

    kl: float = 0.02  # weight of the divergence from the frozen model
    guard: float = 1.0  # weight of a fall of the likelihood of right episodes
    temperature: float = 1.0  # that episodes are sampled with
    is_supervised: bool = False  # raise the likelihood of tokens with an advantage, without a ratio


def chosen_logprobs(
    model: nn.Module, batch: PolicyBatch, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Log-probabilities (N,) of all targets, the entropies (N,) in nats of what they were drawn from, and where they
    stand: (rows, columns).

    The distribution is the filtered one: ids that the grammar forbids have no part in it, so that raising what was
    chosen never moves what cannot be.
    """
    where = (batch.targets >= 0).nonzero(as_tuple=True)
    if len(where[0]) == 0:
        nothing = torch.zeros(0, device=batch.ids.device)
        return nothing, nothing, where
    features = model.features(batch.ids, seq_idx=batch.seq_idx)[where]  # (N, C)
    targets, places = batch.targets[where], batch.places[where]
    found, entropies = [], []
    for x, y, place in zip(*(part.split(HEAD_POSITIONS) for part in (features, targets, places)), strict=True):
        logits = model.head(x).float().masked_fill(~batch.allowed[place], float("-inf")) / temperature
        logprobs = torch.log_softmax(logits, dim=-1)
        found.append(logprobs.gather(1, y[:, None])[:, 0])
        with torch.no_grad():
            entropies.append(torch.special.entr(logprobs.exp()).sum(-1))
    return torch.cat(found), torch.cat(entropies), where


def low_variance_kl(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Divergence from the reference, estimated at each token that the policy chose: r - 1 - log r with the ratio r of
    reference to policy. Never negative, and without bias. Schulman 2020, "Approximating KL Divergence", k3.
    """
    gap = reference - logprobs
    return torch.exp(gap) - 1 - gap


def policy_loss(model: nn.Module, batch: PolicyBatch, normaliser: float, *, settings: LossSettings) -> LossOutput:
    """The loss of a micro-batch, divided by `normaliser`, the shares of all batches of the step.

    Policy tokens: -min(r A, clip(r) A) with the ratio r to what they were sampled with (1 on the first update), plus kl
    times the divergence from the frozen model. Gold tokens: negative log-likelihood. Guard sequences: what their mean
    log-likelihood has fallen below its floor, times their tokens. Each token by its weight. Parts are sums and counts
    for the log; `batch.found` gets the log-probabilities and entropies at all targets, in order of rows and columns.
    """
    logprobs, entropies, where = chosen_logprobs(model, batch, temperature=settings.temperature)
    batch.found.update(logprobs=logprobs.detach().cpu(), entropies=entropies.cpu())
    if len(logprobs) == 0:
        return LossOutput(loss=torch.zeros((), device=batch.ids.device), parts={})
    # what a grammar forbids was not sampled from it; the audit of the step says so, and here it must not be infinite
    logprobs = logprobs.clamp_min(-1e4)
    kinds, weights = batch.kinds[where], batch.weights[where]
    old, reference = batch.old[where], batch.reference[where]
    is_policy, is_gold = (kinds == POLICY).to(logprobs.dtype), (kinds == GOLD).to(logprobs.dtype)
    gain = _gain(logprobs, old, batch.advantages[where], settings)
    kl = torch.where(reference.isnan(), 0.0, low_variance_kl(logprobs, reference.nan_to_num()))
    drift = torch.where(old.isnan(), 0.0, old.nan_to_num() - logprobs.detach())
    fall, num_guarded = _fall(logprobs, batch, where, kinds == GUARD)
    policy = -(gain * weights * is_policy).sum()
    divergence = (kl * weights * is_policy).sum()
    gold = -(logprobs * weights * is_gold).sum()
    loss = policy + settings.kl * divergence + gold + settings.guard * fall
    count = is_policy.sum()
    parts = {"policy": (policy.detach(), count), "kl": ((kl * is_policy).sum().detach(), count),
             "drift": ((drift * is_policy).sum(), count),
             "gold": (-(logprobs * is_gold).sum().detach(), is_gold.sum()), "fall": (fall.detach(), num_guarded)}
    return LossOutput(loss=loss / normaliser, parts=parts)


def _gain(logprobs: Tensor, old: Tensor, advantages: Tensor, settings: LossSettings) -> Tensor:
    """What is to be raised, per token."""
    if settings.is_supervised:
        return logprobs * advantages
    ratio = torch.exp(logprobs - torch.where(old.isnan(), logprobs.detach(), old))
    clipped = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
    return torch.minimum(ratio * advantages, clipped * advantages)


def _fall(
    logprobs: Tensor, batch: PolicyBatch, where: tuple[Tensor, Tensor], is_guard: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum over guard sequences of tokens times weight times nats per token below the floor, and how many tokens."""
    if not is_guard.any():
        return logprobs.new_zeros(()), logprobs.new_zeros(())
    numbers, inverse = batch.numbers[where][is_guard].unique(return_inverse=True)
    zeros = logprobs.new_zeros(len(numbers))
    counts = zeros.index_add(0, inverse, torch.ones_like(inverse, dtype=logprobs.dtype))
    means = zeros.index_add(0, inverse, logprobs[is_guard]) / counts
    floors = zeros.index_add(0, inverse, batch.floors[where][is_guard]) / counts
    weights = zeros.index_add(0, inverse, batch.weights[where][is_guard]) / counts
    return (torch.relu(floors - means) * counts * weights).sum(), counts.sum()
