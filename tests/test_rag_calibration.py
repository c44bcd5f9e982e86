"""The threshold of abstention: what it maximises, where in a gap it stands, and what cannot be calibrated."""

import random

import pytest

from nanochat.errors import ConfigError
from nanochat.rag.calibration import choose_threshold


def outcome(probabilities, is_right, threshold):
    """(answered, right): what an engine with this threshold does."""
    given = [right for value, right in zip(probabilities, is_right) if value >= threshold and threshold < 1]
    return len(given), sum(given)


@pytest.mark.parametrize("cost", [0.0, 0.5, 1.0, 9.0])
def test_no_threshold_scores_higher(cost):
    rng = random.Random(int(cost * 10))
    for number in range(200):
        ties = rng.choice([3, 20, 10**6])
        probabilities = [rng.randrange(ties + 1) / ties for _ in range(rng.randrange(1, 30))]
        is_right = [rng.random() < value ** rng.choice([1, 3]) for value in probabilities]
        chosen = choose_threshold(probabilities, is_right, wrong_cost=cost)
        assert (chosen.num_answered, chosen.num_right) == outcome(probabilities, is_right, chosen.threshold), number
        assert chosen.score == chosen.num_right - cost * (chosen.num_answered - chosen.num_right)
        for threshold in {0.0, 1.0, *probabilities, *(value + 1e-9 for value in probabilities)}:
            answered, right = outcome(probabilities, is_right, threshold)
            assert right - cost * (answered - right) <= chosen.score + 1e-9, (threshold, chosen)


def test_the_threshold_stands_in_the_middle_of_the_widest_gap():
    chosen = choose_threshold([0.9, 0.95, 0.1, 0.3], [True, True, False, False])
    assert chosen.threshold == pytest.approx(0.6)
    assert (chosen.num_questions, chosen.num_answered, chosen.num_right) == (4, 2, 2)
    assert chosen.coverage == 0.5 and chosen.accuracy == 1.0
    # two gaps score the same: answering both of the middle ones gains nothing
    assert choose_threshold([0.9, 0.5, 0.4], [True, False, True]).threshold == pytest.approx(0.2)
    assert choose_threshold([0.9, 0.3, 0.2], [True, False, True]).threshold == pytest.approx(0.6)


def test_what_is_always_right_is_answered_and_what_never_is_not():
    assert choose_threshold([0.4, 0.8], [True, True]).threshold == pytest.approx(0.2)
    nothing = choose_threshold([0.4, 0.8], [False, False])
    assert nothing.threshold == pytest.approx(0.9) and nothing.accuracy is None and nothing.coverage == 0
    assert choose_threshold([1.0], [False]).threshold == 1.0
    assert choose_threshold([0.0], [True]).threshold == 0.0


def test_a_wrong_answer_that_costs_more_is_avoided():
    probabilities, is_right = [0.9, 0.6, 0.6, 0.6, 0.2], [True, True, True, False, False]
    assert choose_threshold(probabilities, is_right).num_answered == 4
    assert choose_threshold(probabilities, is_right, wrong_cost=9).num_answered == 1
    assert choose_threshold(probabilities, is_right, wrong_cost=0).num_right == 3


def test_neighbouring_numbers_are_told_apart():
    low, high = 0.5, 0.5 + 2**-53
    chosen = choose_threshold([low, high], [False, True], wrong_cost=9)
    assert chosen.num_answered == 1 and low < chosen.threshold <= high


@pytest.mark.parametrize(("probabilities", "cost", "problem"), [
    ([], 1, "without questions"), ([1.5], 1, "1.5 is no probability"), ([float("nan")], 1, "nan is no probability"),
    ([0.5], -1, "wrong_cost is -1"),
])
def test_what_cannot_be_calibrated_is_said(probabilities, cost, problem):
    with pytest.raises(ConfigError, match=problem):
        choose_threshold(probabilities, [True] * len(probabilities), wrong_cost=cost)
