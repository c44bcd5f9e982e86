"""Questions that nothing answers: about something that is in no document, or asking what no document says of it."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence

from nanochat.rag.library import Library, Record
from nanochat.rag.spans import names_nothing
from nanochat.retrieval.words.analysis import analyze

TRIES = 12
_WORD = re.compile(r"[^\W\d_]+|\d+")
_LEFT = re.compile(r"In .{1,120}?, (?=what )")
_SMALL = frozenset("the a an of and or for in on at to de la von van".split())


class Absent:
    """Makes unanswerable questions out of answerable ones of the same split."""

    def __init__(self, library: Library, questions: Sequence[Record]) -> None:
        self.library = library
        self._parts = sorted({part for question in questions for part in _WORD.findall(question.get("subject", ""))
                              if len(part) > 2 and part.lower() not in _SMALL and not names_nothing(part)})
        self._alike: dict[str, list[str]] = defaultdict(list)
        for part in self._parts:
            self._alike[_shape(part)].append(part)
        self._templates: dict[tuple[str, str], list[str]] = defaultdict(list)
        for question in questions:
            if template := _template(question):
                self._templates[_family(question)].append(template)

    def entity(self, question: Record, hits: Sequence[int], rng: random.Random) -> Record | None:
        """The question about another thing, of which no document says anything; None without a name or a number.

        Of a name of several words one is replaced by a word of another name, so that it looks like any other. A name of
        one word becomes an invented one. "The engine" is no name.
        """
        subject = question.get("subject", "")
        if not subject or subject not in question["question"]:
            return None
        for _ in range(TRIES):
            other = self._other_name(subject, rng)
            asked = question["question"].replace(subject, other)
            # a search for the new question finds whatever document has the name, and that might answer
            if other != subject and subject not in asked and not self.library.holders(other):
                return _unanswerable(question, asked, "entity_absent", other)
        return None

    def relation(self, question: Record, hits: Sequence[int], rng: random.Random) -> Record | None:
        """Another question's words about this question's subject, where no hit says anything of that; else None."""
        # a sentence with a blank states its relation itself
        templates = self._templates.get(_family(question), []) if question["kind"] != "cloze" else []
        subject = question.get("subject", "")
        for _ in range(TRIES if templates and _template(question) else 0):
            template = rng.choice(templates)
            left = _LEFT.match(question["question"])
            asked = (left[0] if left else "") + template.replace("{}", subject)
            asked = asked if left else asked[0].upper() + asked[1:]
            wanted = set(analyze(template.replace("{}", " "))) - set(analyze(subject))
            about = [*hits, self.library.position_of[question["answer_id"]]]
            # one word of the relation is enough to suspect that a document answers
            if wanted and template != _template(question) and not any(
                any(self.library.speaks_of(position, word) for word in wanted) for position in about
                if self.library.speaks_of(position, subject)
            ):
                return _unanswerable(question, asked, "relation_absent", subject)
        return None

    def _other_name(self, subject: str, rng: random.Random) -> str:
        """A subject with another word or number in the place of one of its names and numbers; as it is without any."""
        words = [word for word in _WORD.findall(subject) if word.lower() not in _SMALL]
        # scripts without capitals do not tell names from other words
        names = [word for word in words if not word[0].islower()]
        chosen = rng.choice(names) if names else ""
        alike = self._alike[_shape(chosen)] if rng.random() < (0.8 if len(words) > 1 else 0.5) else []
        new = rng.choice(alike) if alike else self._new_word(chosen, rng) if chosen else ""
        return _WORD.sub(lambda found: new if found[0] == chosen else found[0], subject)

    def _new_word(self, word: str, rng: random.Random) -> str:
        if word.isdigit():
            return str(rng.randint(1, 9)) + "".join(str(rng.randint(0, 9)) for _ in word[1:])
        if word.isupper() and len(word) <= 6:
            return "".join(rng.choice("ABCDEFGHIKLMNOPRSTUVWXZ") for _ in word)
        # the front of this word and the back of another one
        shapes = "-" if _shape(word) == "-" else "Aa"
        ends = [part for shape in shapes for part in self._alike[shape] if part != word]
        end = rng.choice(ends) if ends else word[::-1].lower()
        cut = max(2, len(word) // 2)
        made = word[:cut] + end[len(end) // 2 :].lower()
        return made if made != word else made + rng.choice("aeo")


def _shape(word: str) -> str:
    """How a word is written: digits, capitals, one capital, small letters, or in a script that has neither."""
    if not word or word.isdigit():
        return f"0{len(word)}"
    if len(word) > 1 and word.isupper():
        return "X"
    return "A" if word[0].isupper() else "a" if word[0].islower() else "-"


def _template(question: Record) -> str:
    """The question with {} for its subject, and without the title that it may start with; "" where it has none."""
    subject = question.get("subject", "")
    asked = _LEFT.sub("", question["question"])
    if not subject or asked.count(subject) != 1:
        return ""
    template = asked.replace(subject, "{}")
    return template if analyze(template.replace("{}", " ")) else ""


def _family(question: Record) -> tuple[str, str]:
    """Questions that may lend each other their words: of one kind, with the same two first words."""
    return question["kind"], " ".join(_LEFT.sub("", question["question"]).split()[:2]).lower()


def _unanswerable(question: Record, asked: str, kind: str, subject: str) -> Record:
    # a document about the thing itself, or about one that only resembles it
    place = "about_ids" if kind == "relation_absent" else "near_ids"
    record = {"id": f"{question['id']}~{kind}", "question": asked, "answers": [], "supporting_ids": [],
              place: [question["answer_id"]], "hops": question["hops"], "kind": kind, "subject": subject}
    return record | ({"parent": question["parent"]} if "parent" in question else {})
