"""Sample answers for a reader of the report: failures first, every condition in turn, always the same ones."""

from collections.abc import Sequence
from itertools import zip_longest

from nanochat.evaluation.records import Record


def choose_samples(records: Sequence[Record], limit: int = 10) -> list[Record]:
    """About half failures and half successes, taken round-robin over conditions in their order.

    Closed-book answers are left out: nobody expects them to be right. When one half is short the other fills up.
    """
    shown = [record for record in records if record.condition != "closed_book"]
    failures = _round_robin([record for record in shown if not record.correct])
    successes = _round_robin([record for record in shown if record.correct])
    num_failures = min(len(failures), max(limit // 2, limit - len(successes)))
    return failures[:num_failures] + successes[: limit - num_failures]


def _round_robin(records: Sequence[Record]) -> list[Record]:
    by_condition: dict[str, list[Record]] = {}
    for record in records:
        by_condition.setdefault(record.condition, []).append(record)
    return [record for turn in zip_longest(*by_condition.values()) for record in turn if record is not None]


def expected_answer(record: Record) -> str:
    """What would have been right."""
    return " / ".join(record.gold) if record.gold and record.condition != "wrong" else "abstain"


def describe_outcome(record: Record) -> str:
    """The judgement in words."""
    if record.correct:
        return "rightly abstained" if record.abstained else "right answer"
    if record.condition == "wrong" or not record.gold:
        return "answered without evidence"
    if record.should_abstain:
        return f"{'abstained' if record.abstained else 'wrong answer'}, the evidence was not retrieved"
    return "abstained, though the evidence was shown" if record.abstained else "wrong answer"
