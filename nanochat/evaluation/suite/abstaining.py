"""When to answer: a threshold chosen on questions kept for it, and how the risk grows with what is answered."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanochat.evaluation.statistics import Z_95, Estimate, bootstrap
from nanochat.evaluation.suite.judging import Judged
from nanochat.evaluation.suite.material import CALIBRATION_FROM, Material
from nanochat.evaluation.suite.prompts import Prompt, prompt
from nanochat.evaluation.suite.reading import Drawing
from nanochat.rag.calibration import choose_threshold

MIN_CASES = 20       # fewer on either side say nothing about a threshold
NUM_POINTS = 41      # of the drawn curve


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The threshold, and what it does on the questions that it was chosen on."""

    threshold: float | None = None   # abstain when the probability of answering is below; None: as the model decides
    best: float | None = None        # the best threshold found, in force or not; None: not measured
    num_answerable: int
    num_to_abstain: int
    num_answered: int = 0            # of both, with what is in force
    num_right: int = 0
    why: str                         # in words: how it was chosen, or why it was not

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def calibration_prompts(material: Material, drawing: Drawing) -> list[Prompt]:
    """The kept questions with what was retrieved, and every second answerable one without its evidence."""
    prompts = [prompt(question, material.retrieved(question, drawing.top_k)) for question in material.calibration]
    known = [one for one in material.calibration if one.is_answerable and material.has_evidence(one)]
    # an id of its own, for the same question stands there with its evidence
    prompts += [prompt(question, material.distractors(question, drawing.top_k), answers=()) for question in known[::2]]
    return prompts


def calibrate(eager: Sequence[Judged], own: Sequence[Judged], *, given: float | None = None) -> Calibration:
    """A threshold from answers to the same prompts: of an engine that answers all it can, and as it decides by itself.

    There is none, and the engine decides by itself, unless a threshold has clearly more right answers less wrong ones:
    by 1.96 standard errors over the questions that come out differently. This is judged on questions that took no part
    in the choice: the threshold of each half answers the other. The best of a few hundred questions alone would often
    be worse on the next few hundred. given: a threshold that the engine has already; it stays and is what is counted.
    """
    assert len(eager) == len(own), f"{len(eager)} and {len(own)} answers are not pairs"
    to_abstain = sum(one.should_abstain for one in eager)
    counts = {"num_answerable": len(eager) - to_abstain, "num_to_abstain": to_abstain}
    if not eager:
        why = f"no question was kept for it (of fewer than {CALIBRATION_FROM} none is)"
        return Calibration(threshold=given, why=why, **counts)
    if any(one.probability is None for one in eager):
        return Calibration(threshold=given, why="the engine gives no probability of answering", **counts)
    if min(counts.values()) < MIN_CASES:
        return Calibration(threshold=given, why=f"too few questions were kept for it: {MIN_CASES} with and "
                           f"{MIN_CASES} without an answer are needed", **counts)
    best = choose_threshold([one.probability for one in eager], [one.exact for one in eager]).threshold
    chosen = _cross_fitted(eager)
    decided = [_worth(one) for one in own]
    gains = np.subtract(chosen, decided)
    is_clear = given is None and gains.sum() > Z_95 * math.sqrt((gains**2).sum())
    scores = [_worth(one) if one.probability >= best else 0 for one in eager] if is_clear else decided
    return Calibration(
        threshold=best if is_clear else given, best=best, num_answered=sum(one != 0 for one in scores),
        num_right=sum(one > 0 for one in scores), **counts,
        why="most right answers less wrong ones on questions kept for calibration" if is_clear else
        f"given for this run; {best:.3f} is best on questions kept for calibration" if given is not None else
        f"{best:.3f} is best on questions kept for calibration, but not clearly better than the model's own decision")


def _cross_fitted(eager: Sequence[Judged]) -> list[int]:
    """What each answer is worth with the threshold of the other half; a question stands in one half."""
    # in twos, because every second question is asked again without its evidence
    places = {id: place // 2 % 2 for place, id in enumerate(dict.fromkeys(one.prompt.id for one in eager))}
    halves = [places[one.prompt.id] for one in eager]
    found = {}
    for half in (0, 1):
        other = [one for one, place in zip(eager, halves, strict=True) if place != half]
        # one question has no other half
        found[half] = choose_threshold([one.probability for one in other], [one.exact for one in other]).threshold \
            if other else 1.0
    return [_worth(one) if one.probability >= found[half] else 0 for one, half in zip(eager, halves, strict=True)]


def _worth(one: Judged) -> int:
    """1 for a right answer, -1 for a wrong one, 0 for an abstention."""
    return 0 if one.abstained else 1 if one.exact else -1


def risk_curve(judged: Sequence[Judged]) -> list[tuple[float, float]]:
    """(coverage, risk): of the most certain answers, the share of all questions they are, and how many are wrong.

    `judged` are best answers of an engine that answers all it can; a refusal covers nothing, and the curve ends there.
    [] when the engine gives no probability.
    """
    answered = _by_certainty(judged)
    if not answered:
        return []
    wrong = np.cumsum([not one.is_right for one in answered])
    places = np.unique(np.linspace(0, len(answered) - 1, min(NUM_POINTS, len(answered))).round().astype(int))
    return [((at + 1) / len(judged), float(wrong[at] / (at + 1))) for at in places.tolist()]


def risk_area(judged: Sequence[Judged]) -> Estimate | None:
    """Mean risk over the coverages of the curve, with a bootstrap interval; None where there is no curve."""
    answered = _by_certainty(judged)
    if not answered:
        return None
    rows = np.array([[one.probability, not one.is_right] for one in answered], dtype=np.float64)

    def area(drawn: np.ndarray) -> np.ndarray:
        order = np.argsort(-drawn[..., 0], axis=1, kind="stable")
        wrong = np.take_along_axis(drawn[..., 1], order, axis=1)
        return (np.cumsum(wrong, axis=1) / np.arange(1, wrong.shape[1] + 1)).mean(1)

    return bootstrap(rows, area)


def _by_certainty(judged: Sequence[Judged]) -> list[Judged]:
    if any(one.probability is None for one in judged):
        return []
    answered = [one for one in judged if not one.abstained]
    # answers of equal certainty in an order that knows nothing of them
    random.Random(0).shuffle(answered)
    return sorted(answered, key=lambda one: -one.probability)
