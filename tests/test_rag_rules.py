"""Questions by rule: what is asked, that the answer stands where the draft says, and what is better left alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthesis_stubs import COMPANY, FAQ, FIELDS, HELP, RECORD, SITE

from nanochat.rag.layout import Page
from nanochat.rag.rules import RULES, drafts_of
from nanochat.rag.spans import Vocabulary
from nanochat.rag.verbs import base_form

VOCABULARY = Vocabulary([f"{document['title']}\n{document['content']}" for document in SITE])


def asked(document, kind, vocabulary=VOCABULARY):
    """question -> answer of one rule."""
    return {draft.question: " ".join(document["content"][draft.start : draft.end].split())
            for draft in drafts_of(Page(document), vocabulary, [kind])}


def page_of(content, title="", **metadata):
    return {"id": "x", "title": title, "content": content, "metadata": metadata}


def facts(sentence, kind="fact", more=""):
    document = page_of(f"{sentence} {more or 'This is what they have in the town and it is so.'}")
    return asked(document, kind, Vocabulary([document["content"], "the first second third of a town"]))


def test_the_documents_own_questions():
    assert asked(FAQ, "faq") == {
        "Can I change my order?": "Yes, until the parcel has left the warehouse.",
        "Which cards do you take?": "We take Visa and Maestro."}
    assert asked(HELP, "faq") == {
        "How long does delivery take?": "Standard delivery takes three to five working days."}
    assert asked(RECORD, "faq") == {"What are the treatments for Gout?": RECORD["content"]}
    stated = page_of("Rest helps. Tea does not.", question="What helps?", answer="Tea does not.")
    assert asked(stated, "faq")["What helps?"] == "Tea does not."


@pytest.mark.parametrize(("content", "question", "answer"), [
    ("# Wie lange dauert der Versand?\n\nDrei Tage.", "Wie lange dauert der Versand?", "Drei Tage."),
    ("\u95ee\uff1a\u53ef\u4ee5\u6362\u8d27\u5417\uff1f\n\u7b54\uff1a\u53ef\u4ee5\u3002",
     "\u53ef\u4ee5\u6362\u8d27\u5417\uff1f", "\u53ef\u4ee5\u3002"),
    ("## \u0643\u0645 \u064a\u0648\u0645\u061f\n\n\u062b\u0644\u0627\u062b\u0629.",
     "\u0643\u0645 \u064a\u0648\u0645\u061f", "\u062b\u0644\u0627\u062b\u0629."),
    ("**Q1:** May I pay later?\n**A1:** Yes.", "May I pay later?", "Yes."),
])  # fmt: skip
def test_questions_of_other_languages_and_marks(content, question, answer):
    assert asked(page_of(content), "faq") == {question: answer}


@pytest.mark.parametrize("content", [
    '"Who are you?"\n\nThe old man said nothing to the boy that day.',
    "- Why do cells divide?\n\nThe next part is about something else.",
    "## Why?\n\n- one\n- two",
    "What did he see? He saw a cat. Was it so?",
    "## What is new?\n\nSee the table below for all of it.",
])  # fmt: skip
def test_what_is_no_question_and_answer(content):
    assert asked(page_of(content), "faq") == {}


def test_tables_and_fields():
    assert asked(HELP, "table") == {
        "In Kettle help, what is the price of Torvik 200?": "49 EUR",
        "In Kettle help, what is the warranty of Torvik 200?": "2 years",
        "In Kettle help, what is the price of Velda Mini?": "25 EUR",
        "In Kettle help, what is the warranty of Velda Mini?": "1 year"}
    assert asked(FIELDS, "field") == {
        "What is the power of Torvik 300?": "3000 W", "What is the colour of Torvik 300?": "black",
        "What is the capacity of Torvik 300?": "1.8 litres"}
    odd = page_of("| City | 2019 (EUR) |\n|---|---|\n| Torvik | 12 |\n| Total | 40 |\n| Velda | - |")
    assert asked(odd, "table") == {'What stands under "2019 (EUR)" for Torvik?': "12"}
    marked = page_of("| Sign | Method |\n|---|---|\n| **Larger** | `__gt__` |\n| Smaller | __lt__ |")
    assert set(asked(marked, "table").values()) == {"__gt__", "__lt__"}
    twice = page_of("| City | Size |\n|---|---|\n| Torvik | 12 |\n| Torvik | 40 |")
    assert asked(twice, "table") == {}
    glossary = page_of("## Key terms\nphon: unit of loudness\nsone: unit of perceived loudness\n", "Sound")
    assert asked(glossary, "field") == {'What is meant by "phon"?': "unit of loudness",
                                        'What is meant by "sone"?': "unit of perceived loudness"}


def test_headings():
    assert asked(HELP, "heading") == {
        "What does Kettle help say about return policy?":
            "Customers can return kettles under the return policy within 30 days."}
    page = page_of("## How to reset a router\n\nTo reset a router, hold the button.\n\n## Resetting the clock\n\nThe "
                   "clock is reset at noon.\n\n## Summary\n\nThe summary is short.\n", "Router")
    assert asked(page, "heading") == {"How do you reset a router?": "To reset a router, hold the button.",
                                      "What should you know about resetting the clock?": "The clock is reset at noon."}


def test_facts_of_one_page():
    assert asked(COMPANY, "fact") == {
        "When was Kettle & Crown founded?": "1987",
        "When did Odessa Crane open the second factory in Brinmoor?": "March 2004",
        "Where is Torvik Works located?": "Ralgard", "How many employees does the Torvik Works have?": "140"}
    assert asked(COMPANY, "definition") == {"What is the Torvik 200?": "an electric kettle with a steel body"}
    assert asked(COMPANY, "abbreviation") == {"What does RCD stand for?": "residual current device"}


@pytest.mark.parametrize(("sentence", "question", "answer"), [
    ("The Velda Bridge was first opened by Odessa Crane in 1843.",
     "When was the Velda Bridge first opened by Odessa Crane?", "1843"),
    ("Tales of Brin was written by Odessa Crane.", "Who was Tales of Brin written by?", "Odessa Crane"),
    ("On 3 May 1911, the Velda Mill was sold.", "When was the Velda Mill sold?", "3 May 1911"),
    ("Velda Marsik died in 1911.", "When did Velda Marsik die?", "1911"),
    ("Velda Marsik discovered the Torvik Comet.", "Who discovered the Torvik Comet?", "Velda Marsik"),
    ("The capital of Ralgard is Brinmoor.", "What is the capital of Ralgard?", "Brinmoor"),
    ("The population of Ralgard was 12,400.", "What was the population of Ralgard?", "12,400"),
    ("There are four bridges in Ralgard.", "How many bridges are there in Ralgard?", "four"),
])  # fmt: skip
def test_sentences_that_can_be_turned_around(sentence, question, answer):
    assert facts(sentence) == {question: answer}


@pytest.mark.parametrize("sentence", [
    "It was founded in 1843.", "In 1843 it was sold.", "The mill was sold in 1843.", "He wrote the Velda Songs.",
    "Velda was ruled by Torvik, Brinmoor and Ralgard.", "The capitals of Velda are Torvik and Brinmoor.",
    "Velda Marsik declared in 1843.", "The average size in Ralgard was 2.37 and grew.",
    "In 1843 Velda Marsik, who sold it, left.",
    "Velda University discovered the Torvik Comet.",
])  # fmt: skip
def test_sentences_that_are_left_alone(sentence):
    assert facts(sentence) == {}


@pytest.mark.parametrize(("sentence", "wanted"), [
    ("Velda Marsik was a German physicist.", {"Who was Velda Marsik?": "a German physicist"}),
    ("A velocimeter is a device that measures speed.", {"What is a velocimeter?": "a device that measures speed"}),
    ("Velda is a town, which lies in Ralgard.", {}), ("This is a town of the north.", {}),
    ("Velda was the site of a battle.", {}), ("Velda is a popular town of the north.", {}),
    ("Velda Mill is a Major League Soccer (MLS) team in town.", {}),
    ("Velda is an old town, a harbour and a market.", {}),
])  # fmt: skip
def test_definitions(sentence, wanted):
    found = facts(sentence, "definition")
    assert found == wanted or (not wanted and set(found.values()) <= {"a town"})


@pytest.mark.parametrize(("past", "known", "base"), [
    ("moved", {"move"}, "move"), ("opened", {"open"}, "open"), ("planned", {"plan"}, "plan"),
    ("carried", set(), "carry"),
    ("became", set(), "become"), ("stated", {"stat", "state"}, "state"), ("zorbed", set(), ""), ("united", set(), ""),
])  # fmt: skip
def test_base_forms_come_from_the_documents_words(past, known, base):
    assert base_form(past, known) == base


@pytest.mark.parametrize("kind", RULES)  # a new rule is tested by adding it to the table
def test_every_rule_has_a_document_that_it_asks_about(kind):
    pages = [*SITE]
    assert any(asked(document, kind) for document in pages), f"no document of the stubs has a {kind} question"


NASTY = ["| a | b |", "|---|---|", "# ", "## What?", "Q:", "A:", "is a", "Velda", "was founded in", "1843", "(", ")",
         "|", "\n", "\n\n", "- ", ": ", "In 1843,", "(VM)", "\x00",
          "\u0130", "\ud83d", "\u4f60\u3002", "?", "**", "```"]


@pytest.mark.parametrize("kind", RULES)
@settings(max_examples=60, deadline=None)
@given(st.text(max_size=10), st.one_of(st.text(max_size=80),
                                       st.lists(st.sampled_from(NASTY), max_size=40).map(" ".join),
                                       st.lists(st.sampled_from(NASTY), max_size=40).map("".join)),
       st.lists(st.one_of(st.integers(), st.text(max_size=3), st.lists(st.one_of(st.integers(), st.text(max_size=3)),
                                                                       max_size=3)), max_size=3))
def test_nasty_text_never_crashes_and_answers_stand_in_it(kind, title, content, headings):
    document = page_of(content, title, headings=headings, heading="a > b", question="?")
    for draft in drafts_of(Page(document), Vocabulary([content]), [kind]):
        assert 0 <= draft.start < draft.end <= len(content) and content[draft.start : draft.end].strip()


def test_long_texts_take_linear_time():
    import gc
    import time

    base = "Velda Marsik was seen in the town of Ralgard and it is so with the mill in all of it. " * 50

    def seconds(size: int) -> float:
        document = page_of(base * size + "a " * 3000 + "|" * 2000 + "(A" * 500)
        vocabulary = Vocabulary([document["content"]])
        start = time.process_time()
        list(drafts_of(Page(document), vocabulary, RULES))
        return time.process_time() - start

    gc.disable()  # a collection of everything a long test run holds takes longer than these texts
    try:
        short, long = (min(seconds(size) for _ in range(3)) for size in (2, 8))
    finally:
        gc.enable()
    assert long < 12 * short + 0.5, f"{short:.2f} s and {long:.2f} s for four times the text"
