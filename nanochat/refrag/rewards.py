"""Rewards: what an episode is worth, part by part. They see traces and references, never a model."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from nanochat.errors import ConfigError, UserError
from nanochat.refrag.trace import Reference, Trace
from nanochat.text.answers import exact_match

INVALID = -1.0
CITATION_SHARE = 0.2  # of a right answer, lost with citations of nothing right
SEARCH_COST = 0.02  # of a search beyond those that the question takes
REPEAT_COST = 0.1  # of a search for what had been searched before
MOST_SEARCH_COST = 0.3  # a right answer stays worth more than an abstention, however long it searched
EVIDENCE_SHARE = 0.4  # of the price of a wrong answer, taken off when all evidence was found
LEGACY_DOCUMENTS = 10  # shown documents at which the old efficiency reaches 0
_STOPS = ("the last checkpoint is as it was: correct the entry of REWARDS, or choose another one with --reward_mode, "
          "and go on with --resume true")


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """Settings of rewards; refuses values that cannot work with a ConfigError."""

    mode: str = "gated"  # a name in REWARDS
    answer_threshold: float = 1 / 3  # t: answering pays when it is right with a higher probability than this
    abstain_reward: float = 0.4  # of abstaining where the documents do not say it
    evidence_scale: float = 1.0  # of the evidence part, 1 down to 0 as training goes on
    weights: tuple[float, ...] = (0.6, 0.3, 0.1)  # of answer, relevance, efficiency: legacy only
    seed: int = 0  # random only

    def __post_init__(self) -> None:
        if self.mode not in REWARDS:
            raise ConfigError(f"Reward mode {self.mode!r} is not known", hint=f"use one of {', '.join(REWARDS)}")
        if not 0 < self.answer_threshold < 1:
            raise ConfigError(f"--answer_threshold is {self.answer_threshold}, must lie between 0 and 1",
                              hint="0.33 answers when it is right one time in three; 0.5 one time in two")
        if not 0 < self.abstain_reward <= 0.5:
            raise ConfigError(f"abstain_reward is {self.abstain_reward}, must lie above 0 and be 0.5 at most",
                              hint="0.4: an honest abstention is worth less than a right answer")
        if len(self.weights) != 3 or not all(math.isfinite(weight) for weight in self.weights):
            raise ConfigError(f"--reward_weights are {', '.join(map(str, self.weights))}, must be three numbers",
                              hint="answer, relevance, efficiency: --reward_weights 0.6,0.3,0.1")


@dataclass(frozen=True)
class Score:
    """The reward of one episode and its parts, which add up to it."""

    total: float
    parts: Mapping[str, float]


Reward = Callable[[Trace, Reference, RewardSettings], dict[str, float]]


def score(trace: Trace, reference: Reference, settings: RewardSettings) -> Score:
    """The reward of an episode, with its parts. It depends on nothing but this episode.

    Raises UserError when the reward raises, or gives something else than finite numbers.
    """
    question = repr(trace.question[:80])
    try:
        parts = REWARDS[settings.mode](trace, reference, settings)
    except Exception as error:  # noqa: BLE001 - foreign code raises what it likes
        raise UserError(f"The reward {settings.mode} failed for the question {question}: {type(error).__name__}: "
                        f"{error}", hint=_STOPS) from error
    if not isinstance(parts, Mapping):
        raise UserError(f"The reward {settings.mode} gave {parts!r}, not its parts, for {question}", hint=_STOPS)
    for name, value in parts.items():
        _check_number(value, name, question, settings)
    total = sum(parts.values())
    _check_number(total, "sum of its parts", question, settings)
    return Score(total, parts)


def _check_number(value: Any, name: str, question: str, settings: RewardSettings) -> None:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise UserError(f"The reward {settings.mode} gave {value!r} as {name} for the question {question}: "
                        "training stops", hint=_STOPS)


def is_right(trace: Trace, reference: Reference) -> bool:
    """Whether this is the outcome that the reference wants: one of its answers, or an abstention where it has none."""
    if not trace.is_valid:
        return False
    if trace.abstained:
        return not reference.is_answerable
    return exact_match(trace.answer, reference.answers)


def citation_f1(trace: Trace, reference: Reference) -> float:
    """Overlap of cited and supporting documents, 0 to 1; 1 where no supporting document is known."""
    cited, wanted = set(trace.cited_ids), set(reference.supporting_ids)
    if not wanted:
        return 1.0
    return 2 * len(cited & wanted) / (len(cited) + len(wanted))


def evidence_recall(trace: Trace, reference: Reference) -> float:
    """Share of the supporting documents that were shown; 0 where none is known."""
    wanted = set(reference.supporting_ids)
    return len(wanted & set(trace.shown_ids)) / len(wanted) if wanted else 0.0


def search_cost(trace: Trace, reference: Reference) -> float:
    """What searching in vain costs: searches beyond those that the question takes, and more for repeated ones."""
    extra = max(0, trace.num_searches - reference.num_hops - trace.num_repeated)
    return min(MOST_SEARCH_COST, SEARCH_COST * extra + REPEAT_COST * trace.num_repeated)


def gated(trace: Trace, reference: Reference, settings: RewardSettings) -> dict[str, float]:
    """The default. Invalid -1; right 1, less for citations and searches in vain; abstaining 0, and abstain_reward where
    it is right; wrong -t / (1 - t), and less so with the evidence found.

    Right > abstain > wrong on every answerable question, abstain > answer on every other one, whatever was searched and
    cited. Answering has the higher expectation from probability t on. Above t = 0.5 all is scaled so that the worst
    stays -1.
    """
    if not trace.is_valid:
        return {"invalid": INVALID}
    price = settings.answer_threshold / (1 - settings.answer_threshold)
    scale = 1 / max(1.0, price)
    if trace.abstained:
        if reference.is_answerable:
            return {"abstention": 0.0}
        # never so much that guessing would be worth more
        cost = min(search_cost(trace, reference), settings.abstain_reward / 2)
        return {"abstention": settings.abstain_reward * scale, "searches": -cost * scale}
    if exact_match(trace.answer, reference.answers):
        return {"answer": scale, "citations": -CITATION_SHARE * (1 - citation_f1(trace, reference)) * scale,
                "searches": -search_cost(trace, reference) * scale}
    found = settings.evidence_scale * evidence_recall(trace, reference)
    return {"answer": -price * scale, "evidence": EVIDENCE_SHARE * price * scale * found}


def legacy(trace: Trace, reference: Reference, settings: RewardSettings) -> dict[str, float]:
    """The weighted sum of word overlap with the answer, answer words in documents, and few documents.

    Kept for comparison: it pays for wrong answers, and abstaining is worth no more than they are.
    """
    gold = set(reference.answers[0].lower().split()) if reference.answers else set()
    words = set(trace.answer.lower().split())
    shown = set(" ".join(document["content"] for document in trace.documents).lower().split())
    parts = (
        len(words & gold) / max(len(words), len(gold)) if words and gold else 0.0,
        len(gold & shown) / len(gold) if gold else 0.0,
        max(0.0, 1 - len(trace.documents) / LEGACY_DOCUMENTS),
    )
    names = ("answer", "relevance", "efficiency")
    return {name: weight * part for name, weight, part in zip(names, settings.weights, parts, strict=True)}


def random_reward(trace: Trace, reference: Reference, settings: RewardSettings) -> dict[str, float]:
    """A control: chance between -1 and 1, the same for the same tokens. What learns from it has learned nothing."""
    return {"chance": random.Random(f"{settings.seed}:{list(trace.token_ids)}").uniform(-1.0, 1.0)}


def constant_reward(trace: Trace, reference: Reference, settings: RewardSettings) -> dict[str, float]:
    """A control: all episodes are worth the same, so nothing may change."""
    return {"constant": 0.0}


REWARDS: dict[str, Reward] = {
    "gated": gated,
    "legacy": legacy,
    "random": random_reward,
    "constant": constant_reward,
}
