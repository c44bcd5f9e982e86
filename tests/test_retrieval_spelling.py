"""Misspelt words of a question: what is mended, and what nobody misspelt and therefore stays."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.retrieval.words.spelling import corrected

TEXTS = ["Dorleminster\nThe population of Dorleminster is 2504. It has sold leather since the year 1640, it says.",
         "Heater\nThe warranty period of the Kelvon Heater is two years. The tokenizer counts quenlers and bannocks."]


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ("Waht is the waranty peirod?", "What is the warranty period?"),
        ("Give the populaiton of Dorleminster.", "Give the population of Dorleminster."),
        ("which goods do traders frmo Hurbodal sell", "which goods do traders from Hurbodal sell"),
        ("Give the founding yera of Zelrilex.", "Give the founding year of Zelrilex."),
        ("i cant remeber my pasword!", "i cant remember my password!"),
        ("how many bannoks and quenlres are there?", "how many bannocks and quenlers are there?"),
        ("(recieve)  popualtion", "(receive)  population"),
    ],
)
def test_a_slip_is_read_as_what_was_meant(asked, read):
    assert corrected(asked, TEXTS) == read


@pytest.mark.parametrize(
    "question",
    [
        "", "  ", "???", "What is the warranty period?",
        "Who is the mayor of Dorleminstre?",                # a name that differs is another name
        "what does the KELVNO heater cost", "is part a11enr in stock?", "Kelvno lasts how long?",
        "what do quenlers eat", "is the tokenizers list long",  # words of the documents alone, in another form as well
        "is adress@populaiton.com right?", "what does /etc/populaiton or populaiton_count hold?", "a populaiton-list",
        "how do I write a toml file",                       # a short word that nobody knows is near too many others
        "is the colour of savory food analyzed or analysed at the centre?",
        "what does teh do", "is onboarding on kubernetes supported by the backend?",
        "Wie lange ist die Garantie der Heizung?", "Quelle est la garantie du chauffage?",
        "ガランティー は 何年 ですか",
    ],
)
def test_what_is_no_slip_stays(question):
    assert corrected(question, TEXTS) == question


def test_what_a_document_says_comes_before_what_is_common():
    assert corrected("which countrs are there?", ["The counters are old."]) == "which counters are there?"
    assert corrected("which countrs are there?", ["The Counters are old."]) == "which country are there?", "a name"
    assert corrected("is the poblem known?", []) == "is the problem known?", "nothing need be found for it"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(max_size=80), max_size=3))
def test_any_text_keeps_all_but_words_that_could_be_slips(question, texts):
    read = corrected(question, texts)
    assert corrected(read, texts) == read or read != question
    pieces, others = (re.split(r"([A-Za-z]+)", one) for one in (question, read))
    assert len(pieces) == len(others)
    for at, (was, now) in enumerate(zip(pieces, others, strict=True)):
        is_first = not "".join(pieces[:at]).strip()
        assert was == now or (len(was) >= 4 and was.isalpha() and (was.islower() or is_first and was[1:].islower()))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_swap_in_a_word_of_the_documents_is_found(data):
    words = sorted({word for text in TEXTS for word in re.findall(r"(?<!\S)[a-z]{6,}", text)})
    word = data.draw(st.sampled_from(words))
    at = data.draw(st.integers(1, len(word) - 2))
    slip = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    assert corrected(f"what is the {slip} of it?", TEXTS) == f"what is the {word} of it?"
