"""What the rollouts of a step looked like, in numbers that monitors watch; and whether the right tokens are trained."""

import math
import statistics
from collections.abc import Iterable, Sequence

from nanochat.refrag.advantages import is_even
from nanochat.refrag.rewards import evidence_recall, is_right
from nanochat.refrag.rollout import Group
from nanochat.refrag.trace import Reference, Trace
from nanochat.text.answers import normalize_answer
from nanochat.tokenizer import Tokenizer
from nanochat.training.distributed import sum_numbers

# given to the model, between these ids: what was asked, and what was found
GIVEN = {"results_start": "results_end", "user_start": "user_end", "system_start": "system_end"}


class Tally:
    """Sums and counts by name. `means` shares them among processes."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def add(self, name: str, value: float, count: float = 1.0) -> None:
        """Note a value, or the sum of `count` of them; nan is left out."""
        if math.isfinite(value):
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0.0) + count

    def means(self, names: Sequence[str], device: object = None) -> dict[str, float]:
        """Mean of each name over all processes, which must ask for the same ones; nan where nothing was noted."""
        flat = [table.get(name, 0.0) for name in names for table in (self.sums, self.counts)]
        total = iter(sum_numbers(flat, device))
        return {name: value / count if count else math.nan
                for name, value, count in ((name, next(total), next(total)) for name in names)}


OUTCOMES = (
    "reward_mean", "reward_std", "even_share", "right_share", "valid_share", "repeated_share", "cut_share",
    "abstains_answerable",
    "answers_unanswerable", "searches", "searches_over", "distinct_queries", "evidence_recall", "answer_words",
    "right_over_wrong", "right_over_abstained",
)


def tally_groups(groups: Iterable[Group], tally: Tally) -> None:
    """Note what happened: see OUTCOMES."""
    earned: dict[str, list[float]] = {"right": [], "wrong": [], "abstained": []}
    for group in groups:
        rewards = group.rewards
        tally.add("reward_std", statistics.pstdev(rewards))
        if len(rewards) > 1:
            whole = group.whole_rewards
            tally.add("even_share", float(len(whole) < 2 or is_even(whole)))
        for trace, reward in zip(group.traces, rewards, strict=True):
            _tally_trace(trace, group.reference, tally)
            tally.add("reward_mean", reward)
            if group.reference.is_answerable and trace.is_valid:
                kind = "abstained" if trace.abstained else "right" if is_right(trace, group.reference) else "wrong"
                earned[kind].append(reward)
    for other in ("wrong", "abstained"):
        if earned["right"] and earned[other]:
            tally.add(f"right_over_{other}", statistics.fmean(earned["right"]) - statistics.fmean(earned[other]))


def _tally_trace(trace: Trace, reference: Reference, tally: Tally) -> None:
    tally.add("right_share", float(is_right(trace, reference)))
    tally.add("valid_share", float(trace.is_clean))
    tally.add("repeated_share", float(trace.num_repeated > 0))
    tally.add("cut_share", float(trace.is_truncated))
    tally.add("searches", trace.num_searches)
    tally.add("searches_over", trace.num_searches - reference.num_hops)
    queries = [normalize_answer(hop.query) for hop in trace.hops]
    tally.add("distinct_queries", len(set(queries)) / max(1, len(queries)))
    tally.add("answer_words", len(trace.answer.split()))
    if reference.is_answerable:
        tally.add("abstains_answerable", float(trace.abstained))
        tally.add("evidence_recall", evidence_recall(trace, reference))
    elif trace.is_valid:
        tally.add("answers_unanswerable", float(not trace.abstained))


def leaked_places(ids: Sequence[int], places: Iterable[int], tokenizer: Tokenizer) -> list[int]:
    """Of the places that are trained, those inside what was given to the model: questions and results.

    It looks at ids alone, so that a wrong mask cannot hide itself.
    """
    ends = {tokenizer.special(start): tokenizer.special(end) for start, end in GIVEN.items()}
    given: set[int] = {0}
    end = None
    for place, id in enumerate(ids):
        if end is None and id in ends:
            end = ends[id]
        if end is not None:
            given.add(place)
            end = None if id == end else end
    return [place for place in places if place in given]
