"""Passages: the sentence that states an answer, exact offsets, every script, any text, in linear time."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.text import find_passage
from nanochat.text.passages import MAX_PASSAGE_CHARS

TEXT = (
    "The Torvik bridge opened in 1987.\r\nIt cost $1,987 and took 3.5 years. Dr. Ilse Marrow built the tower in 1987!"
    "\r\n\r\n- Opening hours: 9-17\r\n- Phone: 412 Last words"
)


KYOTO = "\u4eac\u90fd\u306f\u53e4\u3044\u3002"
SHANGHAI = "\u4e0a\u6d77\u5f88\u5927\u3002"
BUSAN = "\ubd80\uc0b0\uc740 \ud06c\ub2e4."
OMSK = "\u041e\u043d \u0432 \u041e\u043c\u0441\u043a\u0435."


def passage(text, answer, **options):
    found = find_passage(text, [answer] if isinstance(answer, str) else answer, **options)
    if found is None:
        return None
    assert text[found.start : found.end] == found.text != ""
    return found.text, found.match


@pytest.mark.parametrize(
    ("answer", "sentence", "match"),
    [
        ("1987", "The Torvik bridge opened in 1987.", "exact"),
        ("3.5 years", "It cost $1,987 and took 3.5 years.", "exact"),
        ("Ilse Marrow", "Dr. Ilse Marrow built the tower in 1987!", "exact"),
        ("ilse  MARROW.", "Dr. Ilse Marrow built the tower in 1987!", "normalised"),
        ("9-17", "- Opening hours: 9-17", "exact"),
        ("years. Dr. Ilse", "It cost $1,987 and took 3.5 years. Dr. Ilse Marrow built the tower in 1987!", "exact"),
        ("the tower of Ilse Marrow", "Dr. Ilse Marrow built the tower in 1987!", "overlap"),
        ("Torvi", "The Torvik bridge opened in 1987.", "overlap"),
        ("412 last words", "- Phone: 412 Last words", "normalised"),
    ],
)
def test_the_sentence_that_states_an_answer(answer, sentence, match):
    assert passage(TEXT, answer) == (sentence, match)


@pytest.mark.parametrize(
    "answer", ["987", "198", "5 years", "3", "Mars", "", " ", "the of", ".", "owe", "41", "9-17 Mars Venus Pluto"])
def test_what_a_text_does_not_state_has_no_passage(answer):
    assert passage(TEXT, answer) is None


def test_of_several_places_the_question_decides_then_the_first():
    assert passage(TEXT, "1987", question="When was the tower built?")[0].startswith("Dr. Ilse")
    assert passage(TEXT, "1987", question="When did the bridge open?")[0].startswith("The Torvik")
    assert passage(TEXT, "1987", question="zzz")[0].startswith("The Torvik")


def test_the_first_answer_that_stands_anywhere_counts():
    assert passage(TEXT, ["Mars", "412", "1987"]) == ("- Phone: 412 Last words", "exact")
    # a word by word match of one comes before what only resembles another
    assert passage(TEXT, ["tower bridge of Torvik", "ILSE MARROW"])[1] == "normalised"


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        (f"\u6771\u4eac\u3060\u3002{KYOTO}", "\u4eac\u90fd", KYOTO),
        (f"\u5317\u4eac\u662f\u9996\u90fd\u3002{SHANGHAI}", "\u4e0a\u6d77\u5f88\u5927\u4e86", SHANGHAI),
        (f"\uc11c\uc6b8\uc740 \uc218\ub3c4\uc774\ub2e4. {BUSAN}", "\ubd80\uc0b0", BUSAN),
        ("Gegr\u00fcndet \uff11\uff19\uff18\uff17. Ende.", "1987", "Gegr\u00fcndet \uff11\uff19\uff18\uff17."),
        ("Das cafe\u0301 ist zu. Ende.", "caf\u00e9", "Das cafe\u0301 ist zu."),
        ("Die STRASSE ist lang. Ende.", "Stra\u00dfe", "Die STRASSE ist lang."),
        (f"{OMSK} \u041a\u043e\u043d\u0435\u0446.", "\u041e\u043c\u0441\u043a", OMSK),
        ("One \U0001f600. Two \U0001f680!", "\U0001f680", "Two \U0001f680!"),
    ],
)
def test_other_scripts_and_forms_of_letters(text, answer, expected):
    found = find_passage(text, [answer])
    assert found is not None and found.text == expected == text[found.start : found.end]


def test_no_passage_reaches_beyond_what_was_shown():
    assert passage(TEXT, "412", end=60) is None
    found = find_passage(TEXT, ["1987"], end=40)
    assert found.text == "The Torvik bridge opened in 1987."
    cut = find_passage(TEXT, ["Torvik"], end=20)
    assert (cut.start, cut.end, cut.text) == (0, 20, "The Torvik bridge op")
    assert find_passage(TEXT, ["Torvik"], end=0) is None


@pytest.mark.parametrize("joint", [" ", ""])
def test_a_long_sentence_is_cut_around_the_answer(joint):
    text = joint.join(["word" if joint else "\u65e5"] * 500 + ["\u672c\u672c"] + ["word" if joint else "\u65e5"] * 500)
    found = find_passage(text, ["\u672c\u672c"])
    assert "\u672c\u672c" in found.text and 0.8 * MAX_PASSAGE_CHARS <= len(found.text) <= MAX_PASSAGE_CHARS
    assert not joint or set(found.text.split()) == {"word", "\u672c\u672c"}, "words are whole"
    words = " ".join(["word"] * 300)
    assert find_passage(f"{words} end.", [f"{words} end"]).text == f"{words} end."[: len(words) + 4]


PIECES = ["Torvik", "1987", "3.5", " ", ". ", "\r\n", "\n\n", "! ", "\u3002", "\u6771\u4eac", "e\u0301", "\u00df",
          "[1]", "<|bos|>", "\U0001f600", "\x00", "\u202e", "or", "- ", "word " * 90]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join),
       st.lists(st.sampled_from(PIECES), max_size=3).map("".join), st.integers(0, 400),
       st.one_of(st.just(""), st.text(max_size=20)))
def test_offsets_are_those_of_the_passage_for_any_text(text, answer, end, question):
    found = find_passage(text, [answer, *answer.split()], question=question, end=end)
    if found is not None:
        assert 0 <= found.start < found.end <= min(end, len(text))
        assert text[found.start : found.end] == found.text
        assert found.match in ("exact", "normalised", "overlap")
        assert len(found.text) <= max(MAX_PASSAGE_CHARS, len(answer))
        if found.match == "exact":
            assert any(part in found.text for part in (answer.strip(), *answer.split()))


def test_a_document_of_a_hundred_thousand_words_takes_a_moment():
    text = "".join(f"Sentence {number} says that the value is v{number % 977}. " for number in range(13_000))
    started = time.process_time()
    assert passage(text, "v976 zebra")[1] == "overlap"
    assert passage(text, "v500", question="Which sentence says value?")[1] == "exact"
    assert passage("x" * 600_000, "xx") is None
    assert time.process_time() - started < 5, "about 1 s was measured"
