"""Answer scores against values worked out by hand."""

import pytest

from nanochat.evaluation.qa_metrics import contains_answer, exact_match, f1_score, normalize_answer


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  a   big\tdog ", "big dog"),
        ("an apple, the pear", "apple pear"),
        ("theatre", "theatre"),
        ("twenty-one", "twentyone"),
        ("$1,200.50", "120050"),
        ("\u201cTorvik\u201d \u2014 ja", "torvik ja"),
        ("\uff11\uff12", "12"),
        ("the", ""),
        ("...", ""),
        ("", ""),
    ],
)
def test_normalising_follows_the_squad_rules(text, normalised):
    assert normalize_answer(text) == normalised
    assert normalize_answer(normalised) == normalised


def test_exact_match_accepts_any_alias():
    assert exact_match("the Torvik", ["Jon Torvik", "Torvik"])
    assert not exact_match("Torvik Jon", ["Jon Torvik", "Torvik"])
    assert not exact_match("Torvik", [])


@pytest.mark.parametrize("empty", ["", "the", "?!"])
def test_an_empty_prediction_is_wrong_even_against_an_empty_answer(empty):
    assert not exact_match(empty, [empty])
    assert f1_score(empty, [empty]) == 0.0
    assert not contains_answer("some text", empty)


def test_f1_counts_shared_tokens_and_takes_the_best_alias():
    # two of three predicted tokens, two of two gold tokens: precision 2/3, recall 1
    assert f1_score("Jon Torvik senior", ["Jon Torvik"]) == pytest.approx(0.8)
    assert f1_score("Jon Torvik senior", ["nobody", "Jon Torvik"]) == pytest.approx(0.8)
    # repeated tokens count as often as both sides have them: 1 shared of 3 and 1
    assert f1_score("red red red", ["red"]) == pytest.approx(0.5)
    assert f1_score("blue", ["red"]) == 0.0
    assert f1_score("blue", []) == 0.0


def test_contained_answers_are_whole_words():
    assert contains_answer("The mayor is Jon Torvik.", "jon torvik")
    assert not contains_answer("The mayor is Jon Torvikson.", "Jon Torvik")
