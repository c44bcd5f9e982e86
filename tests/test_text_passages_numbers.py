"""Passages of numbers: a number is found as the whole that it is, whatever its sign, point, commas and neighbours."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat.text import find_passage
from nanochat.text.passages import MAX_PASSAGE_CHARS


def stated(text, answer, **options):
    found = find_passage(text, [answer], **options)
    if found is not None:
        assert text[found.start : found.end] == found.text
    return None if found is None else found.text


@pytest.mark.parametrize(("text", "answer"), [
    ("It was -5 degrees.", "5 degrees"), ("It was \u22125 degrees.", "5 degrees"), ("It was 15 degrees.", "5 degrees"),
    ("It was 0.5 degrees.", "5 degrees"), ("It was .5 degrees.", "5 degrees"), ("It was -.5 degrees.", ".5 degrees"),
    ("It was 5 degrees.", "-5 degrees"), ("It was (-5).", "5"), ("It cost 300 coins.", "30"),
    ("It cost 30,000 coins.", "30"), ("It began at 12:30.", "30"), ("It weighs 3.5kg.", "5kg"),
    ("Version v1.2 came.", "2"), ("Open 9-17.", "-17"), ("x=-5", "5"), ("It was \uff0d\uff15.", "5"),
    ("\u6c17\u6e29-5\u5ea6", "5"), ("\u6c17\u6e29-5\u5ea6", "5\u5ea6"), ("It was -5.25.", "25"),
    ("It was -5.25.", "5.25"), ("It was 1.5.", "1"),
])
def test_part_of_a_number_states_nothing(text, answer):
    assert stated(text, answer) is None


@pytest.mark.parametrize(("text", "answer"), [
    ("It was -5 degrees.", "-5 degrees"), ("It was \u22125 degrees.", "-5 degrees"), ("Open 9-17.", "17"),
    ("Open 9-17.", "9"), ("The end.5 is next.", "5"), ("So...5 came.", "5"), ("From 2\u20135 degrees.", "5 degrees"),
    ("10%-15% of them.", "15%"), ("It was .5 degrees.", ".5"), ("COVID-19 came.", "19"),
    ("In 1987, they came.", "1987"), ("It was 1987.", "1987"), ("Phone:412", "412"), ("\u6c17\u6e29-5\u5ea6", "-5"),
])
def test_a_whole_number_is_found(text, answer):
    assert stated(text, answer) is not None


@pytest.mark.parametrize("text", ["It took 300 days", "It took 30.5 days", "It took 30,000 days", "It took 30:15 h"])
def test_a_number_that_was_not_shown_to_its_end_states_nothing(text):
    end = text.index("30") + 2
    assert stated(text, "30", end=end) is None
    assert stated(text, "It took 30", end=end) is None
    # and its first digits are no part of a passage
    assert stated(text, "took", end=end) == "It took"
    assert stated("It took 30 days", "30", end=end) == "It took 30"
    assert stated("It took -5 days", "took", end=9) == "It took -"


def test_a_word_that_was_not_shown_to_its_end_is_another_word():
    assert stated("The Torvik bridge opened.", "op", end=20) is None
    assert stated("The Torvik bridge opened.", "bridge", end=20) == "The Torvik bridge op"


number = st.from_regex(r"-?(?:0|[1-9][0-9]{0,3})(?:,[0-9]{3})?(?:\.[0-9]{1,2})?", fullmatch=True)
before = st.sampled_from(["", " ", "was ", "(", "was: ", "\n"])
after = st.sampled_from(["", ".", " degrees.", "\u00b0C", "%", ", they say", ")", "!"])


@settings(max_examples=600, deadline=None)
@given(number, number, before, after, st.integers(0, 30))
@example("300", "30", "was ", " degrees.", 6)
@example("-5", "5", "was ", " degrees.", 30)
@example("15", "5", "(", "\u00b0C", 30)
def test_a_number_is_found_where_it_stands_and_nowhere_else(written, answer, front, rear, end):
    text = f"{front}{written}{rear}"
    start = len(front)
    is_shown = end >= start + len(written)
    found = find_passage(text, [answer], end=end)
    assert (found is not None) == (is_shown and written == answer), (text[:end], answer, found)
    # the passage of another word holds the number whole or not at all
    around = find_passage(f"Torvik {text}", ["Torvik"], end=end + 7)
    if around is not None:
        assert written in around.text or not re.search(r"\d", around.text), around


@settings(max_examples=100, deadline=None)
@given(st.integers(100, 360), st.integers(1, 360), st.integers(1, 60))
def test_a_long_sentence_is_not_cut_in_a_number(lead, trail, digits):
    # no spaces near the place where the sentence is cut
    text = f"{'x' * lead}-{'7' * digits}-{'y' * 30}, Torvik, {'z' * 30}-{'8' * digits}-{'x' * trail}"
    found = find_passage(text, ["Torvik"])
    assert "Torvik" in found.text and len(found.text) <= MAX_PASSAGE_CHARS
    assert set(re.findall(r"7+|8+", found.text)) <= {"7" * digits, "8" * digits}
