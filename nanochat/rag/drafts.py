"""Drafts of questions, and what the rules that make them share."""

import re
from dataclasses import dataclass

from nanochat.rag.layout import Page, Place
from nanochat.rag.spans import Vocabulary
from nanochat.retrieval.chunking import sentence_spans
from nanochat.retrieval.words.analysis import analyze

MAX_SENTENCE_WORDS = 40  # of an answer that is a sentence
MAX_SENTENCES = 3  # of a long paragraph that are looked at

# answers that point elsewhere say nothing by themselves
_POINTING = re.compile(
    r"\b(?:the following|as follows|(?:see|listed|shown|described|discussed|given|found|mentioned) (?:above|below|here)"
    r"|(?:see|listed|shown|described|discussed|given|found|mentioned) in"
    r"|(?:this|the next|the previous|the last) (?:page|section|chapter|article|table|figure|guide|document|module)"
    r"|click|table \d|figure \d|(?:the )?(?:table|list|figure|links?) (?:above|below)|learning objectives)\b", re.I,
)
_LISTS = re.compile(r"\A\s*[-*\u2022]| - |https?://|\.\.\.$")
_STAYS = re.compile(r"[A-Z][a-z-]*[A-Z\d]|[A-Z]+\b(?!')|I\b")
_ARTICLES = ("The", "A", "An")


@dataclass(frozen=True)
class Draft:
    """A question about one document before any filter has seen it."""

    kind: str
    question: str
    start: int  # the answer is content[start:end], white space folded
    end: int
    subject: str = ""  # the words of the question that name what it is about; "" where no words do


def short_answer(page: Page, place: Place, question: str) -> Place | None:
    """A paragraph that answers if it is short, else the first of its sentences that says something about what is asked.

    The question itself, where the paragraph repeats it, is passed over.
    """
    paragraph = page.paragraph(*place)
    if paragraph is None:
        return None
    start, end = paragraph
    text = page.content[start:end]
    if " ".join(text.split()).startswith(question):
        start = page.content.find(question.split()[-1], start) + len(question.split()[-1])
        text = page.content[start:end]
        start += len(text) - len(text.lstrip())
        text = text.strip()
    if says_something(text):
        return start, end
    for first, last in sentence_spans(text)[:MAX_SENTENCES]:
        sentence = text[first:last]
        is_whole = sentence.rstrip("\"')\u201d")[-1:] in (".", "!", "\u3002", "\uff01")
        if is_whole and says_something(sentence) and (not page.is_english or shares_term(question, sentence)):
            return start + first, start + last
    return None


def says_something(text: str) -> bool:
    """Whether a text is short enough for an answer, is no list, and does not point elsewhere."""
    num_words = max(len(text.split()), len(text) // 12)
    if not 0 < num_words <= MAX_SENTENCE_WORDS or _POINTING.search(text) or _LISTS.search(text):
        return False
    return text.strip()[-1:] not in ":?" and text.count("(") == text.count(")")


def subject_in(question: str, title: str) -> str:
    """The title, where the question names it word for word."""
    found = re.search(rf"(?<!\w){re.escape(title)}(?!\w)", question, re.I) if title else None
    return found[0] if found else ""


def lowered(phrase: str, vocabulary: Vocabulary) -> str:
    """A phrase as it stands within a sentence: a first word that is no name begins in lower case."""
    words = phrase.split()
    first = words[0].split("-")[0] if words else ""
    if not first or first not in _ARTICLES and (_STAYS.match(words[0]) or vocabulary.is_name(first.strip("'\","))):
        return phrase
    following = next((word for word in words[1:] if word != "&"), "")
    if first not in _ARTICLES and following[:1].isupper() and vocabulary.is_name(following):
        # "Saint Helena" is one name, though "saint" is a word
        return phrase
    return phrase[0].lower() + phrase[1:]


def lowered_heading(heading: str, page: Page, vocabulary: Vocabulary) -> str:
    """A heading within a sentence: "Return Policy" as "return policy"; names of the text keep their capitals.

    A word is a name if it is one in all documents, and if the text writes it with a capital after other words.
    """
    def inside(word: str) -> str:
        is_name = _STAYS.match(word) or vocabulary.is_name(word.strip("'\",")) and re.search(
            rf"[a-z0-9,] {re.escape(word)}(?!\w)", page.content)
        return word if is_name else word[:1].lower() + word[1:]

    return " ".join(map(inside, heading.split()))


def shares_term(question: str, text: str) -> bool:
    """Whether a content word of the question, or a relative of it, stands in the text."""
    return not set(analyze(question)).isdisjoint(analyze(text))
