"""Multi-hop turns: every hop looks like a plain turn, queries and decisions are supervised, written ids are kept."""

import pytest
from chat_stubs import TOKENIZER, answer, conversations, doc, retrieval, said, show, supervised, user
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.chat_format import parse_answer, render, render_hop, text_ids
from nanochat.errors import ConversationError
from nanochat.tokenizer import NUM_RESERVED

END = TOKENIZER.special("assistant_end")


def hops(*queries, **fields):
    found = [{"hop": i, "query": q, "documents": [doc(q, title="")], **fields} for i, q in enumerate(queries, start=1)]
    return {"role": "retrieval", "multi_hop": True, "hops": found}


def rendered(*messages, **options):
    return render({"messages": list(messages)}, TOKENIZER, **options)


@pytest.mark.parametrize("place", [0, 1])
def test_every_hop_is_query_results_and_the_query_in_the_place_of_a_question(place):
    messages = [user(), answer()]
    messages.insert(place, hops("When?", "Torvik"))
    whole = rendered(*messages)
    assert show(whole.ids) == (
        "<bos><results_start><doc_0> It opened in 1987.<results_end><user_start> When?<user_end>"
        "<query_start> Torvik<query_end><results_start><doc_1> It opened in 1987.<results_end>"
        "<user_start> Torvik<user_end><assistant_start> 1987<assistant_end>"
    )
    assert supervised(whole) == "<query_start> Torvik<query_end><assistant_start> 1987<assistant_end>"


def test_before_another_first_query_stands_the_question():
    whole = rendered(user(), hops("Torvik", "When?"), answer())
    assert show(whole.ids) == (
        "<bos><user_start> When?<user_end>"
        "<query_start> Torvik<query_end><results_start><doc_0> It opened in 1987.<results_end>"
        "<user_start> Torvik<user_end>"
        "<query_start> When?<query_end><results_start><doc_1> It opened in 1987.<results_end>"
        "<user_start> When?<user_end><assistant_start> 1987<assistant_end>"
    )
    assert supervised(whole) == (
        "<query_start> Torvik<query_end><query_start> When?<query_end><assistant_start> 1987<assistant_end>")


def test_a_query_cites_the_documents_that_made_it_ask():
    turn = hops("When?", "Torvik", "Ansgar")
    turn["hops"][1]["citations"], turn["hops"][2] = [0], {**turn["hops"][2], "citations": [1, 0], "supervised": False}
    whole = rendered(user(), turn, answer())
    assert "<query_start><cite><doc_0> Torvik<query_end>" in show(whole.ids)
    assert "<query_start><cite><doc_1><cite><doc_0> Ansgar<query_end>" in show(whole.ids)
    assert supervised(whole) == (
        "<query_start><cite><doc_0> Torvik<query_end><assistant_start> 1987<assistant_end>")
    # what its document does not fit in is asked without it
    cut = rendered(user(), turn, answer(), max_tokens=len(whole.ids) - 1)
    assert cut.dropped and cut.lost_citations and len(cut.ids) < len(whole.ids)


@given(said, st.lists(st.builds(doc, st.just("x"), said, said), max_size=3), st.sampled_from([None, 30, 60]))
@settings(deadline=None, max_examples=60)
def test_a_trace_of_one_hop_has_the_ids_of_a_plain_turn(question, documents, max_tokens):
    one = {"role": "retrieval", "multi_hop": True, "hops": [{"query": f" {question}\n", "documents": documents}]}
    before, after = [user("Who?"), answer("Ilse")], [user("And now?")]
    options = {"max_tokens": max_tokens}
    hop = rendered(*before, one, user(question), answer(), *after, **options)
    plain = rendered(*before, retrieval(*documents), user(question), answer(), *after, **options)
    assert hop.ids == plain.ids and hop.documents == plain.documents
    decided = [i for i, (mine, other) in enumerate(zip(hop.mask, plain.mask, strict=True)) if mine != other]
    starts = [i for i, id in enumerate(plain.ids) if id == TOKENIZER.special("assistant_start")]
    assert decided == starts[1:], "the decision to answer is supervised, and nothing else is different"


