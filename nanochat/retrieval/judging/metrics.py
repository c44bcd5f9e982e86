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
    found = relevant(grades)
    return len(found.intersection(ranking[:k])) / len(found) if found else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """1 / place of the first relevant document among the first k, else 0; its mean is MRR@k."""
    wanted = relevant(grades)
    return next((1 / place for place, name in enumerate(ranking[:k], 1) if name in wanted), 0.0)


def average_precision(ranking: Sequence[str], grades: Grades, k: int = 1000) -> float:
    """Mean over the relevant documents of the precision at their places, 0 if not among the first k; mean: MAP@k."""
    wanted = relevant(grades)
    found, total = 0, 0.0
    for place, name in enumerate(ranking[:k], 1):
        if name in wanted:
            found += 1
            total += found / place
    return total / len(wanted) if wanted else 0.0


def relevant(grades: Grades) -> set[str]:
    """The documents with a grade above 0."""
    return {name for name, grade in grades.items() if grade > 0}


METRICS = {"ndcg": ndcg, "recall": recall, "mrr": reciprocal_rank, "map": average_precision}


def score_queries(
    rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Grades], *, k: int = 10
) -> dict[str, dict[str, float]]:
    """Every metric at k for each judged query: {"ndcg@10": {query: value}}, queries in the order of the judgements.

    A query is judged when it has a relevant document; one without a ranking counts as 0. Raises ValueError when no
    query is judged.
    """
    judged = [query for query, grades in judgements.items() if relevant(grades)]
    if not judged:
        raise ValueError("no query has a relevant document")
    return {
        f"{name}@{k}": {query: metric(rankings.get(query, ()), judgements[query], k) for query in judged}
        for name, metric in METRICS.items()
    }


def evaluate(
    rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Grades], *, k: int = 10
) -> dict[str, float]:
    """The mean of every metric at k over all judged queries; a judged query without a ranking counts as 0."""
    scores = score_queries(rankings, judgements, k=k)
    return {name: sum(values.values()) / len(values) for name, values in scores.items()}
