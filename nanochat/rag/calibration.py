"""Choosing the threshold below which a model abstains, from questions whose outcome is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A threshold, and what it does on the questions it was chosen from."""

    threshold: float       # for Engine(answer_threshold=...)
    num_questions: int
    num_answered: int      # with a probability of at least the threshold
    num_right: int         # of those
    score: float           # num_right - wrong_cost * (num_answered - num_right)

    @property
    def coverage(self) -> float:
        """Share of questions answered."""
        return self.num_answered / self.num_questions

    @property
    def accuracy(self) -> float | None:
        """Share of answers that are right; None without an answer."""
        return self.num_right / self.num_answered if self.num_answered else None


def choose_threshold(
    probabilities: Sequence[float], is_right: Sequence[bool], *, wrong_cost: float = 1.0
) -> Calibration:
    """The threshold with the most right answers, each wrong one costing `wrong_cost` of them; an abstention is 0.

    probabilities: info["answer_probability"] per question, in [0, 1]. is_right: whether the answer is right that the
    model gives when it must (answer_threshold 0), False for a question that the documents do not answer. With
    wrong_cost c answering pays where the answer is right with a chance above c / (1 + c): one half at 1, nine in ten at
    9. Given "is answerable" for is_right and cost 1, this is the most accurate decision between answering and
    abstaining.

    The threshold lies in the middle of the gap between two probabilities that were seen, the widest one where several
    are equally good, then the lowest. 0 and 1 count as seen, so a threshold of 0 or 1 comes out only where a question
    had that probability. Raises ConfigError without questions, for numbers outside [0, 1] and for a negative cost.
    """
    assert len(probabilities) == len(is_right), f"{len(probabilities)} probabilities, {len(is_right)} outcomes"
    if not probabilities:
        raise ConfigError("A threshold cannot be chosen without questions",
                          hint="give held-out questions, answerable and unanswerable ones")
    wrong = [value for value in probabilities if not 0 <= value <= 1]
    if wrong:
        raise ConfigError(f"{wrong[0]} is no probability", hint='give info["answer_probability"] of every question')
    if not 0 <= wrong_cost < math.inf:
        raise ConfigError(f"wrong_cost is {wrong_cost}", hint="1: a wrong answer costs what a right one earns")
    pairs = sorted(zip(probabilities, map(bool, is_right)), reverse=True)
    answered = right = 0
    upper = 1.0
    best: tuple[tuple[float, float], Calibration] | None = None
    # from answering nothing to answering everything; only where the probability changes may a threshold stand
    for place in range(len(pairs) + 1):
        lower = pairs[place][0] if place < len(pairs) else 0.0
        threshold = _between(lower, upper)
        # 1 abstains from everything, also where the probability is 1
        if (lower < upper or place in (0, len(pairs))) and (threshold < 1 or not answered):
            score = right - wrong_cost * (answered - right)
            found = Calibration(threshold=threshold, num_questions=len(pairs), num_answered=answered,
                                num_right=right, score=score)
            if best is None or (score, upper - lower) >= best[0]:
                best = (score, upper - lower), found
        if place < len(pairs):
            upper, answered, right = lower, answered + 1, right + pairs[place][1]
    assert best is not None, "no place for a threshold"
    return best[1]


def _between(lower: float, upper: float) -> float:
    """A number above the lower one, up to the upper one."""
    middle = (lower + upper) / 2
    return middle if middle > lower else upper
