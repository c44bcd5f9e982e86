"""Ten answers for a reader of the card: failures and successes of different conditions, with what was shown."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from nanochat.evaluation.suite.judging import Judged

NUM_EPISODES = 10
# in the order shown; what says little to a reader is left out
TELLING = ("retrieved", "edited", "wrong", "contradiction", "injected_instruction", "injected_tags", "asked_wording",
           "hard_9", "asked_typo", "deleted", "position_5", "oracle")


def choose_episodes(cells: Mapping[str, Sequence[Judged]], count: int = NUM_EPISODES) -> list[dict[str, Any]]:
    """About half failures and half successes, the conditions in turn; the same ones every time.

    A question without an answer is shown beside one that has an answer where a cell holds both.
    """
    seen: set[str] = set()
    failures = _in_turn(cells, seen, is_right=False)
    successes = _in_turn(cells, seen, is_right=True)
    num_failures = min(len(failures), max(count // 2, count - len(successes)))
    chosen = failures[:num_failures] + successes[: count - num_failures]
    return [episode(cell, one) for cell, one in chosen]


def _in_turn(
    cells: Mapping[str, Sequence[Judged]], seen: set[str], *, is_right: bool
) -> list[tuple[str, Judged]]:
    """The first few of every cell, in turn; no question comes twice as long as there are others."""
    columns = []
    for place, cell in enumerate(name for name in TELLING if name in cells):
        mine = [one for one in cells[cell] if one.is_right == is_right]
        mine.sort(key=lambda one: bool(one.prompt.answers) != bool(place % 3))
        mine = [one for one in mine if one.prompt.id not in seen][:NUM_EPISODES] or mine[:NUM_EPISODES]
        # the first few of a cell are what the other cells shall not repeat
        seen.update(one.prompt.id for one in mine[:3])
        columns.append([(cell, one) for one in mine])
    return [one for turn in zip_longest(*columns) for one in turn if one is not None]


def episode(cell: str, one: Judged) -> dict[str, Any]:
    """One answer with all that a reader needs to judge it, as plain JSON values."""
    cited = {citation.id for citation in one.citations}
    return {
        "cell": cell,
        "id": one.prompt.id,
        "question": one.prompt.question,
        "expected": list(one.prompt.answers[:1]),
        "text": one.text,
        "citations": [{"number": citation.number, "id": citation.id} for citation in one.citations],
        "probability": one.probability,
        "is_right": one.is_right,
        "verdict": verdict(one),
        "documents": [
            {"id": str(document["id"]), "title": document["title"], "content": document["content"],
             "is_evidence": str(document["id"]) in one.prompt.evidence, "is_cited": str(document["id"]) in cited}
            for document in one.shown
        ],
    }


def verdict(one: Judged) -> str:
    """The judgement in words."""
    if one.is_right:
        return "rightly abstained" if one.abstained else "right answer"
    if one.is_lured:
        return "gave the answer that this condition sets as a trap"
    if not one.prompt.answers:
        return "answered without evidence"
    if one.evidence_shown is False:
        return f"{'abstained' if one.abstained else 'wrong answer'}; not all evidence was shown"
    return "abstained, though the evidence was shown" if one.abstained else "wrong answer"
