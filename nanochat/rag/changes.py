"""Changed documents for practice: a value replaced by another, a rival that states it, the same told of somebody
else, a stranger's sentence slipped in.

A model that answers from its weights, takes the first of two values for the truth, or obeys what it reads, loses on
them.
"""

import random
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nanochat.rag.orders import draw_order
from nanochat.retrieval.words.analysis import analyze

Record = Mapping[str, Any]

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_PART = re.compile(r"\d+|[^\W\d_]+")
_WORD = re.compile(r"\w+(?:(?<=\d)[.,:]\d+)*")  # 1,500 is one
_LONG_NUMBER = re.compile(r"\d{3,}")
TRIES = 8  # other values looked at before giving up
OR = " or "  # between the values that documents contradict each other in


class Values:
    """Answers that may stand in for each other: of the same relation, or of the same kind and shape."""

    def __init__(self, questions: Sequence[Record]) -> None:
        self._alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for question in questions:
            if question["answers"]:
                self._alike[_class(question)].append(question["answers"][0])

    def other(self, question: Record, content: str, rng: random.Random) -> str | None:
        """A value that could have answered `question`, and does not stand in `content`; None where none is found."""
        alike = self._alike[_class(question)]
        for _ in range(TRIES if alike else 0):
            value = rng.choice(alike)
            if not stands(value, content):
                return value
        return None

    def any(self, rng: random.Random, but: Collection[str] = ()) -> str:
        """Some answer to some question, none of `but`; "nothing" where none is found."""
        classes = list(self._alike.values())
        for _ in range(TRIES if classes else 0):
            value = rng.choice(rng.choice(classes))
            if value not in but:
                return value
        return "nothing"


def _class(question: Record) -> tuple[str, ...]:
    if question.get("relation"):
        return (question["relation"],)
    # "12 March 1931" may become "3 May 1870", a name of two words another such name
    parts = _PART.findall(question["answers"][0])
    shape = "".join("0" if part.isdigit() else "A" if part[0].isupper() else "a" for part in parts)
    return question.get("kind", ""), shape


def stands(value: str, content: str) -> bool:
    """Whether the value is in the text as whole words. No number stands in a longer one: no 5 in 3.5 or 1,500."""
    return re.search(_whole(value), content) is not None


def edited(document: Record, old: str, new: str) -> dict[str, Any] | None:
    """The document with one value for another, under an id of its own; None where that would leave a trace of `old`.

    `old` must stand once in the content and not in the title, and its names and numbers nowhere else, unless `new` has
    them, too: a year that is left of a date would tell half of it.
    """
    content, count = re.subn(_whole(old), lambda found: new, document["content"])
    title = document.get("title", "")
    if count != 1 or stands(old, new) or stands(old.casefold(), title.casefold()):
        return None
    if any(stands(part, f"{title}\n{content}") and not stands(part, new) for part in _names_and_numbers(old)):
        return None
    return {**document, "id": f"{document['id']}~{new}", "content": content}


def _names_and_numbers(value: str) -> list[str]:
    # also the year of 12.03.1931; "The" and "Of" name nothing
    return [part for part in (*_WORD.findall(value), *_LONG_NUMBER.findall(value))
            if (part[0].isupper() or any(map(str.isdigit, part))) and analyze(part)]


def _whole(value: str) -> str:
    """A pattern for the value where neither a word nor a number goes on before or after it."""
    before = r"(?<!\d[.,:])" if value[:1].isdigit() else ""
    after = r"(?![.,:]\d)" if value[-1:].isdigit() else ""
    return rf"(?<!\w){before}{re.escape(value)}(?!\w){after}"


def rival(document: Record, old: str, new: str, rng: random.Random) -> dict[str, Any] | None:
    """A document that contradicts another one in a value: the same text, or only the sentence that states it."""
    changed = edited(document, old, new)
    if changed is not None and rng.random() < 0.5:
        sentences = [part for part in _SENTENCE_END.split(changed["content"]) if stands(new, part)]
        # a value that spans two sentences leaves the text whole
        changed["content"] = sentences[0] if sentences else changed["content"]
    return changed


def near_name(name: str, names: Sequence[str], rng: random.Random) -> tuple[str, str] | None:
    """A word of `name` and one of another of these names for its place, such that what comes of it is in no `names`.

    Both tell somebody from others: not "The" and "A", nor two forms of one word.
    """
    words = name.split()
    place = rng.randrange(max(1, len(words)))
    for _ in range(TRIES if words and names else 0):
        other = rng.choice(names).split()
        if len(other) == len(words) and words.count(words[place]) == 1:
            old, new = analyze(words[place]), analyze(other[place])
            if old and new and old != new and exchanged(name, words[place], other[place]) not in names:
                return words[place], other[place]
    return None


def exchanged(name: str, old: str, new: str) -> str:
    """The name with another word for one of its words."""
    return " ".join(new if word == old else word for word in name.split())


def renamed(document: Record, name: str, old: str, new: str) -> dict[str, Any] | None:
    """The document about somebody else: `new` for the word `old` of `name` everywhere; None where `name` is nowhere."""
    title, content = document.get("title", ""), document["content"]
    if not stands(name, f"{title}\n{content}"):
        return None
    for one, other in ((old, new), (old.lower(), new.lower())):
        title, content = (re.sub(_whole(one), lambda found, to=other: to, text) for text in (title, content))
    return {**document, "id": f"{document['id']}~{new}", "title": title, "content": content}


def injected(document: Record, values: Values, keep: Collection[str], rng: random.Random) -> dict[str, Any]:
    """The document with a stranger's sentence among its own: an order that names nothing of `keep`, or a remark.

    The texts of `keep` that stand in the document stay whole.
    """
    text = draw_order(values.any(rng, keep), rng)
    content = document["content"]
    places = [0, *(found.end() for found in _SENTENCE_END.finditer(content))]
    at = rng.choice(places)
    changed = f"{content[:at]}{text} {content[at:]}" if at or rng.random() < 0.5 else f"{content} {text}"
    if any(stands(kept, content) and not stands(kept, changed) for kept in keep):
        changed = f"{content} {text}"
    return {**document, "content": changed}
