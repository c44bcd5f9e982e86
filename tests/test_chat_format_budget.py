"""The chat format's budget: documents pay for it, worst rank first, and nothing else does."""

import random
import time

from chat_stubs import LONG, TOKENIZER, WORDS, answer, answers_of, conversations, doc, retrieval, show, supervised, user
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.chat_format import MIN_TRIMMED_TOKENS, parse_answer, render, text_ids
from nanochat.tokenizer import NUM_DOC_SLOTS


def tokens_of(document):
    return len(render({"messages": [retrieval(document), user()]}, TOKENIZER).ids) - len(
        render({"messages": [retrieval(), user()]}, TOKENIZER).ids
    )


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
    assert supervised(dropped) == "<cite><doc_0> 1987<assistant_end>"
    assert (whole.trimmed, trimmed.trimmed, dropped.trimmed) == ((), (2,), ())

    crumbs = render(conversation, TOKENIZER, max_tokens=len(whole.ids) - size + MIN_TRIMMED_TOKENS)
    assert crumbs.ids == dropped.ids

    nothing = render(conversation, TOKENIZER, max_tokens=1)
    assert (nothing.documents, nothing.dropped, nothing.lost_citations) == ([], 3, 2)
    assert show(nothing.ids) == (
        "<bos><results_start><results_end><user_start> When?<user_end><assistant_start> 1987<assistant_end>"
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
    assert (rendered.dropped, rendered.lost_citations, rendered.trimmed) == (1, 0, (1,))


def test_a_trimmed_document_keeps_its_mark_where_it_was_or_loses_it_with_its_tail():
    document = doc("a", "opened in 1987", "the Torvik bridge")
    conversation = {"messages": [retrieval(document), user(), answer(citations=[0])]}
    whole = ["<doc_0>", " the", " Torvik", " bridge", "<doc_0>", " opened", " in", " ", "1", "9", "8", "7"]
    for length in range(1, len(whole)):
        rendered = render(conversation, TOKENIZER, max_doc_tokens=length)
        assert f"<results_start>{''.join(whole[: length + 1])}<results_end>" in show(rendered.ids)
        is_trimmed = length + 1 < len(whole)
        assert (rendered.dropped, rendered.trimmed) == (int(is_trimmed), (0,) if is_trimmed else ()), length


def test_more_documents_than_slots_drop_the_worst_ranked():
    documents = [doc(str(i), "It.", "") for i in range(NUM_DOC_SLOTS + 3)]
    conversation = {"messages": [retrieval(*documents), user(), answer(citations=[NUM_DOC_SLOTS, 1])]}
    rendered = render(conversation, TOKENIZER)
    assert [d["id"] for d in rendered.documents] == [str(i) for i in range(NUM_DOC_SLOTS)]
    assert (rendered.dropped, rendered.lost_citations) == (3, 1)


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


def documents_of(rendered):
    """The ids of each shown document, from its first mark on."""
    end, pieces = TOKENIZER.special("results_end"), []
    for slot in range(len(rendered.documents)):
        start = rendered.ids.index(TOKENIZER.doc(slot))
        ends = {end} if slot + 1 == len(rendered.documents) else {end, TOKENIZER.doc(slot + 1)}
        length = next(place for place, token in enumerate(rendered.ids[start:]) if token in ends)
        pieces.append(rendered.ids[start : start + length])
    return pieces


@given(conversations(), st.integers(0, 400), st.sampled_from([None, 1, 5, 20]))
@settings(deadline=None, max_examples=200)
def test_a_document_is_mark_title_mark_content_up_to_where_it_is_trimmed(conversation, max_tokens, max_doc_tokens):
    rendered = render(conversation, TOKENIZER, max_tokens=max_tokens, max_doc_tokens=max_doc_tokens)
    for slot, (document, ids) in enumerate(zip(rendered.documents, documents_of(rendered), strict=True)):
        title, content = (text_ids(document[part], TOKENIZER) for part in ("title", "content"))
        mark = TOKENIZER.doc(slot)
        whole = [mark, *title, mark, *content] if title else [mark, *content]
        assert ids == whole[: len(ids)]
        assert (len(ids) < len(whole)) == (slot in rendered.trimmed)
        assert len(ids) <= 1 + (max_doc_tokens or len(whole))


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
