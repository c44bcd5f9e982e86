"""Where a question's answer stands, as whole words and numbers; and that what is absent is still a thing."""

import pytest
from synthesis_stubs import make_library

from nanochat.rag.library import normal
from nanochat.rag.spans import names_nothing
from nanochat.rag.training_data import DataConfig, make_training_data, place_of, rule_questions

FILLER = "It lies by the old river in the north."


@pytest.mark.parametrize(("content", "answer"), [
    (f"The mill of Torvik ground 300 sacks of rye. The firm employed 30 men of Velda then. {FILLER}", "30"),
    (f"The Velda-side mill stood in Torvikstad. The men of Brinmoor sold the mill to Torvik in spring. {FILLER}",
     "Torvik"),
    (f"The mill had Kiln99 beside it. The firm employed 99 men of Velda then. {FILLER}", "99"),
])  # fmt: skip
def test_the_place_of_an_answer_is_that_of_whole_words(content, answer):
    library = make_library([{"id": "a", "title": "", "content": content},
                            *({"id": str(n), "title": "", "content": f"the {n} of it. {FILLER}"} for n in range(3))])
    found = [question for question in rule_questions(library, DataConfig(kinds=("cloze",), per_document=9))
             if question["answers"] == [answer]]
    assert found, "the example asks for the answer"
    for question in found:
        start, end = question["answer_start"], question["answer_end"]
        assert normal(content[start:end]) == answer
        assert not (content[start - 1] + content[end]).strip(" .,"), content[start - 5 : end + 5]


@pytest.mark.parametrize(("answer", "content", "start"), [
    ("30", "300 and 30.", 8), ("5", "3.5 of 5.2, then 5, too", 17), ("500", "12,500; 500", 8), ("1843", "in 1843.", 3),
    ("May 5", "May 55, May 5", 8), ("$30", "US$300 or $30", 10), ("Velda", "Velda's", 0), ("30", "300", -1),
    ("5%", "15% 5%", 4), ("a.b", "axb a.b", 4), ("12:30", "9:12:30, 12:30", 9),
])  # fmt: skip
def test_no_answer_stands_inside_a_longer_word_or_number(answer, content, start):
    assert place_of(answer, content) == ((start, start + len(answer)) if start >= 0 else (0, 0))


def test_what_is_absent_is_a_thing():
    # "only" and "last" stand in names of rows, and might take the place of "engine" in "The engine"
    topics = "choosing loading saving asking greasing".split()
    pages = [{"id": name, "title": f"The {name}", "content": "\n\n".join(
        f"## Rules of {topic} by {tool}\n\nThe rules of {topic} by {tool} stand in a book." for topic in topics)}
        for name, tool in [("engine", "belts"), ("kettle", "spoons"), ("lamp", "wicks"), ("loom", "threads"),
                           ("Velda mill", "sails"), ("Torvik oven", "bricks")]]
    rows = "\n".join(f"| {word} kiln{n} | {n + 40} |" for n, word in enumerate(
        ["only", "last", "other", "same", "most", "first", "second", "third", "only", "last", "other"]))
    table = {"id": "table", "title": "Sizes", "content": f"| Name | Size |\n|---|---|\n{rows}"}
    config = {"kinds": ("heading", "table"), "validation_share": 0.0, "test_share": 0.0}
    subjects = [question["subject"] for seed in range(12) for question in make_training_data(
        make_library([*pages, table]), DataConfig(seed=seed, **config)).questions["train"]
        if question["kind"] == "entity_absent"]
    named = [words.split() for words in subjects if words.startswith("The ")]
    assert len(named) >= 10, subjects
    assert all(words[1][0].isupper() and words[2] in ("mill", "oven") for words in named), "The engine is no name"
    assert not [words for words in subjects if names_nothing(words)]