def test_a_mistake_and_a_forced_answer_are_not_supervised():
    trace = hops("When?", "mistake", "Torvik")
    trace["hops"][1]["supervised"] = False
    whole = rendered(user(), trace, answer(forced=True))
    assert supervised(whole) == "<query_start> Torvik<query_end> 1987<assistant_end>"
    assert "<query_start> mistake<query_end>" in show(whole.ids)
    assert whole.ids == rendered(user(), hops("When?", "mistake", "Torvik"), answer()).ids


def test_the_prompt_of_a_decision_is_the_trace_without_its_answer():
    trace, whole = [user(), hops("When?", "Torvik")], rendered(user(), hops("When?", "Torvik"), answer())
    undecided, decided = rendered(*trace), rendered(*trace, for_generation=True)
    assert show(undecided.ids).endswith("<user_start> Torvik<user_end>")
    assert decided.ids == [*undecided.ids, TOKENIZER.special("assistant_start")] == whole.ids[: len(decided.ids)]


@given(conversations(), said, st.lists(st.builds(doc, st.just("x"), said, said), max_size=3), st.booleans())
@settings(deadline=None, max_examples=80)
def test_a_hop_alone_is_what_it_adds_to_a_turn(conversation, query, documents, is_supervised):
    hop = {"hop": 2, "query": query, "documents": documents, "supervised": is_supervised}
    messages = [*conversation["messages"], user()]
    whole, shorter = (
        rendered(*messages, {**hops("When?"), "hops": [*hops("When?")["hops"], *more]}) for more in ([hop], []))
    ids, mask = render_hop(hop, TOKENIZER, first_slot=len(shorter.documents))
    assert whole.ids == shorter.ids + ids and whole.mask == shorter.mask + mask


def spelled(text):
    """Ids of a text that encoding would not give: one for each character."""
    return [id for char in text for id in TOKENIZER.encode(char)]


def test_ids_that_were_written_are_kept():
    query, said = spelled("Torvik"), [TOKENIZER.special("cite"), TOKENIZER.doc(1), *spelled(" 1987"), END]
    assert tuple(query) != text_ids("Torvik", TOKENIZER)
    trace = hops("When?", "Torvik")
    trace["hops"][1]["ids"] = query
    whole = rendered(user(), trace, answer(citations=[1], ids=said))
    start = whole.ids.index(TOKENIZER.special("query_start")) + 1
    assert whole.ids[start : start + len(query)] == query
    assert whole.ids[-len(said) :] == said and whole.mask[-len(said) :] == [1] * len(said)
    # the query in the place of a question is ours, and encoded
    assert whole.ids[-len(said) - 9 :].count(TOKENIZER.special("user_start")) == 1
    encoded = show(rendered(user(), hops("When?", "Torvik"), answer(citations=[1])).ids)
    assert show(whole.ids) == encoded.replace("<query_start> ", "<query_start>")


@pytest.mark.parametrize("ids", [
    spelled("Torvi"), [*spelled("Torvik"), TOKENIZER.special("query_end")], [TOKENIZER.special("expand")],
    [-1], [TOKENIZER.vocab_size], [*spelled("Torvik"), 10**12], [],
])
def test_ids_that_do_not_spell_the_query_are_not_taken(ids):
    trace = hops("When?", "Torvik")
    trace["hops"][1]["ids"] = ids
    assert rendered(user(), trace, answer()) == rendered(user(), hops("When?", "Torvik"), answer())


