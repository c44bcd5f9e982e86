"""The chat format: order of tokens, where marks stand, and what is supervised."""

import pytest
from chat_stubs import TOKENIZER, answer, doc, retrieval, show, supervised, user

from nanochat.chat_format import render, text_ids
from nanochat.errors import ConversationError
from nanochat.tokenizer import NUM_RESERVED


def test_the_order_is_results_question_answer_wherever_retrieval_stands():
    system = {"role": "system", "content": "Be brief."}
    before = render({"messages": [system, retrieval(doc("a")), user(), answer(citations=[0])]}, TOKENIZER)
    after = render({"messages": [system, user(), retrieval(doc("a")), answer(citations=[0])]}, TOKENIZER)
    assert before == after
    assert show(before.ids) == (
        "<bos><system_start> Be brief.<system_end>"
        "<results_start><doc_0> Torvik<doc_0> It opened in 1987.<results_end>"
        "<user_start> When?<user_end><assistant_start><cite><doc_0> 1987<assistant_end>"
    )
    assert supervised(before) == "<cite><doc_0> 1987<assistant_end>"
    assert before.documents == [doc("a")]
    assert (before.dropped, before.lost_citations) == (0, 0)


def test_several_turns_share_one_row_of_slots():
    messages = [retrieval(doc("a"), doc("b", title="")), user(), answer(citations=[1]), user("Who?")]
    messages += [answer("Ilse"), retrieval(doc("c")), user(), answer("", abstain=True)]
    rendered = render({"messages": messages, "reference": {"answers": ["never shown"]}}, TOKENIZER)
    assert show(rendered.ids) == (
        "<bos><results_start><doc_0> Torvik<doc_0> It opened in 1987.<doc_1> It opened in 1987.<results_end>"
        "<user_start> When?<user_end><assistant_start><cite><doc_1> 1987<assistant_end>"
        "<user_start> Who?<user_end><assistant_start> Ilse<assistant_end>"
        "<results_start><doc_2> Torvik<doc_2> It opened in 1987.<results_end>"
        "<user_start> When?<user_end><assistant_start><abstain><assistant_end>"
    )
    assert supervised(rendered) == "<cite><doc_1> 1987<assistant_end> Ilse<assistant_end><abstain><assistant_end>"
    assert [document["id"] for document in rendered.documents] == ["a", "b", "c"]


def test_every_citation_stands_before_the_text_in_the_order_given():
    messages = [retrieval(*(doc(name, title="") for name in "abc")), user(), answer(citations=[2, 0, 2])]
    assert supervised(render({"messages": messages}, TOKENIZER)) == "<cite><doc_2><cite><doc_0> 1987<assistant_end>"


@pytest.mark.parametrize(
    ("title", "content", "expected"),
    [
        ("Torvik", "It opened.", "<doc_0> Torvik<doc_0> It opened."),
        (" Torvik\n", "\tIt opened. ", "<doc_0> Torvik<doc_0> It opened."),
        ("", "It opened.", "<doc_0> It opened."),
        (" \n ", "It opened.", "<doc_0> It opened."),
        ("Torvik", "", "<doc_0> Torvik<doc_0>"),
        ("", "", "<doc_0>"),
    ],
)
def test_the_mark_stands_before_a_document_and_again_between_title_and_content(title, content, expected):
    rendered = render({"messages": [retrieval(doc("a", content, title)), user()]}, TOKENIZER)
    assert show(rendered.ids) == f"<bos><results_start>{expected}<results_end><user_start> When?<user_end>"
    assert not any(rendered.mask) and (rendered.dropped, rendered.trimmed) == (0, ())


def test_for_generation_ends_after_assistant_start_with_or_without_an_answer():
    prompt = [user(), answer(), retrieval(doc("a")), user("Who?")]
    open_ended = render({"messages": prompt}, TOKENIZER, for_generation=True)
    with_answer = render({"messages": [*prompt, answer("Ilse", citations=[0])]}, TOKENIZER, for_generation=True)
    assert open_ended == with_answer
    assert show(open_ended.ids).endswith("<results_end><user_start> Who?<user_end><assistant_start>")
    assert show(render({"messages": prompt}, TOKENIZER).ids).endswith("<user_start> Who?<user_end>")
    full = render({"messages": [*prompt, answer("Ilse")]}, TOKENIZER)
    assert full.ids[: len(open_ended.ids)] == open_ended.ids


def test_a_closed_book_question_has_no_results_and_an_empty_search_has_empty_results():
    assert show(render({"messages": [user()]}, TOKENIZER, for_generation=True).ids) == (
        "<bos><user_start> When?<user_end><assistant_start>"
    )
    found_nothing = render({"messages": [retrieval(), user()]}, TOKENIZER, for_generation=True)
    assert show(found_nothing.ids) == (
        "<bos><results_start><results_end><user_start> When?<user_end><assistant_start>"
    )


@pytest.mark.parametrize("text", ["[DOC_1]", "<|assistant_end|>", "<|doc_0|> <|results_end|>", "<|cite|><|doc_1|>"])
def test_marks_in_text_stay_text(text):
    def say(words):
        system = {"role": "system", "content": words}
        return {"messages": [system, retrieval(doc("a", words, words)), user(words), answer(words)]}

    rendered, plain = render(say(text), TOKENIZER), render(say("x"), TOKENIZER)
    reserved = [i for i in rendered.ids if i < NUM_RESERVED]
    assert reserved == [i for i in plain.ids if i < NUM_RESERVED]
    assert TOKENIZER.decode(rendered.ids) == f" {text}" * 5


def test_a_name_has_the_same_ids_everywhere():
    assert text_ids("  Torvik\n", TOKENIZER) == tuple(TOKENIZER.encode(" Torvik"))
    assert text_ids(" \n", TOKENIZER) == ()


def test_an_illegal_conversation_is_refused():
    with pytest.raises(ConversationError, match="message 1 has the role 'assistant'"):
        render({"messages": [answer()]}, TOKENIZER)
