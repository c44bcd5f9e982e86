"""Advantages: how much better an episode is than what was to be expected, one way per algorithm."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CLIP_SIGMAS = 3.0  # advantages beyond so many standard deviations of the batch are cut
EQUAL = 1e-9  # rewards closer than this are the same

Groups = Sequence[Sequence[float]]  # rewards of the episodes of each question
Advantages = list[list[float]]  # the same shape


@dataclass
class Critic:
    """Running means of rewards: of all episodes, and of those that came to their first, second, ... search.

    The baseline of the algorithms that do not compare within a group. `record` and `restore` go through checkpoints.
    """

    keep: float = 0.9  # share of the past per batch
    means: dict[int, float] = field(default_factory=dict)  # number of the piece, -1 for all -> mean reward

    def value(self, piece: int = -1) -> float:
        """What an episode at this piece is expected to earn; 0 before anything was seen."""
        return self.means.get(piece, self.means.get(-1, 0.0))

    def update(self, groups: Groups, num_pieces: Sequence[Sequence[int]]) -> None:
        """Take in a batch; num_pieces of each episode: its queries and its answer."""
        rewards = [reward for group in groups for reward in group]
        counts = [count for group in num_pieces for count in group]
        seen = {-1: rewards} | {piece: [reward for reward, count in zip(rewards, counts, strict=True) if count > piece]
                                for piece in range(max(counts, default=0))}
        for piece, values in seen.items():
            if values:
                mean = statistics.fmean(values)
                old = self.means.get(piece, mean)
                self.means[piece] = self.keep * old + (1 - self.keep) * mean

    def record(self) -> dict[str, Any]:
        return {"means": {str(piece): mean for piece, mean in self.means.items()}}

    def restore(self, record: Mapping[str, Any]) -> None:
        self.means = {int(piece): float(mean) for piece, mean in record.get("means", {}).items()}


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One way of learning from rewards."""

    # rewards of groups, critic, number of the piece that the advantage is for -> advantages
    advantages: Callable[[Groups, Critic, int], Advantages]
    compares: bool = True  # within a group: of one episode, or of equal ones, nothing is learned
    weighting: str = "token"  # each "token" of the batch counts alike, or each "sequence", or a token of a "constant"
    updates: int = 1  # optimizer steps per rollout, unless told otherwise
    is_supervised: bool = False  # raise the likelihood of episodes with an advantage, whatever they were sampled with
    is_scaled: bool = False  # advantages are divided by the batch's standard deviation


def leave_one_out(groups: Groups, critic: Critic, piece: int) -> Advantages:
    """Reward less the mean of the others. Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"."""
    return [[(reward - statistics.fmean(group)) * len(group) / (len(group) - 1) for reward in group]
            if len(group) > 1 else [0.0] for group in groups]


def group_mean(groups: Groups, critic: Critic, piece: int) -> Advantages:
    """Reward less the group's mean. Liu et al. 2025, "Understanding R1-Zero-Like Training", arXiv:2503.20783."""
    return [[reward - statistics.fmean(group) for reward in group] for group in groups]


def group_scaled(groups: Groups, critic: Critic, piece: int) -> Advantages:
    """The same, divided by the group's standard deviation. Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300."""
    return [[value / (statistics.pstdev(group) + 1e-4) for value in values]
            for group, values in zip(groups, group_mean(groups, critic, piece), strict=True)]


def against_all(groups: Groups, critic: Critic, piece: int) -> Advantages:
    """Reward less the running mean of all. Williams 1992, "Simple Statistical Gradient-Following Algorithms"."""
    return [[reward - critic.value() for reward in group] for group in groups]


def against_critic(groups: Groups, critic: Critic, piece: int) -> Advantages:
    """Reward less what episodes at this piece earn. Schulman et al. 2017, "Proximal Policy Optimization",
    arXiv:1707.06347, with a critic that knows which search an episode is at and nothing else.
    """
    return [[reward - critic.value(piece) for reward in group] for group in groups]


def above_mean(groups: Groups, critic: Critic, piece: int) -> Advantages:
    """1 for episodes above the group's mean, else 0: supervised on those. Dong et al. 2023, "RAFT", arXiv:2304.06767.
    """
    return [[float(reward > statistics.fmean(group) + EQUAL) for reward in group] for group in groups]


RL_ALGORITHMS: dict[str, Algorithm] = {
    "rloo": Algorithm(advantages=leave_one_out),
    "grpo": Algorithm(advantages=group_scaled, weighting="sequence"),
    "dr_grpo": Algorithm(advantages=group_mean, weighting="constant"),
    "ppo": Algorithm(advantages=against_critic, compares=False, updates=2, is_scaled=True),
    "reinforce": Algorithm(advantages=against_all, compares=False),
    "raft": Algorithm(advantages=above_mean, is_supervised=True),
}


def is_even(group: Sequence[float]) -> bool:
    """Whether all rewards of a group are the same, so that comparing them says nothing."""
    return max(group) - min(group) <= EQUAL


def piece_advantages(
    algorithm: Algorithm, groups: Groups, num_pieces: Sequence[Sequence[int]], critic: Critic
) -> list[list[list[float]]]:
    """Per group, episode and piece (query or answer): its advantage, cut at CLIP_SIGMAS of the batch.

    Where groups are compared, an even group has advantages of 0 throughout. The critic is asked before it sees this
    batch, and updated afterwards; at the very beginning it sees it first.
    """
    if not critic.means:
        critic.update(groups, num_pieces)
    most = max((count for group in num_pieces for count in group), default=0)
    by_piece = [algorithm.advantages(groups, critic, piece) for piece in range(most)]
    found = [[[by_piece[piece][number][place] if not (algorithm.compares and is_even(group)) else 0.0
               for piece in range(num_pieces[number][place])]
              for place in range(len(group))] for number, group in enumerate(groups)]
    critic.update(groups, num_pieces)
    flat = [value for group in found for episode in group for value in episode if value]
    if algorithm.is_supervised or len(flat) < 2:
        return found
    sigma = math.sqrt(statistics.fmean([value * value for value in flat]))
    limit = CLIP_SIGMAS * sigma
    scale = 1 / (sigma + 1e-4) if algorithm.is_scaled else 1.0
    return [[[max(-limit, min(limit, value)) * scale for value in episode] for episode in group] for group in found]
