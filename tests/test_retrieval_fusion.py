"""Fusion: convex combination of normalised scores, and reciprocal ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.retrieval.retrievers.fusion import convex, normalised, reciprocal_rank

cosines = st.lists(st.floats(-1, 1, allow_nan=False), min_size=1, max_size=20)


def test_convex_by_hand():
    scores = convex(np.array([0.5, -1.0]), np.array([0.0, 8.0]), alpha=0.7, best_dense=0.5, best_lexical=8.0)
    assert scores == pytest.approx([0.7, 0.3])
    scores = convex(np.array([0.2]), np.array([3.0]), alpha=0.5, best_dense=1.0, best_lexical=4.0)
    assert scores == pytest.approx([0.5 * 0.6 + 0.5 * 0.75])


@given(dense=cosines, lexical=st.floats(0, 50), alpha=st.floats(0, 1))
def test_convex_scores_lie_between_0_and_1_and_rise_with_each_part(dense, lexical, alpha):
    dense = np.sort(np.array(dense))
    flat = np.full(len(dense), lexical)
    scores = convex(dense, flat, alpha=alpha, best_dense=dense[-1], best_lexical=50.0)
    assert (scores >= -1e-12).all() and (scores <= 1 + 1e-12).all() and (np.diff(scores) >= -1e-12).all()
    assert convex(dense, flat, alpha=0, best_dense=dense[-1], best_lexical=50.0) == pytest.approx(flat / 50)


def test_nothing_found_on_one_side_counts_nothing():
    assert normalised(np.zeros(3), 0.0, 0.0).tolist() == [0, 0, 0]
    assert convex(np.array([0.4, 0.2]), np.zeros(2), alpha=0.7, best_dense=0.4, best_lexical=0.0)[0] == 0.7


def test_reciprocal_rank_by_hand():
    earned = reciprocal_rank([[3, 1], [1, 2]], k=10)
    assert earned == pytest.approx({3: 1 / 11, 1: 1 / 12 + 1 / 11, 2: 1 / 12})
    assert reciprocal_rank([]) == reciprocal_rank([[], []]) == {}
    with pytest.raises(ValueError, match="k must be at least 1"):
        reciprocal_rank([[1]], k=0)


@given(rankings=st.lists(st.permutations(range(6)), max_size=4), k=st.integers(1, 100))
def test_reciprocal_rank_does_not_depend_on_the_order_of_rankings(rankings, k):
    earned = reciprocal_rank(rankings, k=k)
    assert earned == pytest.approx(reciprocal_rank(rankings[::-1], k=k))
    assert all(0 < score <= len(rankings) / (k + 1) + 1e-12 for score in earned.values())
