"""The table of rules that make questions from a document.

A rule sees one document and gives drafts: a question, and the place where its answer stands. Which drafts become
questions is decided by nanochat.rag.filters. Rules prefer silence: a wrong question teaches a wrong habit.
"""

from collections.abc import Callable, Iterable, Iterator

from nanochat.rag.drafts import Draft
from nanochat.rag.layout import Page
from nanochat.rag.rules_facts import fact
from nanochat.rag.rules_names import abbreviation, definition
from nanochat.rag.rules_sections import faq, field, heading, table
from nanochat.rag.spans import Vocabulary

Rule = Callable[[Page, Vocabulary], Iterable[Draft]]

# kind -> rule, the most telling first: of two questions that are alike the first is kept
RULES: dict[str, Rule] = {
    "faq": faq,  # the document asks and answers, or its record has a field "question"
    "definition": definition,  # "X is a ..."
    "abbreviation": abbreviation,  # "Long Name (LN)"
    "table": table,  # a cell, by the names of its row and column
    "field": field,  # "name: value" below a title or heading
    "fact": fact,  # when, where, who and how many, where the grammar of the sentence is plain
    "heading": heading,  # the first sentence below a heading
}


def drafts_of(page: Page, vocabulary: Vocabulary, kinds: Iterable[str]) -> Iterator[Draft]:
    """What the rules of these kinds find in a document, in the order of the kinds."""
    for kind in kinds:
        yield from RULES[kind](page, vocabulary)
