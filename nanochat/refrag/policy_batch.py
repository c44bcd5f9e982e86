"""Episodes to batches of the policy loss: packed rows, and for each chosen token what was allowed in its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanochat.training.losses import IGNORED, Batch

POLICY, GOLD, GUARD = 1, 2, 3  # kinds of sequences; 0 stands where nothing is learned


@dataclass(frozen=True, kw_only=True)
class Sequenced:
    """One sequence to score: ids, and what the grammar allowed where a token was chosen."""

    ids: Sequence[int]  # (T,)
    masks: Mapping[int, Tensor]  # place of each chosen token -> (V,) bool, what could stand there
    kind: int = POLICY
    advantages: Mapping[int, float] = field(default_factory=dict)  # place -> advantage, of policy tokens
    weight: float = 1.0  # of each of its tokens in the loss
    floor: float = 0.0  # of guard sequences: mean log-probability below which they may not fall


@dataclass(frozen=True, kw_only=True)
class PolicyBatch(Batch):
    """A micro-batch of episodes. Targets are the chosen tokens; `weights` is each one's weight in the loss.

    Position p of a row predicts the token at p + 1, so that what belongs to a chosen token stands at the place before.
    """

    kinds: Tensor  # (B, T) long: POLICY, GOLD or GUARD at targets, else 0
    places: Tensor  # (B, T) long: row of `allowed` for each target
    allowed: Tensor  # (M, V) bool
    advantages: Tensor  # (B, T) float
    old: Tensor  # (B, T) float, log-probabilities when sampled; nan: as they are now
    reference: Tensor  # (B, T) float, log-probabilities of the frozen model; nan where there is none
    floors: Tensor  # (B, T) float, of guard sequences
    numbers: Tensor  # (B, T) long: number of the sequence in the step, -1 where there is none
    share: float = 0.0  # what this batch adds to the normaliser
    found: dict[str, Tensor] = field(default_factory=dict)  # filled by the loss: see nanochat.refrag.policy_loss

    def weight(self) -> float:
        return self.share


def first_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Numbers of sequences by row of at most `room` tokens, longest first; nothing may be longer."""
    rows: list[list[int]] = []
    left: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        assert lengths[number] <= room, f"a sequence of {lengths[number]} tokens in rows of {room}"
        row = next((row for row, free in enumerate(left) if free >= lengths[number]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            left.append(room)
        rows[row].append(number)
        left[row] -= lengths[number]
    return rows


def make_batches(
    sequences: Sequence[Sequenced], num_batches: int, *, num_ids: int, normaliser: float, kind: str = "rl"
) -> list[PolicyBatch]:
    """Pack sequences into rows as long as the longest, and deal the rows to `num_batches` batches, about equally.

    num_ids: V. normaliser: what all batches together add to the step's normaliser. Batches may have no rows.
    """
    room = max((len(item.ids) - 1 for item in sequences), default=1)
    rows = first_fit([len(item.ids) - 1 for item in sequences], room)
    shares = [len(rows[number::num_batches]) / max(1, len(rows)) for number in range(num_batches)]
    return [_make(sequences, rows[number::num_batches], room, num_ids, normaliser * shares[number], kind)
            for number in range(num_batches)]


def _make(
    sequences: Sequence[Sequenced], rows: Sequence[Sequence[int]], room: int, num_ids: int, share: float, kind: str
) -> PolicyBatch:
    shape = (len(rows), room)
    ids, seq_idx = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    numbers = torch.full(shape, -1)
    at: list[tuple[int, int]] = []
    chosen: list[tuple[float, ...]] = []
    masks: list[Tensor] = []
    for row, members in enumerate(rows):
        start = 0
        for place_in_row, number in enumerate(members):
            item = sequences[number]
            end = start + len(item.ids) - 1
            ids[row, start:end] = torch.tensor(item.ids[:-1])
            seq_idx[row, start:end], numbers[row, start:end] = place_in_row, number
            for place, mask in item.masks.items():
                at.append((row, start + place - 1))
                chosen.append((item.ids[place], item.kind, item.weight, item.advantages.get(place, 0.0), item.floor))
                masks.append(mask)
            start = end
        seq_idx[row, start:] = len(members)
    allowed, places = _different(masks, num_ids)
    table = torch.tensor([(*values, place) for values, place in zip(chosen, places, strict=True)],
                         dtype=torch.float64).reshape(-1, 6)
    where = tuple(torch.tensor(at, dtype=torch.long).reshape(-1, 2).T)
    fields = {name: _placed(shape, where, table[:, column], fill, dtype)
              for column, (name, fill, dtype) in enumerate(_COLUMNS)}
    unknown = torch.full(shape, torch.nan)
    return PolicyBatch(ids=ids, seq_idx=seq_idx, numbers=numbers, allowed=allowed, share=share, kind=kind,
                       old=unknown, reference=unknown.clone(), **fields)


_COLUMNS = (
    ("targets", IGNORED, torch.long), ("kinds", 0, torch.long), ("weights", 0, torch.float),
    ("advantages", 0, torch.float), ("floors", 0, torch.float), ("places", 0, torch.long),
)


def _placed(
    shape: tuple[int, int], where: tuple[Tensor, ...], values: Tensor, fill: float, dtype: torch.dtype
) -> Tensor:
    full = torch.full(shape, fill, dtype=dtype)
    full[where] = values.to(dtype)
    return full


def _different(masks: Sequence[Tensor], num_ids: int) -> tuple[Tensor, list[int]]:
    """(M, V) masks, each tensor once, and for each one given its row: places alike in a grammar share theirs."""
    rows: dict[int, int] = {}
    kept: list[Tensor] = []
    for mask in masks:
        if id(mask) not in rows:
            rows[id(mask)] = len(kept)
            kept.append(mask.cpu())
    return (torch.stack(kept) if kept else torch.ones(0, num_ids, dtype=torch.bool)), [rows[id(mask)] for mask in masks]
