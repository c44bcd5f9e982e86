"""From judged records to numbers: one row per condition, abstention over all, differences between conditions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.evaluation.conditions import CONDITIONS, UNANSWERABLE
from nanochat.evaluation.records import Record
from nanochat.evaluation.statistics import Estimate, bootstrap_mean, paired_difference, proportion

# name -> what it is; the order is the order of every table
METRICS: dict[str, str] = {
    "exact_match": "share of questions whose normalised answer equals an accepted one",
    "f1": "mean token F1 against the best accepted answer",
    "recall": "mean share of the supporting documents among those given (recall@k)",
    "abstention": "share of questions the model declined to answer",
    "cited": "share of the given answers that carry a citation (the engine's grammar asks for one by default)",
    "citation_validity": "share of the cited answers in which every [n] is a shown document; less than 1 is a defect",
    "citation_support": "share of the cited answers whose words stand in a cited document",
    "citation_precision": "mean share of an answer's citations that are supporting documents",
    "citation_recall": "mean share of the supporting documents that an answer cites",
}
# name -> (first, second): exact match of the first minus the second on the same questions
DIFFERENCES: dict[str, tuple[str, str]] = {
    "retrieval_lift": ("retrieved", "closed_book"),
    "retriever_gap": ("oracle", "retrieved"),
}


@dataclass(frozen=True, kw_only=True)
class ConditionSummary:
    """One row of the table. A metric is None where it says nothing, such as exact match of an unanswerable question."""

    condition: str
    num_questions: int
    num_dropped: int                            # questions whose documents were dropped or trimmed for the budget
    answer_shown: Estimate | None               # under "wrong": how often other documents hold the answer's words too
    metrics: Mapping[str, Estimate | None]      # keys of METRICS

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_questions": self.num_questions,
            "num_dropped": self.num_dropped,
            "answer_shown": _plain(self.answer_shown),
            **{name: _plain(self.metrics[name]) for name in METRICS},
        }


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """All judged records in the order asked, and what they add up to."""

    records: Sequence[Record]
    conditions: Mapping[str, ConditionSummary]
    abstention_precision: Estimate | None       # of the abstentions on retrieved documents, the share that was right
    abstention_recall: Estimate | None          # of the questions to abstain from, the share that was
    differences: Mapping[str, Estimate | None]  # keys of DIFFERENCES
    notes: Sequence[str]                        # what was left out, in sentences

    def to_dict(self) -> dict[str, Any]:
        return {
            "conditions": {name: summary.to_dict() for name, summary in self.conditions.items()},
            "abstention_precision": _plain(self.abstention_precision),
            "abstention_recall": _plain(self.abstention_recall),
            "differences": {name: _plain(value) for name, value in self.differences.items()},
            "notes": list(self.notes),
        }


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.to_dict()


def summarize(records: Sequence[Record], *, notes: Sequence[str] = (), seed: int = 0) -> EvaluationResult:
    """Group records by condition and estimate every metric.

    Abstaining is right when the question is unanswerable or a supporting document was not shown. Abstention precision
    and recall are taken over the retrieved documents, answerable and unanswerable questions together.
    """
    rows = {name: [record for record in records if record.condition == name] for name in (*CONDITIONS, UNANSWERABLE)}
    product = rows["retrieved"] + rows[UNANSWERABLE]
    return EvaluationResult(
        records=records,
        conditions={name: _summarize_condition(name, group, seed) for name, group in rows.items() if group},
        abstention_precision=proportion([record.should_abstain for record in product if record.abstained]),
        abstention_recall=proportion([record.abstained for record in product if record.should_abstain]),
        differences={
            name: _difference(rows[first], rows[second], seed) for name, (first, second) in DIFFERENCES.items()
        },
        notes=notes,
    )


def _summarize_condition(condition: str, records: Sequence[Record], seed: int) -> ConditionSummary:
    has_gold = condition != UNANSWERABLE
    answered = [record for record in records if not record.abstained]
    cited = [record for record in answered if record.citations]
    # the evidence is on the table: only then are citations compared with the supporting documents
    judged = [record for record in answered if condition in ("retrieved", "oracle") and record.supporting_ids]
    recalls = [record.recall for record in records if record.recall is not None and condition != "closed_book"]
    return ConditionSummary(
        condition=condition,
        num_questions=len(records),
        num_dropped=sum(record.dropped > 0 for record in records),
        answer_shown=proportion([record.answer_shown for record in records]) if has_gold else None,
        metrics={
            "exact_match": proportion([record.exact_match for record in records]) if has_gold else None,
            "f1": bootstrap_mean([record.f1 for record in records], seed=seed) if has_gold else None,
            "recall": bootstrap_mean(recalls, seed=seed),
            "abstention": proportion([record.abstained for record in records]),
            "cited": proportion([bool(record.citations) for record in answered]),
            "citation_validity": proportion([_is_valid(record) for record in cited]),
            "citation_support": proportion([any(one.has_answer for one in record.citations) for record in cited]),
            "citation_precision": bootstrap_mean([_precision(one) for one in judged if one.citations], seed=seed),
            "citation_recall": bootstrap_mean([_recall(record) for record in judged], seed=seed),
        },
    )


def _is_valid(record: Record) -> bool:
    return all(citation.id for citation in record.citations)


def _precision(record: Record) -> float:
    return sum(citation.id in record.supporting_ids for citation in record.citations) / len(record.citations)


def _recall(record: Record) -> float:
    supporting = set(record.supporting_ids)
    return len(supporting & {citation.id for citation in record.citations}) / len(supporting)


def _difference(first: Sequence[Record], second: Sequence[Record], seed: int) -> Estimate | None:
    by_id = {record.id: record.exact_match for record in second}
    pairs = [(record.exact_match, by_id[record.id]) for record in first if record.id in by_id]
    return paired_difference([one for one, _ in pairs], [other for _, other in pairs], seed=seed)
