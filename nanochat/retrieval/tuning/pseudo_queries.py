"""Queries that nobody asked, made from the documents themselves: titles, sentences, and their rarer words.

The passage stays as it is, with the words that became the query. Taking them out, as in the inverse cloze task (Lee,
Chang and Toutanova 2019, arXiv:1906.00300), teaches that an answer shares no words with its question: held-out
pseudo-queries were then found better, and the questions of people worse.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nanochat.retrieval.document import Document
from nanochat.retrieval.words.analysis import analyze
from nanochat.text import sentence_spans

SPLITS = {"train": 0.65, "dev": 0.1, "held-out": 0.25}  # shares of the documents
_SENTENCE_TERMS = range(4, 41)   # search terms of a sentence that can be a query
_KEYWORDS = range(3, 9)          # words of a query of rarer words
_DROPPED = 0.4                   # share of its words that a sentence loses
_PUNCTUATION = ".,;:!?\"'()[]"
_ROUNDS = 4                      # queries of one passage, at most
_TRIES = 4                       # sentences of a passage that are looked at
_TITLE_USES = 3                  # a title of more passages does not say which is meant


@dataclass(frozen=True)
class PseudoQuery:
    """A query, and the passage that it was made from."""

    text: str
    kind: str        # an entry of KINDS
    place: int       # of the passage, among the documents that were given
    split: str       # an entry of SPLITS


def name_of(document: Document) -> str:
    """The id of the whole document that a passage belongs to."""
    parent = document.metadata.get("parent")
    return parent if isinstance(parent, str) and document.id.startswith(f"{parent}#") else document.id


def split_of(name: str, seed: int = 0) -> str:
    """The split of a document: by its id alone, so that more documents do not move it, nor its passages apart."""
    place = int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode("utf-8", "replace"), digest_size=6).digest(), "big")
    share = place / 2**48
    for split, width in SPLITS.items():
        share -= width
        if share < 0:
            return split
    return "held-out"


def make_queries(documents: Sequence[Document], count: int, *, seed: int = 0) -> list[PseudoQuery]:
    """At most `count` pseudo-queries over all splits, in the order of their passages; equal arguments, equal queries.

    Every passage is asked for once before any is asked for again, and at most four times.
    """
    titles = Counter(_heading(document) for document in documents)
    generator = random.Random(seed)
    found: dict[tuple[int, str], PseudoQuery] = {}
    for _ in range(_rounds(len(documents), count)):
        places = list(range(len(documents)))
        generator.shuffle(places)
        for place in places:
            if len(found) >= count:
                break
            for query in _of_passage(documents[place], place, titles, generator, seed):
                found.setdefault((place, query.text), query)
    return sorted(found.values(), key=lambda query: (query.place, query.text))


def _rounds(num_passages: int, count: int) -> int:
    return min(_ROUNDS, -(-count // max(num_passages, 1)))


def _of_passage(
    document: Document, place: int, titles: Counter[str], generator: random.Random, seed: int
) -> Iterable[PseudoQuery]:
    """One query, of the first kind in random order that the passage allows; none for a passage without words."""
    kinds = list(KINDS)
    generator.shuffle(kinds)
    for kind in kinds:
        text = KINDS[kind](document, titles, generator)
        if text:
            yield PseudoQuery(text, kind, place, split_of(name_of(document), seed))
            return


def _heading(document: Document) -> str:
    heading = document.metadata.get("heading")
    last = heading.rpartition(" > ")[2] if isinstance(heading, str) else ""
    return " ".join(" ".join([document.title, last]).split())


def _from_title(document: Document, titles: Counter[str], generator: random.Random) -> str:
    """The title and the last heading, where hardly any other passage has them."""
    title = _heading(document)
    return title if titles[title] <= _TITLE_USES and len(analyze(title)) >= 2 else ""


def _from_sentence(document: Document, titles: Counter[str], generator: random.Random) -> str:
    """A sentence; half of them lose some words."""
    sentence = _sentence(document, generator)
    kept = " ".join(word for word in sentence.split() if generator.random() >= _DROPPED)
    return kept if generator.random() < 0.5 and len(analyze(kept)) >= min(_KEYWORDS) else sentence


def _from_keywords(document: Document, titles: Counter[str], generator: random.Random) -> str:
    """Some words of a sentence that are search terms, in their order."""
    words = [word for word in _sentence(document, generator).split() if analyze(word)]
    if len(words) < min(_KEYWORDS):
        return ""
    chosen = sorted(generator.sample(range(len(words)), min(len(words), generator.choice(_KEYWORDS))))
    return " ".join(words[place].strip(_PUNCTUATION) for place in chosen)


def _sentence(document: Document, generator: random.Random) -> str:
    """A random sentence of a passage that is neither very short nor very long; "" where there is none."""
    spans = sentence_spans(document.content)
    for start, end in generator.sample(spans, min(len(spans), _TRIES)):
        sentence = " ".join(document.content[start:end].split())
        if len(analyze(sentence)) in _SENTENCE_TERMS:
            return sentence
    return ""


# how a query is made: "" where a passage allows none of this kind
KINDS: dict[str, Callable[[Document, Counter[str], random.Random], str]] = {
    "title": _from_title,
    "sentence": _from_sentence,
    "keywords": _from_keywords,
}
