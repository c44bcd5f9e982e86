"""The grammar of actions: a search with a query that shows something, or the answer; and the same over stored ids."""

import random

import pytest
import torch
from engine_stubs import make_documents
from hop_stubs import QUESTIONS, TOKENIZER, make_engine

from nanochat.chat_format import render
from nanochat.engine.hop_rules import is_visible
from nanochat.engine.hops import HopConfig, walk_masks

ENGINE = make_engine()
GRAMMAR = ENGINE.hop_grammar
START, END, ANSWER = (TOKENIZER.special(name) for name in ("query_start", "query_end", "assistant_start"))
JAPANESE = TOKENIZER.encode("\u6a4b")
assert len(JAPANESE) == 3, "one id per byte"


def ids_of(mask):
    return set(mask.nonzero()[:, 0].tolist())


def ways(*ids, most=8, documents=0):
    """What may come after these ids of an action."""
    rule = GRAMMAR.begin_row(most, documents)
    for id in ids:
        rule.advance(id)
    return ids_of(rule.allowed())


TEXT = {id for id in range(TOKENIZER.vocab_size) if not TOKENIZER.is_reserved(id)}


def test_an_action_is_a_query_or_the_answer():
    assert ways() == {START, ANSWER}
    (word,) = TOKENIZER.encode("a")
    assert ways(START) == TEXT and ways(START, word) == TEXT | {END}
    assert ways(START, *[word] * 8) == {END}


def test_a_query_is_never_blank():
    (space,), (line,) = TOKENIZER.encode(" "), TOKENIZER.encode("\n")
    assert ways(START, space, line) == TEXT
    last = ways(START, *[space] * 7)
    assert END not in last and last < TEXT and all(is_visible(TOKENIZER.decode([id])) for id in last)
    # white space of several bytes, and a character that is not finished
    assert END not in ways(START, *TOKENIZER.encode("\u3000")) and END not in ways(START, JAPANESE[0])
    assert END in ways(START, *JAPANESE)


def test_a_query_may_cite_one_shown_document_before_its_text():
    cite, first, second = TOKENIZER.special("cite"), TOKENIZER.doc(0), TOKENIZER.doc(1)
    (word,) = TOKENIZER.encode("a")
    assert ways(START, documents=2) == TEXT | {cite} and ways(START, cite, documents=2) == {first, second}
    assert ways(START, cite, second, documents=2) == TEXT
    assert ways(START, cite, second, word, documents=2) == TEXT | {END} == ways(START, word, documents=2)
    # the citation takes nothing from the room of the text
    assert ways(START, cite, first, *[word] * 8, documents=2) == {END}
    assert ways(ANSWER, documents=2) == {END}


@pytest.mark.parametrize("most", [1, 2, 5])
def test_every_walk_ends_in_a_query_that_shows_something(most):
    rng = random.Random(most)
    cite = TOKENIZER.special("cite")
    for number in range(200):
        rule, ids = GRAMMAR.begin_row(most, number % 3), []
        while not ids or ids[-1] not in (END, ANSWER):
            fork = rule.fork()
            everything = range(len(GRAMMAR.is_text))
            assert {id for id in everything if rule.permits(id)} == ids_of(rule.allowed())
            allowed = sorted(ids_of(rule.allowed()))
            ids.append(cite if cite in allowed and rng.random() < 0.5 else rng.choice(allowed))
            rule.advance(ids[-1])
            assert ids_of(fork.allowed()) >= {ids[-1]}, "a copy went along"
        if ids[-1] == END:
            text = ids[3:-1] if ids[1] == cite else ids[1:-1]
            assert 1 <= len(text) <= most and is_visible(TOKENIZER.decode(text)) and TEXT >= set(text)


def test_what_is_not_allowed_is_a_mistake_of_ours():
    for ids in ((END,), (START, END), (START, START), (TOKENIZER.special("bos"),), (ANSWER, ANSWER)):
        with pytest.raises(AssertionError, match="not allowed by the grammar of actions"):
            ways(*ids)


def trace(queries, answer, **fields):
    hops = [{"hop": i, "query": q, "documents": make_documents(2)} for i, q in enumerate(queries, start=1)]
    return [{"role": "retrieval", "multi_hop": True, "hops": hops}, {"role": "user", "content": queries[0]},
            {"role": "assistant", **answer, **fields}]


def walked(messages, **options):
    rendered = render({"messages": messages}, TOKENIZER)
    found = list(walk_masks(ENGINE, rendered.ids, rendered.mask, HopConfig(**options)))
    assert [place for place, _ in found] == [place for place, m in enumerate(rendered.mask) if m]
    return [(rendered.ids[place], mask) for place, mask in found]


def test_masks_of_a_stored_trace_are_those_of_the_grammars():
    found = walked(trace([QUESTIONS[0], "Torvik ferry"], {"content": "at 07:45", "citations": [3]}))
    assert all(bool(mask[id]) for id, mask in found)
    query = TOKENIZER.encode(" Torvik ferry")
    assert [id for id, _ in found[: len(query) + 2]] == [START, *query, END]
    assert found[0][1] is GRAMMAR.actions and found[1][1] is GRAMMAR.text_or_cite and found[2][1] is GRAMMAR.text_or_end
    assert found[len(query) + 2][0] == ANSWER and found[len(query) + 2][1] is GRAMMAR.actions
    cite, doc = found[len(query) + 3 : len(query) + 5]
    assert ids_of(cite[1]) == {TOKENIZER.special("cite"), TOKENIZER.special("abstain")}
    assert ids_of(doc[1]) == {TOKENIZER.doc(slot) for slot in range(4)}, "all documents shown so far, and no other"


def test_unsupervised_places_are_passed_over():
    hops = trace([QUESTIONS[0], "mistake", "Torvik"], {"content": "", "abstain": True}, forced=True)
    hops[0]["hops"][1]["supervised"] = False
    ids = [id for id, _ in walked(hops)]
    assert ids == [START, *TOKENIZER.encode(" Torvik"), END, TOKENIZER.special("abstain"),
                   TOKENIZER.special("assistant_end")]


def test_what_leaves_the_grammar_is_free_to_the_end_of_its_piece():
    found = walked(trace([QUESTIONS[0], "Torvik ferry harbour"], {"content": "uncited"}), max_query_tokens=2)
    assert found[2][1] is GRAMMAR.text_or_end and found[3][1] is GRAMMAR.end
    answer = [id for id, _ in found].index(ANSWER)
    assert all(mask is GRAMMAR.anything for _, mask in found[4:answer]) and found[answer][1] is GRAMMAR.actions
    assert ids_of(found[answer + 1][1]) == {TOKENIZER.special("cite"), TOKENIZER.special("abstain")}
    assert all(mask is GRAMMAR.anything for _, mask in found[answer + 2 :])
    assert bool(GRAMMAR.anything.all()) and isinstance(GRAMMAR.anything, torch.Tensor)


def test_plain_turns_behind_a_trace_are_walked_too():
    more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "07:45", "citations": [0]},
            {"role": "user", "content": "Free?"}, {"role": "assistant", "content": "", "abstain": True, "closest": [1]}]
    found = walked([*trace([QUESTIONS[0]], {"content": "07:45", "citations": [1]}), *more])
    assert all(bool(mask[id]) for id, mask in found) and not any(mask is GRAMMAR.anything for _, mask in found)
    docs = [mask for id, mask in found if TOKENIZER.doc_index(id) is not None]
    assert [ids_of(mask) for mask in docs] == [{TOKENIZER.doc(0), TOKENIZER.doc(1)}] * 3
