"""Settings of learning from rewards."""

from dataclasses import dataclass, field

from nanochat.engine.hops import HopConfig
from nanochat.refrag.advantages import RL_ALGORITHMS, Algorithm
from nanochat.refrag.rewards import RewardSettings

MAX_UPDATES_KL = 0.02  # drift from what sampled the episodes at which they are not used again


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Settings of `PolicyTraining`; steps are optimizer steps of the policy, from 0."""

    algorithm: str = "rloo"  # a name in RL_ALGORITHMS
    num_steps: int = 200
    questions_per_step: int = 16  # per process
    group_size: int = 8  # episodes per question
    num_batches: int = 1  # micro-batches per process that the episodes of a step are dealt to
    updates: int = 0  # optimizer steps per rollout; 0: as the algorithm has it
    temperature: float = 1.0
    max_answer_tokens: int = 64
    gold_steps: int = 50  # first steps in which a gold episode goes with each question
    gold_weight: float = 0.2  # of each of its tokens, compared with one of an episode
    guarded: int = 16  # right episodes of before that are scored again at every step
    seed: int = 0
    hops: HopConfig = field(default_factory=HopConfig)
    rewards: RewardSettings = field(default_factory=RewardSettings)
    log_episodes: int = 8  # episodes per step that go into the log

    @property
    def how(self) -> Algorithm:
        return RL_ALGORITHMS[self.algorithm]

    @property
    def updates_per_rollout(self) -> int:
        return self.updates or self.how.updates

    @property
    def most_tokens(self) -> int:
        """Tokens that a policy may choose in one episode at most."""
        return self.hops.max_hops * (self.hops.max_query_tokens + 2) + self.max_answer_tokens

    def evidence_scale(self, step: int) -> float:
        """How much of the reward for evidence counts: all in the first half, then less and less, 0 at the end."""
        return min(1.0, max(0.0, 2 * (1 - step / max(1, self.num_steps))))
