"""Answers: their order, and the way back from generated ids."""

import pytest
from chat_stubs import TOKENIZER, answers_of, conversations, doc
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.chat_format import parse_answer, render


@given(conversations(), st.sampled_from([None, 60, 150]))
@settings(deadline=None, max_examples=200)
def test_parse_answer_reads_back_what_render_wrote(conversation, max_tokens):
    rendered = render(conversation, TOKENIZER, max_tokens=max_tokens)
    given_answers = [m for m in conversation["messages"] if m["role"] == "assistant"]
    for message, ids in zip(given_answers, answers_of(rendered), strict=True):
        parsed = parse_answer(ids, TOKENIZER, rendered.documents)
        assert parsed.is_finished
        assert parsed.abstained == message.get("abstain", False)
        assert parsed.text == ("" if parsed.abstained else message["content"].strip())
        if max_tokens is None:
            assert parsed.citations == list(dict.fromkeys(message.get("citations", [])))
            assert parsed.closest == list(dict.fromkeys(message.get("closest", [])))
        assert all(slot < len(rendered.documents) for slot in parsed.citations)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size + 5), max_size=40), st.integers(0, 4))
@settings(deadline=None, max_examples=200)
def test_parse_answer_takes_any_ids(ids, num_documents):
    parsed = parse_answer(ids, TOKENIZER, [doc("x")] * num_documents)
    assert all(0 <= slot < num_documents for slot in parsed.citations)
    assert parsed.is_finished == (TOKENIZER.special("assistant_end") in ids)


def test_parse_answer_leaves_out_invalid_and_repeated_citations():
    cite, end = TOKENIZER.special("cite"), TOKENIZER.special("assistant_end")
    ids = [cite, TOKENIZER.doc(1), cite, TOKENIZER.doc(7), cite, TOKENIZER.doc(1), cite, *TOKENIZER.encode(" Ilse")]
    parsed = parse_answer([*ids, end, cite, TOKENIZER.doc(0)], TOKENIZER, [doc("a"), doc("b")])
    assert (parsed.text, parsed.citations, parsed.abstained, parsed.is_finished) == ("Ilse", [1], False, True)
    assert not parse_answer(ids, TOKENIZER, []).is_finished


@pytest.mark.parametrize(
    ("num_ids", "text", "citations"),
    [(0, "", []), (1, "", []), (2, "", []), (3, "", []), (4, "", []), (5, "Ilse", [1, 0])],
)
def test_an_answer_that_was_cut_before_its_text_cites_nothing(num_ids, text, citations):
    cite, (word,) = TOKENIZER.special("cite"), TOKENIZER.encode(" Ilse")
    ids = [cite, TOKENIZER.doc(1), cite, TOKENIZER.doc(0), word]
    parsed = parse_answer(ids[:num_ids], TOKENIZER, [doc("a"), doc("b")])
    assert (parsed.text, parsed.citations, parsed.is_finished) == (text, citations, False)