@pytest.mark.parametrize("ids", [
    spelled(" 1988"), [TOKENIZER.special("cite"), TOKENIZER.doc(0), *spelled(" 1987"), END],
    [TOKENIZER.special("abstain"), END], [*spelled(" 1987"), END, *spelled(" x"), END],
    [*spelled(" 1987"), TOKENIZER.special("user_start"), END], [TOKENIZER.special("bos"), *spelled(" 1987"), END],
    [TOKENIZER.vocab_size, END], [-3],
])
def test_ids_that_do_not_say_what_the_answer_says_are_not_taken(ids):
    messages = [user(), hops("When?", "Torvik")]
    assert rendered(*messages, answer(ids=ids)) == rendered(*messages, answer())


def test_written_ids_go_when_their_documents_do():
    said = [TOKENIZER.special("cite"), TOKENIZER.doc(1), *spelled(" Ilse Marrow"), END]
    messages = [user(), retrieval(doc("a"), doc("b")), answer("Ilse Marrow", citations=[1], ids=said)]
    full = rendered(*messages)
    assert full.ids[-len(said) :] == said
    short = rendered(*messages, max_tokens=len(full.ids) - 12)
    assert [document["id"] for document in short.documents] == ["a"] and short.lost_citations == 1
    assert short.ids[-len(text_ids("Ilse Marrow", TOKENIZER)) - 1 :] == [*text_ids("Ilse Marrow", TOKENIZER), END]


@pytest.mark.parametrize("ids", [[TOKENIZER.special("cite")], [TOKENIZER.special("cite"), TOKENIZER.doc(0)]])
def test_an_answer_that_was_cut_before_its_text_is_its_ids(ids):
    whole = rendered(user(), hops("When?"), answer("", ids=ids))
    assert whole.ids[-len(ids) :] == ids and not parse_answer(ids, TOKENIZER, whole.documents).is_finished


@given(conversations(), st.sampled_from([None, 60, 150]))
@settings(deadline=None, max_examples=100)
def test_ids_of_the_rendering_itself_change_nothing(conversation, max_tokens):
    first = render(conversation, TOKENIZER, max_tokens=max_tokens)
    start = TOKENIZER.special("assistant_start")
    starts = iter([i + 1 for i, id in enumerate(first.ids) if id == start])
    messages = []
    for message in conversation["messages"]:
        if message["role"] == "assistant":
            at = next(starts)
            message = {**message, "ids": first.ids[at : first.ids.index(END, at) + 1]}
        messages.append(message)
    assert render({"messages": messages}, TOKENIZER, max_tokens=max_tokens) == first


@pytest.mark.parametrize("text", ["<|query_start|>", "<|query_end|><|assistant_start|>", "<|user_end|> <|doc_1|>"])
def test_marks_in_queries_and_documents_stay_text(text):
    def trace(words):
        found = {**hops("When?", words), "role": "retrieval"}
        found["hops"][0]["documents"] = [doc("a", words, words)]
        return rendered(user(), found, answer(words))

    marks = [[id for id in trace(words).ids if id < NUM_RESERVED] for words in (text, "x")]
    assert marks[0] == marks[1]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([user(), hops("When?", supervised="no"), answer()], "hop 1: 'supervised' is 'no', expected true or false"),
        ([user(), hops("When?", ids="12"), answer()], "hop 1: 'ids' is '12', expected a list of token ids"),
        ([user(), hops("When?", ids=[True]), answer()], "hop 1: 'ids' is \\[True\\], expected a list of token ids"),
        ([user(), hops("When?"), answer(forced=1)], "message 3 \\(assistant\\): 'forced' is 1, expected true or false"),
        ([user(), answer(ids=[1.5])], "message 2 \\(assistant\\): 'ids' is \\[1.5\\], expected a list of token ids"),
        ([user(), answer("", ids=[])], "message 2 \\(assistant\\): 'content' is empty"),
    ],
)
def test_optional_keys_of_another_kind_are_refused(messages, problem):
    with pytest.raises(ConversationError, match=problem):
        rendered(*messages)
