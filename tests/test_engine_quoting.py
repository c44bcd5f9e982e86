"""Extractive answers: whatever the model would like to write, what it writes stands in a document that it cites."""

import re

import pytest
from engine_stubs import make_model, make_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat.chat_format import render, text_ids
from nanochat.engine import Engine
from nanochat.engine.grammar import AnswerGrammar
from nanochat.engine.quoting import Quotables, QuoteRule

TOKENIZER = make_tokenizer()
CITE, END, ABSTAIN = (TOKENIZER.special(name) for name in ("cite", "assistant_end", "abstain"))
GRAMMAR = AnswerGrammar(TOKENIZER, num_ids=TOKENIZER.vocab_size)
DOCUMENTS = [
    {"id": "a", "title": "Orrin Lamp", "content": "The price of the Orrin Lamp is 290 crowns (40 watts, 24-hour use)."},
    {"id": "b", "title": "",
     "content": "# Été\n\n- colour:\tbleu foncé\n- “née” in Zürich, 1 234 €\nThe price is 310 crowns."},
    {"id": "c", "title": "Notes", "content": "Nothing. Or this or that: 東京タワー, x=1/2."},
]


def prompt_ids(documents=DOCUMENTS):
    return render({"messages": [{"role": "retrieval", "documents": documents}, {"role": "user", "content": "What?"}]},
                  TOKENIZER, for_generation=True).ids


def rule_of(documents=DOCUMENTS):
    return QuoteRule(GRAMMAR.begin_row(len(documents)), GRAMMAR, Quotables(prompt_ids(documents), TOKENIZER))


def written(rule, ids):
    """How many of the ids the rule allows, one after the other."""
    for number, id in enumerate(ids):
        if not rule.allowed()[id]:
            return number
        rule.advance(id)
    return len(ids)


def cited(*slots):
    return [id for slot in slots for id in (CITE, TOKENIZER.doc(slot))]


def is_quote(answer, texts):
    """Whether an answer stands in one of the texts between ends of words."""
    before, behind = (r"(?<![^\W_])" if answer[:1].isalnum() else "", r"(?![^\W_])" if answer[-1:].isalnum() else "")
    pattern = before + re.escape(answer) + behind
    return any(re.search(pattern, text) for text in texts)


@pytest.mark.parametrize(("slot", "quote"), [
    (0, "290 crowns"), (0, "Orrin Lamp"), (0, "40 watts"), (0, "The price of the Orrin Lamp is 290 crowns"),
    (0, "24-hour"),
    (1, "bleu foncé"), (1, "Été"), (1, "née"), (1, "Zürich"), (1, "1 234 €"), (1, "310 crowns"), (2, "this or that"),
    (2, "東京タワー"), (2, "1/2"), (2, "Notes"),
])
def test_every_run_of_words_can_be_quoted(slot, quote):
    ids = [*cited(slot), *text_ids(quote, TOKENIZER), END]
    assert written(rule_of(), ids) == len(ids)


@pytest.mark.parametrize(("slots", "answer"), [
    ((0,), "245 crowns"), ((0,), "310 crowns"), ((0,), "29"), ((0,), "rin Lamp"), ((0,), "290 crowns or 290 crowns"),
    ((1,), "290 crowns"), ((1,), "Zür"), ((0,), "Lamp Orrin"), ((0, 1), "290 crowns or"), ((0, 2), "310 crowns"),
    ((0, 1), "290 crowns or 310 crowns or 40 watts"), ((2,), "東京タ"),
])
def test_nothing_else_can(slots, answer):
    ids = [*cited(*slots), *text_ids(answer, TOKENIZER), END]
    assert written(rule_of(), ids) < len(ids)


def test_documents_that_contradict_each_other_are_quoted_both():
    ids = [*cited(0, 1), *text_ids("290 crowns or 310 crowns", TOKENIZER), END]
    assert written(rule_of(), ids) == len(ids)


def test_abstaining_and_what_cites_nothing_stay_as_they_are():
    assert written(rule_of(), [ABSTAIN, END]) == 2
    assert written(rule_of(), [*cited(1), ABSTAIN, END]) == 4
    free = QuoteRule(GRAMMAR.begin_row(0), GRAMMAR, Quotables(prompt_ids([]), TOKENIZER))
    ids = [*text_ids("Hello, how are you?", TOKENIZER), END]
    assert written(free, ids) == len(ids)


def test_a_document_without_words_leaves_the_text_free():
    rule = rule_of([{"id": "a", "title": "", "content": ""}])
    ids = [*cited(0), *text_ids("anything", TOKENIZER), END]
    assert written(rule, ids) == len(ids)


def test_a_copy_goes_its_own_way():
    rule = rule_of()
    prefix = [*cited(0), *text_ids("290", TOKENIZER)]
    assert written(rule, prefix) == len(prefix)
    other = rule.fork()
    other.advance(END)
    crowns = text_ids("290 crowns", TOKENIZER)[len(text_ids("290", TOKENIZER)) :]
    assert written(rule, crowns) == len(crowns)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.sampled_from((0.0, 1.0)))
@example(seed=6602, temperature=1.0)  # a second quote at the beginning of a line
@example(seed=111090, temperature=1.0)  # a quote of nothing but the space before a character of several ids
def test_an_untrained_model_answers_in_quotes_and_guessing_ahead_changes_nothing(seed, temperature):
    conversation = {"messages": [{"role": "retrieval", "documents": DOCUMENTS},
                                 {"role": "user", "content": "What is the price?"}]}
    model = make_model("M,T")
    told = []
    for speculate in (0, 8):
        engine = Engine(model, TOKENIZER, extractive=True, speculate=speculate, answer_threshold=0.0)
        told.append(engine.generate_from_conversation(conversation, 24, temperature=temperature, seed=seed)[1])
    answer, slots = told[0]["answer"], [citation["slot"] for citation in told[0]["citations"]]
    assert told[0]["answer"] == told[1]["answer"]
    texts = [text for slot in slots for text in (DOCUMENTS[slot]["title"], DOCUMENTS[slot]["content"])]
    assert answer and slots
    if told[0]["stop"] == "end":
        parts = answer.split(" or ") if len(slots) > 1 else [answer]
        assert is_quote(answer, texts) or all(is_quote(part, texts) for part in parts), answer
