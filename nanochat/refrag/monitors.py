"""What is watched while a policy learns from rewards: signals that tell a collapse, and what each of them asks for.

A signal looks at numbers of the last updates and evaluations only, so it can be tested and replayed without a model.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RECENT = 10  # updates behind a mean
WAIT = 10  # updates before a signal may sound again
KEEP = 200  # updates remembered

# what may be done about an alarm: see nanochat.refrag.control
NOTE, HALVE, RAISE_KL, RAISE_GUARD, ROLL_BACK, PAUSE = "note", "halve", "raise_kl", "raise_guard", "roll_back", "pause"


@dataclass(frozen=True)
class Alarm:
    """A signal that sounded."""

    step: int
    signal: str
    action: str
    text: str  # one sentence with the numbers


class History:
    """Numbers per update and per evaluation, oldest first. What is not finite is left out: JSON has no name for it."""

    def __init__(self) -> None:
        self.updates: list[dict[str, float]] = []
        self.start: dict[str, list[float]] = {}  # the first RECENT values of each number
        self.devs: list[dict[str, float]] = []  # evaluations, the first before any update

    def add(self, numbers: Mapping[str, float]) -> None:
        self.updates.append(_finite(numbers))
        del self.updates[:-KEEP]
        for name, value in numbers.items():
            values = self.start.setdefault(name, [])
            if len(values) < RECENT and math.isfinite(value):
                values.append(float(value))

    def add_dev(self, metrics: Mapping[str, Any]) -> None:
        self.devs.append(_finite(metrics))

    def last(self, name: str, count: int = RECENT) -> list[float]:
        """The last `count` values: those of the last updates, where every one tells it.

        Outcomes are told once for each rollout, also where several updates use it.
        """
        values = [update[name] for update in self.updates if name in update]
        return values[-count:]

    def mean(self, name: str, count: int = RECENT) -> float:
        """Mean of the last `count` updates; nan before there are so many."""
        values = self.last(name, count)
        return statistics.fmean(values) if len(self.updates) >= count and values else math.nan

    def first(self, name: str) -> float:
        """Mean of the first updates."""
        values = self.start.get(name, [])
        return statistics.fmean(values) if len(values) == RECENT else math.nan

    def rise(self, name: str, least: float) -> tuple[float, float] | None:
        """Mean of the last updates and of the first ones, where it rose by `least` and by more than chance explains:
        three standard errors, from how much the updates differ among themselves.
        """
        now, then = self.last(name), self.start.get(name, [])
        if len(self.updates) < RECENT or min(len(now), len(then)) < RECENT // 2 or len(then) < RECENT:
            return None
        error = math.sqrt(statistics.pvariance(now) / len(now) + statistics.pvariance(then) / len(then))
        after, before = statistics.fmean(now), statistics.fmean(then)
        return (after, before) if after - before >= max(least, 3 * error) else None

    def dev_rise(self, name: str, least: float) -> tuple[float, float] | None:
        """The last evaluation and the first one, where it rose by `least`."""
        values = self.dev(name)
        return (values[-1], values[0]) if len(values) > 1 and values[-1] - values[0] >= least else None

    def dev(self, name: str) -> list[float]:
        return [value for dev in self.devs if math.isfinite(value := dev.get(name, math.nan))]

    def dev_fall(self, name: str = "dev_accuracy") -> float:
        """How far the last evaluation lies below the best one; 0 before there are two."""
        values = self.dev(name)
        return max(values) - values[-1] if len(values) > 1 else 0.0

    def record(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"updates": self.updates, "start": self.start, "devs": self.devs}

    def restore(self, record: Mapping[str, Any]) -> None:
        self.updates, self.devs = list(record.get("updates", [])), list(record.get("devs", []))
        self.start = dict(record.get("start", {}))


def _finite(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items()
            if isinstance(value, int | float) and math.isfinite(value)}


Check = Callable[[History], str]  # a sentence where the signal sounds, else ""


@dataclass(frozen=True)
class Signal:
    """A check, and what to do the first, second, ... time it sounds; the last action stays."""

    check: Check
    actions: Sequence[str]


def dev_falls(history: History) -> str:
    """Two evaluations in a row at least 5 points below the best before them."""
    values = history.dev("dev_accuracy")
    if len(values) < 3 or max(values[:-2]) - max(values[-2:]) < 0.05:
        return ""
    return f"the development set fell from {max(values[:-2]):.3f} to {values[-2]:.3f} and {values[-1]:.3f}"


def rewards_collapse(history: History) -> str:
    """The spread within groups halves while the development set falls or abstaining spreads: never the spread alone."""
    now, then = history.mean("reward_std"), history.first("reward_std")
    if not now < 0.5 * then:
        return ""
    abstains, before = history.mean("abstains_answerable"), history.first("abstains_answerable")
    if history.dev_fall() >= 0.03 or abstains - before >= 0.1:
        return (f"rewards within a question spread by {now:.3f}, at first by {then:.3f}, while the development set is "
                f"{history.dev_fall():.3f} below its best and {abstains:.0%} of answerable questions are not answered")
    return ""


def abstaining_spreads(history: History) -> str:
    """The model stops answering what it could answer."""
    rise = history.rise("abstains_answerable", 0.15) or history.dev_rise("dev_abstains", 0.15)
    return f"{rise[0]:.0%} of answerable questions are not answered any more, at first {rise[1]:.0%}" if rise else ""


def guessing_spreads(history: History) -> str:
    """The model answers what nothing answers."""
    rise = history.rise("answers_unanswerable", 0.15) or history.dev_rise("dev_guesses", 0.15)
    return f"{rise[0]:.0%} of the questions without an answer get one, at first {rise[1]:.0%}" if rise else ""


def rewards_are_even(history: History) -> str:
    """Nearly all episodes of a question earn the same: nothing is left to learn from."""
    share = history.mean("even_share")
    return f"{share:.0%} of the questions give the same reward whatever is done" if share > 0.85 else ""


def likelihood_falls(history: History) -> str:
    """Right episodes of before become unlikely."""
    fall = history.mean("likelihood_fall")
    return f"right episodes are {fall:.2f} nats per token less likely than when they were sampled" if fall > 0.1 else ""


def gradients_spike(history: History) -> str:
    """Three gradients of the last 50 were 5 times the median."""
    norms = history.last("grad_norm", 50)
    if len(norms) < 12:
        return ""
    limit = 5 * statistics.median(norms)
    spikes = sum(norm > limit for norm in norms)
    return f"{spikes} of the last {len(norms)} gradients were longer than 5 usual ones" if spikes >= 3 else ""


def decisions_freeze(history: History) -> str:
    """Whether to search or to answer is certain before anything was gained."""
    entropy, values = history.mean("entropy_decision"), history.dev("dev_accuracy")
    if not entropy < 0.02 or not history.first("entropy_decision") > 0.04 or not values:
        return ""
    if max(values) > values[0] + 0.01:
        return ""
    return f"the entropy of decisions fell to {entropy:.3f} nats while the development set gained nothing"


def policy_drifts(history: History) -> str:
    """Far from the supervised model, or on the way while the development set falls."""
    kl = history.mean("kl", 5)
    if kl > 2 or (kl > 1 and history.dev_fall() >= 0.02):
        return f"the policy is {kl:.2f} nats per token away from the supervised model"
    return ""


def format_breaks(history: History) -> str:
    """Fewer episodes come to their end without a repeated search, below 95 % and 5 points below what it was."""
    share, then = history.mean("valid_share", 5), history.first("valid_share")
    limit = min(0.95, then - 0.05) if math.isfinite(then) else 0.8
    return f"only {share:.0%} of the episodes are complete and repeat no search" if share < limit else ""


def episodes_are_cut(history: History) -> str:
    """Episodes end for want of room."""
    share = history.mean("cut_share", 5)
    return f"{share:.0%} of the episodes end for want of room" if share > 0.1 else ""


def searches_grow(history: History) -> str:
    """More searches, no more right."""
    rise = history.rise("searches_over", 0.5)
    if rise is None or history.mean("right_share") > history.first("right_share") + 0.02:
        return ""
    return (f"episodes search {rise[0]:+.2f} times beyond what is needed, at first {rise[1]:+.2f}, and are right no "
            "more often")


def reward_is_upside_down(history: History) -> str:
    """Judged by the answers alone, wrong episodes earn as much as right ones: the reward has a bug."""
    gap = history.mean("right_over_wrong", 3)
    return f"right episodes earn {gap:+.2f} compared with wrong ones" if gap <= 0.05 else ""


def abstaining_pays(history: History) -> str:
    """Not answering what can be answered earns as much as answering it right."""
    gap = history.mean("right_over_abstained", 3)
    return f"right answers earn {gap:+.2f} compared with not answering" if gap <= 0.05 else ""


def probabilities_differ(history: History) -> str:
    """What was sampled is not what is trained."""
    gap = history.mean("logprob_gap", 1)
    limit = history.mean("logprob_limit", 1)
    return f"sampling and training disagree by {gap:.3f} nats about the same tokens" if gap > limit else ""


def tokens_leak(history: History) -> str:
    """Tokens are trained that the policy did not choose."""
    leaked = history.mean("leaked_tokens", 1)
    return f"{leaked:.0f} tokens are trained that the policy did not choose" if leaked > 0 else ""


SIGNALS: dict[str, Signal] = {
    "tokens_leak": Signal(tokens_leak, (PAUSE,)),
    "probabilities_differ": Signal(probabilities_differ, (PAUSE,)),
    "reward_is_upside_down": Signal(reward_is_upside_down, (PAUSE,)),
    "abstaining_pays": Signal(abstaining_pays, (PAUSE,)),
    "rewards_collapse": Signal(rewards_collapse, (PAUSE,)),
    "format_breaks": Signal(format_breaks, (ROLL_BACK, PAUSE)),
    "dev_falls": Signal(dev_falls, (ROLL_BACK, ROLL_BACK, PAUSE)),
    "abstaining_spreads": Signal(abstaining_spreads, (ROLL_BACK, PAUSE)),
    "guessing_spreads": Signal(guessing_spreads, (ROLL_BACK, PAUSE)),
    "policy_drifts": Signal(policy_drifts, (RAISE_KL, ROLL_BACK, PAUSE)),
    "likelihood_falls": Signal(likelihood_falls, (RAISE_GUARD, ROLL_BACK, PAUSE)),
    "gradients_spike": Signal(gradients_spike, (HALVE, ROLL_BACK, PAUSE)),
    "decisions_freeze": Signal(decisions_freeze, (RAISE_KL, NOTE)),
    "rewards_are_even": Signal(rewards_are_even, (NOTE,)),
    "episodes_are_cut": Signal(episodes_are_cut, (NOTE,)),
    "searches_grow": Signal(searches_grow, (NOTE,)),
}


class Monitors:
    """All signals over one history. `record` and `restore` go through checkpoints."""

    def __init__(self) -> None:
        self.history = History()
        self.sounded: dict[str, list[int]] = {}  # signal -> steps

    def update(self, step: int, numbers: Mapping[str, float]) -> list[Alarm]:
        """Take in the numbers of an update; the alarms that sound now."""
        self.history.add(numbers)
        return self._alarms(step)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> list[Alarm]:
        """Take in an evaluation; the alarms that sound now."""
        self.history.add_dev(metrics)
        return self._alarms(step)

    def rolled_back(self) -> None:
        """The weights are those of the best evaluation: what was seen since tells nothing about them."""
        self.history.updates.clear()
        devs = self.history.devs
        if devs:
            values = [dev.get("dev_accuracy", -math.inf) for dev in devs]
            del devs[values.index(max(values)) + 1 :]

    def record(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"history": self.history.record(), "sounded": self.sounded}

    def restore(self, record: Mapping[str, Any]) -> None:
        self.history.restore(record.get("history", {}))
        self.sounded = {name: list(steps) for name, steps in record.get("sounded", {}).items()}

    def _alarms(self, step: int) -> list[Alarm]:
        found = []
        for name, signal in SIGNALS.items():
            before = self.sounded.get(name, [])
            if before and step - before[-1] < WAIT:
                continue
            if text := signal.check(self.history):
                action = signal.actions[min(len(before), len(signal.actions) - 1)]
                found.append(Alarm(step, name, action, text))
                self.sounded[name] = [*before, step]
        return found
