"""Words and stems: scripts, accents, and agreement with the compiled half of the chain."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.retrieval import make_retriever
from nanochat.retrieval.words.analysis import STOP_WORDS, _words_of, analyze, spaced_words
from nanochat.retrieval.words.stemming import _EXCEPTIONS, _STEP2, _STEP3, _STEP4, stem
from tasks.example_documents import example_documents


@pytest.mark.parametrize(("text", "words"), [
    ("Refunds, within 30 days!", "refunds within 30 days"),
    ("Caf\u00e9 CAFE\u0301 na\u00efve", "cafe cafe naive"),
    ("\u0130stanbul", "istanbul"),
    ("\uff21\uff22 \ufb01ne", "ab fine"),
    ("state-of-the-art X-200/b", "state of the art x 200 b"),
    # Hindi keeps its vowel signs and conjuncts, Cyrillic and Greek their case pairs
    ("\u0939\u093f\u0928\u094d\u0926\u0940!", "\u0939\u093f\u0928\u094d\u0926\u0940"),
    ("\u041c\u041e\u0421\u041a\u0412\u0410", "\u043c\u043e\u0441\u043a\u0432\u0430"),
    # Chinese and Japanese: one word per character
    ("\u6c49\u5b57abc\u304b", "\u6c49 \u5b57 abc \u304b"),
    ("\ud55c\uad6d\uc5b4 \ubb38\uc11c", "\ud55c\uad6d\uc5b4 \ubb38\uc11c"),
    ("half \ud83d character", "half character"),
    ("\u2014\u201c\u201d \U0001f600", ""),
])  # fmt: skip
def test_words(text, words):
    assert spaced_words(text).split() == words.split()


MIXED = "aZ1_ \u2019\u2014\u00e9\u0301\u00bd\u0130\u2103\u0915\u6771\ud800"


@given(st.text(st.characters(exclude_categories=())) | st.text(MIXED))
def test_the_short_way_gives_the_words_of_the_long_way(text):
    assert spaced_words(text).split() == _words_of(text).split()


def test_every_character_goes_the_same_short_or_long_way():
    for code in [*range(0x3400), *range(0xa000, 0x20000, 7)]:
        text = f"a{chr(code)}b A {chr(code)}\u0301"
        assert spaced_words(text).split() == _words_of(text).split(), hex(code)


def test_stop_words_and_debris_are_not_terms():
    assert analyze("What is your return policy?") == ["return", "polici"]
    assert analyze("x" * 199) and not analyze("x" * 200) and not analyze("the of and")


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_has_terms_that_can_be_stored(text):
    for term in analyze(text):
        assert term and not any(letter.isspace() for letter in term)
        term.encode("utf-8")


def test_both_halves_of_the_chain_agree():
    compiled = make_retriever("bm25")._analyzer
    rng = random.Random(0)
    endings = [pair[0] for pair in (*_STEP2, *_STEP3)] + [*_STEP4, *"ing ed edly eed y ly s ies e ll".split()]
    letters = "aabcdeeghiiklmnooprsttuvwxyyz"
    words = {"".join(rng.choices(letters, k=rng.randint(1, 5))) + rng.choice(endings) for _ in range(4000)}
    words |= {*_EXCEPTIONS, *STOP_WORDS, *"vying added egged evenings paste universities sociologist skiing".split()}
    words |= {word for record in example_documents() for word in spaced_words(record["content"]).split()}
    wrong = {word for word in words if compiled.analyze(word) != analyze(word)}
    assert not wrong, sorted(wrong)[:20]


def test_stems_join_forms_of_a_word():
    assert stem("refunds") == stem("refunded") == stem("refunding") == "refund"
    assert stem("university") != stem("universe")
