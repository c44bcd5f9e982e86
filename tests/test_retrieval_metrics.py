"""Ranking metrics against values worked out by hand and against ir-measures; tests of differences against scipy."""

import itertools
import math
import random

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nanochat.retrieval.base import Hit
from nanochat.retrieval.judging.metrics import average_precision, evaluate, ndcg, recall, reciprocal_rank, score_queries
from nanochat.retrieval.judging.rankings import merge, rank
from nanochat.retrieval.judging.significance import randomisation_test

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


def test_scores_of_queries_add_up_to_the_means():
    judgements = {"q1": GRADES, "q2": {"b": 1}, "unjudged": {"c": 0}}
    rankings = {"q1": ["x", "a"], "q2": ["b"], "unjudged": ["c"], "not asked": ["a"]}
    scores = score_queries(rankings, judgements, k=3)
    assert list(scores["ndcg@3"]) == ["q1", "q2"]
    means = {name: sum(values.values()) / 2 for name, values in scores.items()}
    assert evaluate(rankings, judgements, k=3) == means


def random_run(seed: int) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    """Rankings and judgements with grades from -1 to 3, rankings of different length, some of them empty."""
    generator = random.Random(seed)
    names = [f"d{number}" for number in range(40)]
    judgements = {f"q{query}": {name: generator.choice([-1, 0, 0, 1, 1, 2, 3])
                                for name in generator.sample(names, generator.randint(1, 12))} for query in range(30)}
    rankings = {query: generator.sample(names, generator.choice([0, 1, 3, 10, 40])) for query in judgements}
    return rankings, judgements


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 5, 10, 100])
def test_every_metric_equals_ir_measures(seed, k):
    rankings, judgements = random_run(seed)
    scores = score_queries(rankings, judgements, k=k)
    theirs = {"ndcg": ir_measures.nDCG @ k, "recall": ir_measures.R @ k, "mrr": ir_measures.RR @ k,
              "map": ir_measures.AP @ k}
    run = {query: {name: float(-place) for place, name in enumerate(names)} for query, names in rankings.items()}
    # trec_eval counts grades below 0 as 0, and so do we; other tools behind ir-measures do not know them
    qrels = {query: {name: max(grade, 0) for name, grade in grades.items()} for query, grades in judgements.items()}
    found = {(str(value.measure), value.query_id): value.value
             for value in ir_measures.iter_calc(list(theirs.values()), qrels, run)}
    checked = 0
    for name, measure in theirs.items():
        for query, value in scores[f"{name}@{k}"].items():
            assert value == pytest.approx(found.get((str(measure), query), 0.0), abs=1e-6), (name, query)
            checked += 1
    assert checked > 80


def test_few_differences_are_flipped_in_all_ways():
    first, second = [0.9, 0.4, 0.7, 0.5, 0.2], [0.1, 0.5, 0.3, 0.5, 0.1]
    differences = np.subtract(first, second)
    signs = np.array(list(itertools.product([1, -1], repeat=5)))
    expected = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9)
    assert randomisation_test(first, second) == pytest.approx(expected)


def test_many_differences_agree_with_scipy():
    generator = np.random.default_rng(5)
    first = generator.random(80)
    second = first + generator.normal(0.04, 0.2, 80)
    ours = randomisation_test(list(first), list(second), num_permutations=20_000)
    theirs = stats.permutation_test((first, second), lambda one, other: np.mean(one - other), n_resamples=20_000,
                                    permutation_type="samples", rng=np.random.default_rng(1)).pvalue
    assert 0.001 < ours < 0.5 and ours == pytest.approx(theirs, abs=0.015)


def test_p_of_no_difference_of_a_clear_one_and_of_chance():
    assert randomisation_test([0.5] * 40, [0.5] * 40) == 1
    assert randomisation_test([1.0] * 40, [0.0] * 40, num_permutations=999) == pytest.approx(1 / 1000)
    generator = np.random.default_rng(0)
    values = [randomisation_test(*generator.random((2, 30)), num_permutations=199, seed=seed) for seed in range(200)]
    # p is even between 0 and 1 when there is no difference
    assert 0.02 <= np.mean(np.array(values) <= 0.1) <= 0.19


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40))
@settings(max_examples=40, deadline=None)
def test_p_does_not_depend_on_which_comes_first(pairs):
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    p = randomisation_test(first, second, num_permutations=99)
    assert 0 < p <= 1 and p == randomisation_test(second, first, num_permutations=99)


def test_scores_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError):
        randomisation_test([1.0], [1.0, 0.5])
    with pytest.raises(ValueError):
        randomisation_test([1.0], [0.5], num_permutations=0)


def test_a_document_has_the_place_of_its_best_passage():
    hits = [Hit(3, 2.0), Hit(4, 1.5), Hit(0, 1.0), Hit(5, 0.5)]
    found = merge(hits, lambda row: "long" if row >= 3 else "short")
    assert [tuple(item) for item in found] == [("long", 3, 2.0), ("short", 0, 1.0)]


@given(st.lists(st.lists(st.integers(0, 60), unique=True, max_size=60), max_size=6), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_passages_are_asked_for_until_there_are_enough_documents(rows_of_queries, top_k):
    everything = {str(number): [Hit(row, 100.0 - place) for place, row in enumerate(rows)]
                  for number, rows in enumerate(rows_of_queries)}

    def search(queries, limit):
        return [everything[query][:limit] for query in queries]

    def name_of(row):
        return f"document {row // 10}"

    rankings = rank(search, name_of, list(everything), top_k)
    for query, ranking in zip(everything, rankings):
        assert ranking == merge(everything[query], name_of)[:top_k]
