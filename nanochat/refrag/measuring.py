"""How good a policy is: greedy episodes over questions that it never trains on, and whether rewards can teach it more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanochat.common import rank, world_size
from nanochat.engine import Engine
from nanochat.engine.hops import HopConfig
from nanochat.refrag.advantages import is_even
from nanochat.refrag.audit import Tally
from nanochat.refrag.rewards import RewardSettings, evidence_recall, is_right
from nanochat.refrag.rollout import Group, roll_out
from nanochat.refrag.search_cache import Search
from nanochat.refrag.sources import Question

MOST_HOPS = 4  # questions of more hops are counted with these
MEASURES = (
    "accuracy", *(f"em_{hops}" for hops in range(1, MOST_HOPS + 1)), "em", "em_with_evidence", "precision",
    "evidence", "all_evidence", "abstains", "guesses", "abstain_precision", "abstain_recall", "complete", "valid",
    "searches", "searches_over", "reward",
)
GATE_GROUP = 8  # episodes per question behind the gate

# what a policy must be before rewards can teach it: (name, least value, most value, in words)
GATE: tuple[tuple[str, float, float, str], ...] = (
    ("complete", 0.98, 1.0, "complete episodes"),
    ("em_with_evidence", 0.8, 1.0, "right answers where all evidence was shown"),
    ("even_share", 0.0, 0.7, "questions whose episodes all earn the same"),
    ("gain", 0.05, 1.0, "questions right in one of eight episodes, beyond those right in a single one"),
)


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions that stay the same, and the search behind them."""

    questions: Sequence[Question]
    search: Search


def measure(
    engine: Engine, sets: Sequence[QuestionSet], hops: HopConfig, *, rewards: RewardSettings, max_tokens: int,
    prefix: str = "dev_",
) -> dict[str, float]:
    """Means over greedy episodes of all sets, see MEASURES; nan where nothing tells. Processes share the work.

    accuracy counts right answers and due abstentions; em_n exact matches of answerable questions of n hops;
    em_with_evidence of those whose evidence was all shown; abstains is of answerable questions, guesses of the others;
    precision of the answers that were given; complete episodes came to their end, valid ones repeated no search
    besides; abstain_f1 is of abstentions against questions without an answer; searches_over is searches less hops.
    """
    tally = Tally()
    for group in _groups(engine, sets, hops, rewards, group_size=1, temperature=0.0, max_tokens=max_tokens):
        _tally(group, tally)
    found = tally.means(MEASURES, engine.model.device)
    right, due = found["abstain_precision"], found["abstain_recall"]
    # nobody abstained where somebody should have: both are missing, and the F1 is 0
    known = not (math.isnan(right) and math.isnan(due))
    both = [0.0 if math.isnan(value) else value for value in (right, due)]
    found["abstain_f1"] = 2 * both[0] * both[1] / (sum(both) or 1.0) if known else math.nan
    return {prefix + name: value for name, value in found.items()}


def gate(
    engine: Engine, sets: Sequence[QuestionSet], hops: HopConfig, *, rewards: RewardSettings, max_tokens: int,
    temperature: float = 1.0, seed: int = 0,
) -> tuple[dict[str, float], list[str]]:
    """What GATE looks at, and a sentence for each thing that is not as it must be: with any, rewards teach nothing."""
    numbers = measure(engine, sets, hops, rewards=rewards, max_tokens=max_tokens, prefix="")
    tally = Tally()
    for group in _groups(engine, sets, hops, rewards, group_size=GATE_GROUP, temperature=temperature,
                         max_tokens=max_tokens, seed=seed):
        flags = [is_right(trace, group.reference) for trace in group.traces]
        tally.add("even_share", float(is_even(group.rewards)))
        tally.add("pass_1", sum(flags) / len(flags))
        tally.add("pass_8", float(any(flags)))
    numbers |= tally.means(("even_share", "pass_1", "pass_8"), engine.model.device)
    numbers["gain"] = numbers["pass_8"] - numbers["pass_1"]
    missed = []
    for name, least, most, words in GATE:
        if not least <= numbers[name] <= most:
            wanted = f"at least {least:.2f}" if most == 1.0 else f"at most {most:.2f}"
            value = "no question tells it" if math.isnan(numbers[name]) else f"{numbers[name]:.2f}"
            missed.append(f"{words}: {value}, {wanted} is needed")
    return {name: numbers[name] for name in (*(entry[0] for entry in GATE), "pass_1", "pass_8", "accuracy")}, missed


def _groups(
    engine: Engine, sets: Sequence[QuestionSet], hops: HopConfig, rewards: RewardSettings, **options: Any
) -> list[Group]:
    """Episodes of this process's share of the questions. The model is back in its mode afterwards."""
    was_training = engine.model.training
    engine.model.eval()
    try:
        return [group for part in sets for group in roll_out(
            engine, part.questions[rank() :: world_size()], part.search, hops,
            rewards=replace(rewards, evidence_scale=1.0), **options)]
    finally:
        engine.model.train(was_training)


def _tally(group: Group, tally: Tally) -> None:
    trace, reference = group.traces[0], group.reference
    right = float(is_right(trace, reference))
    tally.add("accuracy", right)
    tally.add("complete", float(trace.is_valid))
    tally.add("valid", float(trace.is_clean))
    tally.add("searches", trace.num_searches)
    tally.add("searches_over", trace.num_searches - reference.num_hops)
    tally.add("reward", group.rewards[0])
    if trace.abstained:
        tally.add("abstain_precision", float(not reference.is_answerable))
    elif trace.is_valid:
        tally.add("precision", right)
    if not reference.is_answerable:
        tally.add("abstain_recall", float(trace.abstained))
        tally.add("guesses", float(trace.is_valid and not trace.abstained))
        return
    recall = evidence_recall(trace, reference)
    tally.add("abstains", float(trace.abstained))
    tally.add("em", right)
    tally.add(f"em_{min(MOST_HOPS, group.question.get('hops', 1))}", right)
    tally.add("evidence", recall)
    tally.add("all_evidence", float(recall == 1.0))
    if recall == 1.0:
        tally.add("em_with_evidence", right)
