"""The chat format: order of tokens, mask, the budget that documents pay for, and the way back to an answer."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.chat_format import MIN_TRIMMED_TOKENS, parse_answer, render, text_ids
from nanochat.errors import ConversationError
from nanochat.tokenizer import NUM_DOC_SLOTS, NUM_RESERVED, RESERVED_NAMES, Tokenizer

WORDS = "the Torvik bridge opened in 1987 and Ilse Marrow built it near Vessary for 412 coins".split()
TOKENIZER = Tokenizer.train([" " + " ".join(WORDS)] * 3, 500)


def doc(name, content="It opened in 1987.", title="Torvik"):
    return {"id": name, "title": title, "content": content}


def user(text="When?"):
    return {"role": "user", "content": text}


def answer(text="1987", **fields):
    return {"role": "assistant", "content": text, **fields}


def retrieval(*documents):
    return {"role": "retrieval", "documents": list(documents)}


def show(ids):
    """Ids as readable text, reserved ids as <name>."""
    parts = []
    for i in ids:
        parts.append(f"<{RESERVED_NAMES[i]}>" if i < NUM_RESERVED else TOKENIZER.decode([i]))
    return "".join(parts)


def supervised(rendered):
    return show(i for i, m in zip(rendered.ids, rendered.mask, strict=True) if m)


def test_the_order_is_question_results_answer_wherever_retrieval_stands():
    system = {"role": "system", "content": "Be brief."}
    before = render({"messages": [system, retrieval(doc("a")), user(), answer(citations=[0])]}, TOKENIZER)
    after = render({"messages": [system, user(), retrieval(doc("a")), answer(citations=[0])]}, TOKENIZER)
    assert before == after
    assert show(before.ids) == (
        "<bos><system_start> Be brief.<system_end><user_start> When?<user_end>"
        "<results_start><doc_0> Torvik\n It opened in 1987.<results_end>"
        "<assistant_start> 1987<cite><doc_0><assistant_end>"
    )
    assert supervised(before) == " 1987<cite><doc_0><assistant_end>"
    assert before.documents == [doc("a")]
    assert (before.dropped, before.lost_citations) == (0, 0)


def test_several_turns_share_one_row_of_slots():
    messages = [retrieval(doc("a"), doc("b", title="")), user(), answer(citations=[1]), user("Who?")]
    messages += [answer("Ilse"), retrieval(doc("c")), user(), answer("", abstain=True)]
    rendered = render({"messages": messages, "reference": {"answers": ["never shown"]}}, TOKENIZER)
    assert show(rendered.ids) == (
        "<bos><user_start> When?<user_end><results_start><doc_0> Torvik\n It opened in 1987.<doc_1> It opened in 1987."
        "<results_end><assistant_start> 1987<cite><doc_1><assistant_end>"
        "<user_start> Who?<user_end><assistant_start> Ilse<assistant_end>"
        "<user_start> When?<user_end><results_start><doc_2> Torvik\n It opened in 1987.<results_end>"
        "<assistant_start><abstain><assistant_end>"
    )
    assert supervised(rendered) == " 1987<cite><doc_1><assistant_end> Ilse<assistant_end><abstain><assistant_end>"
    assert [document["id"] for document in rendered.documents] == ["a", "b", "c"]


def test_queries_are_supervised_except_a_first_one_that_repeats_the_question():
    def hops(*queries):
        return {
            "role": "retrieval",
            "multi_hop": True,
            "hops": [{"hop": i, "query": q, "documents": [doc(q)]} for i, q in enumerate(queries, start=1)],
        }

    repeated = render({"messages": [user(), hops("When? ", "Torvik"), answer()]}, TOKENIZER)
    assert supervised(repeated) == "<query_start> Torvik<query_end> 1987<assistant_end>"
    assert "<user_end><results_start><doc_0>" in show(repeated.ids)
    assert "<results_end><query_start> Torvik<query_end><results_start><doc_1>" in show(repeated.ids)
    own = render({"messages": [user(), hops("Torvik", "When?"), answer()]}, TOKENIZER)
    assert supervised(own) == "<query_start> Torvik<query_end><query_start> When?<query_end> 1987<assistant_end>"
    assert "<doc_0>" in show(own.ids) and "<doc_1>" in show(own.ids)


def test_for_generation_ends_after_assistant_start_with_or_without_an_answer():
    prompt = [user(), answer(), retrieval(doc("a")), user("Who?")]
    open_ended = render({"messages": prompt}, TOKENIZER, for_generation=True)
    with_answer = render({"messages": [*prompt, answer("Ilse", citations=[0])]}, TOKENIZER, for_generation=True)
    assert open_ended == with_answer
    assert show(open_ended.ids).endswith("<results_end><assistant_start>")
    assert show(render({"messages": prompt}, TOKENIZER).ids).endswith("<results_end>")
    full = render({"messages": [*prompt, answer("Ilse")]}, TOKENIZER)
    assert full.ids[: len(open_ended.ids)] == open_ended.ids


def test_a_closed_book_question_has_no_results_and_an_empty_search_has_empty_results():
    assert show(render({"messages": [user()]}, TOKENIZER, for_generation=True).ids) == (
        "<bos><user_start> When?<user_end><assistant_start>"
    )
    found_nothing = render({"messages": [retrieval(), user()]}, TOKENIZER, for_generation=True)
    assert show(found_nothing.ids).endswith("<results_start><results_end><assistant_start>")


@pytest.mark.parametrize("text", ["[DOC_1]", "<|assistant_end|>", "<|doc_0|> <|results_end|>", "<|cite|><|doc_1|>"])
def test_marks_in_text_stay_text(text):
    def say(words):
        system = {"role": "system", "content": words}
        return {"messages": [system, retrieval(doc("a", words, words)), user(words), answer(words)]}

    rendered, plain = render(say(text), TOKENIZER), render(say("x"), TOKENIZER)
    reserved = [i for i in rendered.ids if i < NUM_RESERVED]
    assert reserved == [i for i in plain.ids if i < NUM_RESERVED]
    assert TOKENIZER.decode(rendered.ids) == f" {text} {text} {text}\n {text} {text}"


def test_a_name_has_the_same_ids_everywhere():
    assert text_ids("  Torvik\n", TOKENIZER) == tuple(TOKENIZER.encode(" Torvik"))
    assert text_ids(" \n", TOKENIZER) == ()


def test_an_illegal_conversation_is_refused():
    with pytest.raises(ConversationError, match="message 1 has the role 'assistant'"):
        render({"messages": [answer()]}, TOKENIZER)


def tokens_of(document):
    return len(render({"messages": [retrieval(document), user()]}, TOKENIZER).ids) - len(
        render({"messages": [retrieval(), user()]}, TOKENIZER).ids
    )


LONG = doc("long", " ".join(WORDS))


def test_the_worst_ranked_document_is_dropped_first_and_the_last_one_kept_is_trimmed():
    documents = [dict(LONG, id=name) for name in "abc"]
    conversation = {"messages": [retrieval(*documents), user(), answer(citations=[2, 0])]}
    whole = render(conversation, TOKENIZER)
    size = tokens_of(LONG)
    assert size > MIN_TRIMMED_TOKENS + 3

    trimmed = render(conversation, TOKENIZER, max_tokens=len(whole.ids) - 2)
    assert len(trimmed.ids) == len(whole.ids) - 2
    assert [d["id"] for d in trimmed.documents] == ["a", "b", "c"]
    assert (trimmed.dropped, trimmed.lost_citations) == (1, 0)

    dropped = render(conversation, TOKENIZER, max_tokens=len(whole.ids) - size)
    assert [d["id"] for d in dropped.documents] == ["a", "b"]
    assert (dropped.dropped, dropped.lost_citations) == (1, 1)
    assert supervised(dropped) == " 1987<cite><doc_0><assistant_end>"

    crumbs = render(conversation, TOKENIZER, max_tokens=len(whole.ids) - size + MIN_TRIMMED_TOKENS)
    assert crumbs.ids == dropped.ids

    nothing = render(conversation, TOKENIZER, max_tokens=1)
    assert (nothing.documents, nothing.dropped, nothing.lost_citations) == ([], 3, 2)
    assert show(nothing.ids) == (
        "<bos><user_start> When?<user_end><results_start><results_end><assistant_start> 1987<assistant_end>"
    )


def test_at_equal_rank_the_older_group_pays_first():
    messages = [retrieval(dict(LONG, id="old"), dict(LONG, id="old2")), user(), answer()]
    messages += [retrieval(dict(LONG, id="new"), dict(LONG, id="new2")), user()]
    whole = render({"messages": messages}, TOKENIZER)
    left = []
    for num_dropped in range(1, 5):
        budget = len(whole.ids) - num_dropped * tokens_of(LONG)
        rendered = render({"messages": messages}, TOKENIZER, max_tokens=budget)
        left.append([d["id"] for d in rendered.documents])
    assert left == [["old", "new", "new2"], ["old", "new"], ["new"], []]


def test_max_doc_tokens_trims_every_long_document():
    conversation = {"messages": [retrieval(doc("a", "It."), LONG), user(), answer(citations=[1])]}
    rendered = render(conversation, TOKENIZER, max_doc_tokens=10)
    start = rendered.ids.index(TOKENIZER.doc(1))
    assert rendered.ids.index(TOKENIZER.special("results_end")) - start == 11
    assert (rendered.dropped, rendered.lost_citations) == (1, 0)


def test_more_documents_than_slots_drop_the_worst_ranked():
    documents = [doc(str(i), "It.", "") for i in range(NUM_DOC_SLOTS + 3)]
    conversation = {"messages": [retrieval(*documents), user(), answer(citations=[NUM_DOC_SLOTS, 1])]}
    rendered = render(conversation, TOKENIZER)
    assert [d["id"] for d in rendered.documents] == [str(i) for i in range(NUM_DOC_SLOTS)]
    assert (rendered.dropped, rendered.lost_citations) == (3, 1)


word = st.sampled_from([*WORDS, "<|bos|>", "[DOC_1]", "\u00e9", "\n", "\u65e5\u672c"])
text = st.lists(word, max_size=30).map(" ".join)
said = text.filter(str.strip)
found = st.lists(st.builds(doc, st.just("x"), text, text), max_size=4)


@st.composite
def conversations(draw):
    """Legal conversations of one to three turns, with an answer in every turn."""
    messages, shown = [], 0
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(text)})
    for _ in range(draw(st.integers(1, 3))):
        turn = [user(draw(said))]
        form = draw(st.sampled_from(["closed", "one", "hops"]))
        if form == "one":
            turn.insert(draw(st.integers(0, 1)), retrieval(*draw(found)))
            shown += len([m for m in turn if m["role"] == "retrieval"][0]["documents"])
        elif form == "hops":
            hops = [{"hop": i, "query": draw(said), "documents": draw(found)} for i in (1, 2)]
            turn.insert(draw(st.integers(0, 1)), {"role": "retrieval", "multi_hop": True, "hops": hops})
            shown += sum(len(hop["documents"]) for hop in hops)
        if draw(st.booleans()):
            turn.append(answer(draw(text), abstain=True))
        else:
            cited = draw(st.lists(st.integers(0, shown - 1), max_size=3)) if shown else []
            turn.append(answer(draw(said), citations=cited))
        messages += turn
    return {"messages": messages}


def answers_of(rendered):
    """The rendered answers, each from after its assistant_start to its assistant_end."""
    start, end = TOKENIZER.special("assistant_start"), TOKENIZER.special("assistant_end")
    starts = [i + 1 for i, token in enumerate(rendered.ids) if token == start]
    return [rendered.ids[i : rendered.ids.index(end, i) + 1] for i in starts]


@given(conversations(), st.integers(0, 400), st.sampled_from([None, 5, 20]))
@settings(deadline=None, max_examples=200)
def test_documents_pay_for_the_budget_and_nothing_else_does(conversation, max_tokens, max_doc_tokens):
    whole = render(conversation, TOKENIZER)
    bare = render(conversation, TOKENIZER, max_tokens=0)
    assert bare.documents == [] and bare.dropped == len(whole.documents)
    rendered = render(conversation, TOKENIZER, max_tokens=max_tokens, max_doc_tokens=max_doc_tokens)
    num_citations = show(whole.ids).count("<cite>")
    fixed = len(bare.ids) + 2 * num_citations
    if fixed <= max_tokens:
        assert len(rendered.ids) <= max_tokens
    else:
        assert rendered.documents == []
    # without its documents and citations the row is the same, so questions and answers are whole
    assert len(rendered.ids) == len(rendered.mask)
    kept_citations = show(rendered.ids).count("<cite>")
    assert kept_citations + rendered.lost_citations == num_citations
    assert sum(rendered.mask) == sum(bare.mask) + 2 * kept_citations
    assert [parse_answer(ids, TOKENIZER, []).text for ids in answers_of(rendered)] == [
        parse_answer(ids, TOKENIZER, []).text for ids in answers_of(bare)
    ]
    # every document is shown whole, or counted
    num_shown_whole = len(whole.documents) - rendered.dropped
    assert 0 <= num_shown_whole <= len(rendered.documents) <= len(whole.documents)
    if max_tokens >= len(whole.ids) and max_doc_tokens is None:
        assert rendered == whole


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
        assert all(slot < len(rendered.documents) for slot in parsed.citations)


@given(st.lists(st.integers(0, TOKENIZER.vocab_size + 5), max_size=40), st.integers(0, 4))
@settings(deadline=None, max_examples=200)
def test_parse_answer_takes_any_ids(ids, num_documents):
    parsed = parse_answer(ids, TOKENIZER, [doc("x")] * num_documents)
    assert all(0 <= slot < num_documents for slot in parsed.citations)
    assert parsed.is_finished == (TOKENIZER.special("assistant_end") in ids)


def test_parse_answer_leaves_out_invalid_and_repeated_citations():
    cite, end = TOKENIZER.special("cite"), TOKENIZER.special("assistant_end")
    ids = [*TOKENIZER.encode(" Ilse"), cite, TOKENIZER.doc(1), cite, TOKENIZER.doc(7), cite, TOKENIZER.doc(1), cite]
    parsed = parse_answer([*ids, end, cite, TOKENIZER.doc(0)], TOKENIZER, [doc("a"), doc("b")])
    assert (parsed.text, parsed.citations, parsed.abstained, parsed.is_finished) == ("Ilse", [1], False, True)
    assert not parse_answer(ids, TOKENIZER, []).is_finished


def test_rendering_the_main_training_form_takes_less_than_a_millisecond():
    generator = random.Random(0)

    def words(count):
        return " ".join(generator.choices(WORDS, k=count))

    messages = [retrieval(*(doc(str(i), words(60), words(2)) for i in range(3)))]
    for _ in range(8):
        messages += [user(words(8)), answer(words(2), citations=[0])]
    durations = []
    for _ in range(20):
        start = time.perf_counter()
        render({"messages": messages}, TOKENIZER, max_tokens=1000)
        durations.append(time.perf_counter() - start)
    # the best of twenty: a busy machine must not fail this
    assert min(durations) < 1e-3, f"{min(durations) * 1e6:.0f} us"
