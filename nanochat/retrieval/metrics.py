"""How good a ranking is, against judgements: nDCG, recall, reciprocal rank, average precision.

A ranking is a list of document ids, best first, each at most once. Judgements give the grade of a document for one
query; a document that is not judged has grade 0, and grades above 0 are relevant. All metrics lie in [0, 1].
"""

import math
from collections.abc import Mapping, Sequence

Grades = Mapping[str, int]


def ndcg(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Discounted cumulative gain over that of the best order, gain = grade (Jarvelin and Kekalainen 2002)."""
    best = _discounted(sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:k])
    return _discounted([max(grades.get(name, 0), 0) for name in ranking[:k]]) / best if best else 0.0


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains))


def recall(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Share of the relevant documents among the first k."""
    relevant = _relevant(grades)
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """1 / place of the first relevant document among the first k, else 0; its mean is MRR@k."""
    relevant = _relevant(grades)
    return next((1 / place for place, name in enumerate(ranking[:k], 1) if name in relevant), 0.0)


def average_precision(ranking: Sequence[str], grades: Grades, k: int = 1000) -> float:
    """Mean over the relevant documents of the precision at their places, 0 if not among the first k; mean: MAP@k."""
    relevant = _relevant(grades)
    found, total = 0, 0.0
    for place, name in enumerate(ranking[:k], 1):
        if name in relevant:
            found += 1
            total += found / place
    return total / len(relevant) if relevant else 0.0


def _relevant(grades: Grades) -> set[str]:
    return {name for name, grade in grades.items() if grade > 0}


METRICS = {"ndcg": ndcg, "recall": recall, "mrr": reciprocal_rank, "map": average_precision}


def evaluate(
    rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Grades], *, k: int = 10
) -> dict[str, float]:
    """The mean of every metric at k over all judged queries; a judged query without a ranking counts as 0."""
    judged = [query for query, grades in judgements.items() if _relevant(grades)]
    if not judged:
        raise ValueError("no query has a relevant document")
    return {
        f"{name}@{k}": sum(metric(rankings.get(query, ()), judgements[query], k) for query in judged) / len(judged)
        for name, metric in METRICS.items()
    }
