"""Rollouts: several episodes of each question, at once, with their rewards."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.engine import Engine
from nanochat.engine.hops import HopConfig, run_episodes
from nanochat.refrag.rewards import RewardSettings, Score, score
from nanochat.refrag.search_cache import Search
from nanochat.refrag.sources import Question
from nanochat.refrag.trace import Reference, Trace


@dataclass(frozen=True, kw_only=True)
class Group:
    """The episodes of one question."""

    question: Question
    reference: Reference
    traces: Sequence[Trace]
    scores: Sequence[Score]

    @property
    def rewards(self) -> list[float]:
        return [one.total for one in self.scores]

    @property
    def whole_rewards(self) -> list[float]:
        """Of the episodes that were not cut: nothing is learned from the others."""
        return [one.total for trace, one in zip(self.traces, self.scores, strict=True) if not trace.is_truncated]


def roll_out(
    engine: Engine, questions: Sequence[Question], search: Search, hops: HopConfig, *, rewards: RewardSettings,
    group_size: int, temperature: float = 1.0, max_tokens: int = 64, seed: int = 0,
) -> list[Group]:
    """`group_size` episodes per question, all of them side by side, with their rewards.

    The same for the same weights, questions and seed. The model must be in eval mode. Raises what the search raises.
    """
    episodes = run_episodes(engine, [question["question"] for question in questions], search, hops,
                            temperature=temperature, seed=seed, group_size=group_size, max_tokens=max_tokens)
    groups = []
    for number, question in enumerate(questions):
        reference = Reference.of(question)
        traces = [Trace.of(episode) for episode in episodes[number * group_size : (number + 1) * group_size]]
        groups.append(Group(question=question, reference=reference, traces=traces,
                            scores=[score(trace, reference, rewards) for trace in traces]))
    return groups
