"""What a question may be about: a thing or a name, never words that only point or compare: "the only"."""

import pytest

from nanochat.rag.layout import Page
from nanochat.rag.rules import RULES, drafts_of
from nanochat.rag.spans import Vocabulary, names_nothing

POINTING = ["The only", "the first", "The last", "The following", "The other", "The same", "the most", "The best", "",
            "The three oldest ones", "A second one", "The behind", "these", "The Only", "Some of the others",
            "the next two", "Others"]
NAMING = ["The only bridge", "The first president of Ralgard", "the US", "IT", "The Best Western", "Last Supper",
          "The engine", "Other costs", "Torvik", "A kettle", "The 300", "the oldest mill in Ralgard", "\u7b54\u6848"]


@pytest.mark.parametrize("phrase", [*POINTING, *NAMING])
def test_a_phrase_without_a_noun_or_a_name_names_nothing(phrase):
    assert names_nothing(phrase) == (phrase in POINTING)


def asked(content, title="", kinds=tuple(RULES)):
    """The questions that the rules make of a document."""
    document = {"id": "x", "title": title, "content": f"{content} This is what they have in the town and it is so."}
    vocabulary = Vocabulary([content, "the first second third of a town"])
    return [draft.question for draft in drafts_of(Page(document), vocabulary, kinds)]


@pytest.mark.parametrize(("content", "title"), [
    ("The only is a bridge that spans the river of Torvik.", "The only"),
    ("The first is a tower with nine floors in Torvik.", "The First"),
    ("The Following is a list with the names of all mills.", "The Following"),
    ("The other means a tower with nine floors.", "The other"),
    ("The Last was built by Odessa Crane in 1843.", ""),
    ("The Only was founded in March 1843.", ""),
    ("The Best is located in Ralgard.", ""),
    ("The Same has 140 employees.", ""),
    ("Most Others opened in March 1843.", ""),
    ("In 1843, the Best was sold to the Cranes.", ""),
    ("The best in Ralgard is Brinmoor.", ""), ("The oldest of Ralgard was Brinmoor.", ""),
    ("The next two in Ralgard were 12,400.", ""),
    ("# The only\n\n## Return policy\n\nThe return policy gives thirty days.", "The only"),
    ("## The following\n\nPower: 3000 W\nColour: black\n\n", ""),
])  # fmt: skip
def test_no_rule_asks_about_words_that_only_point(content, title):
    assert asked(content, title) == []


@pytest.mark.parametrize(("content", "title", "question"), [
    ("The only bridge of Ralgard was built in 1843.", "", "When was the only bridge of Ralgard built?"),
    ("The last of the Torvik mills was sold in 1843.", "", "When was the last of the Torvik mills sold?"),
    ("The oldest mill in Ralgard is Brinmoor.", "", "What is the oldest mill in Ralgard?"),
    ("The Torvik is a kettle with a steel body.", "The Torvik", "What is the Torvik?"),
    ("# The engine\n\n## Return policy\n\nThe return policy gives thirty days.", "The engine",
     "What does The engine say about return policy?"),
    ("## The only kettle\n\nPower: 3000 W\nColour: black\n\n", "", "What is the power of The only kettle?"),
])  # fmt: skip
def test_what_has_a_noun_or_a_name_is_asked_about(content, title, question):
    assert question in asked(content, title)
