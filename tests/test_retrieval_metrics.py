"""Ranking metrics against values worked out by hand."""

import math

import pytest

from nanochat.retrieval.metrics import average_precision, evaluate, ndcg, recall, reciprocal_rank

GRADES = {"a": 2, "b": 1, "c": 1, "z": 0}


def test_values_worked_out_by_hand():
    ranking = ["x", "b", "z", "a"]
    best = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(ranking, GRADES, 10) == pytest.approx((1 / math.log2(3) + 2 / math.log2(5)) / best)
    assert recall(ranking, GRADES, 10) == pytest.approx(2 / 3) and recall(ranking, GRADES, 1) == 0
    assert reciprocal_rank(ranking, GRADES, 10) == 0.5 and reciprocal_rank(ranking, GRADES, 1) == 0
    assert average_precision(ranking, GRADES) == pytest.approx((1 / 2 + 2 / 4) / 3)


def test_perfect_and_empty_rankings():
    for metric in (ndcg, recall, reciprocal_rank, average_precision):
        assert metric(["a", "b", "c"], GRADES, 10) == 1
        assert metric([], GRADES, 10) == 0 and metric(["a"], {}, 10) == 0


def test_means_count_queries_without_a_ranking():
    means = evaluate({"q1": ["a"]}, {"q1": {"a": 1}, "q2": {"b": 1}, "unjudged": {"c": 0}}, k=5)
    assert means == {"ndcg@5": 0.5, "recall@5": 0.5, "mrr@5": 0.5, "map@5": 0.5}
    with pytest.raises(ValueError):
        evaluate({}, {"q": {"a": 0}})
