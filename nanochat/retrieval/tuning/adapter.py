"""Learning a linear map for query vectors: contrastive, on vectors that stay as they are, in seconds on a processor.

InfoNCE (van den Oord, Li and Vinyals 2018, arXiv:1807.03748) over the passages of a batch, hard negatives and random
passages, with a pull towards the identity.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nanochat.retrieval.encoders.tuned import mapped
from nanochat.retrieval.tuning.arena import Arena, Examples
from nanochat.retrieval.tuning.ranks import ndcg, ranks

_TEMPERATURE = 0.05  # to begin with; it is learned


@dataclass(frozen=True, kw_only=True)
class Form:
    """A kind of map, and how it is learned."""

    make: Callable[[np.ndarray], "nn.Module"]  # from the vectors of passages (N, D)
    learning_rate: float
    pull: float         # weight of the squared distance from the identity, mean over rows


class Spectral(nn.Module):
    """Weights for the main directions of the passages: D parameters, which few queries can settle."""

    def __init__(self, vectors: np.ndarray) -> None:
        super().__init__()
        directions = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)[1]
        self.directions = torch.from_numpy(directions.astype(np.float32))
        self.logs = nn.Parameter(torch.zeros(len(directions)))

    def forward(self) -> Tensor:
        return (self.directions * self.logs.exp()) @ self.directions.T


class Full(nn.Module):
    """Any matrix: D * D parameters."""

    def __init__(self, vectors: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(vectors.shape[1]))

    def forward(self) -> Tensor:
        return self.weight


# the one with the best dev nDCG is taken
FORMS = {
    "spectral": Form(make=Spectral, learning_rate=1e-2, pull=0.1),
    "full": Form(make=Full, learning_rate=3e-4, pull=10.0),
}


@dataclass(frozen=True)
class Learned:
    """A map, and how it came about."""

    query_map: np.ndarray   # float32 (D, D)
    form: str               # an entry of FORMS; "identity" where none is better than nothing
    epoch: int              # after which it was best
    dev_before: float       # nDCG@10 on the dev queries
    dev_after: float


def learn_map(
    train: Examples, dev: Examples, arena: Arena, *, epochs: int = 12, batch: int = 128, random_passages: int = 512,
    seed: int = 0, forms: Sequence[str] = tuple(FORMS), progress: Callable[[str], None] | None = None,
) -> Learned:
    """The map with the best nDCG@10 on `dev`, over all forms and epochs. The same arguments give the same map."""
    identity = np.eye(arena.vectors.shape[1], dtype=np.float32)
    before = quality(dev, identity, arena)
    best = Learned(identity, "identity", 0, before, before)
    for name in forms:
        generator = torch.Generator().manual_seed(seed)
        module = FORMS[name].make(arena.vectors)
        # 1 / temperature, as a logarithm
        sharpness = nn.Parameter(torch.tensor(-np.log(_TEMPERATURE), dtype=torch.float32))
        optimizer = torch.optim.Adam([{"params": module.parameters(), "lr": FORMS[name].learning_rate},
                                      {"params": [sharpness], "lr": 1e-2}])
        for epoch in range(1, epochs + 1):
            for rows in torch.randperm(len(train.queries), generator=generator).split(batch):
                extra = torch.randint(len(arena.vectors), (random_passages,), generator=generator)
                weight = module()
                distance = (weight - torch.from_numpy(identity)).square().sum(dim=1).mean()
                loss = contrast(train.take(rows.numpy()), weight, extra.numpy(), arena, sharpness.exp())
                optimizer.zero_grad()
                (loss + FORMS[name].pull * distance).backward()
                optimizer.step()
            learned = module().detach().numpy().copy()
            found = quality(dev, learned, arena)
            if progress is not None:
                progress(f"{name} map, epoch {epoch}: loss {loss.item():.3f}, dev nDCG@10 {found:.4f}")
            if found > best.dev_after:
                best = Learned(learned, name, epoch, before, found)
    return best


def contrast(examples: Examples, weight: Tensor, extra: np.ndarray, arena: Arena, sharpness: Tensor) -> Tensor:
    """Cross entropy of each query's own passage among those of the batch, all hard negatives, and `extra` ones.

    Passages of the same document and near duplicates are no candidates.
    """
    hard = np.unique(examples.negatives[examples.negatives >= 0])
    others = np.concatenate([examples.places, hard, extra])                                  # (C,)
    candidates = torch.from_numpy(arena.vectors[others])                                     # (C, D)
    own = torch.from_numpy(arena.vectors[examples.places])                                   # (B, D)
    scores = functional.normalize(torch.from_numpy(examples.queries) @ weight, dim=1) @ candidates.T * sharpness
    excluded = torch.from_numpy(arena.groups[examples.places][:, None] == arena.groups[others][None])
    excluded |= own @ candidates.T >= arena.near
    numbers = torch.arange(len(own))
    excluded[numbers, numbers] = False
    return functional.cross_entropy(scores.masked_fill(excluded, -torch.inf), numbers)


def quality(examples: Examples, query_map: np.ndarray, arena: Arena) -> float:
    """Mean nDCG@10 of the queries under a map."""
    return float(scores_of(examples, query_map, arena).mean())


def scores_of(examples: Examples, query_map: np.ndarray, arena: Arena) -> np.ndarray:
    """float64 (Q,): nDCG@10 of each query under a map."""
    return ndcg(ranks(mapped(examples.queries, query_map), examples.places, arena.vectors, arena.groups))
