"""Values that may stand in for each other: what an edited fact, or a second opinion, can say instead."""

import random
import re
from collections import defaultdict
from collections.abc import Collection, Sequence

from nanochat.rag.library import Record, folded

TRIES = 8
MAX_WORDS = 4  # longer answers are no values that could be another

_DIGITS = re.compile(r"\d+")
_PART = re.compile(r"[^\W\d_]+|\d+")


class Values:
    """The short answers of questions, ordered by what they could answer: the same words about another thing first."""

    def __init__(self, questions: Sequence[Record]) -> None:
        self._alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
        self._all: list[str] = []
        for question in questions:
            answer = question["answers"][0] if question["answers"] else ""
            if answer and len(answer.split()) <= MAX_WORDS:
                self._all.append(answer)
                for key in _classes(question, answer):
                    self._alike[key].append(answer)

    def other(self, question: Record, content: str, rng: random.Random) -> str | None:
        """Another value for the answer of a question, neither in `content` nor in the question; None without one.

        Where the documents have no other value with digits of that form, its digits are changed.
        """
        answer = question["answers"][0]
        if len(answer.split()) > MAX_WORDS:
            return None
        shown = folded(content) + folded(question["question"])
        for key in _classes(question, answer):
            alike = self._alike[key]
            for _ in range(TRIES if len(alike) > 1 else 0):
                value = rng.choice(alike)
                if folded(value) not in shown:
                    return value
        changed = _DIGITS.sub(lambda found: _other_digits(found[0], rng), answer)
        return changed if folded(changed) not in shown else None

    def any(self, rng: random.Random, keep: Collection[str] = ()) -> str:
        """Some answer to some question that shares no words with those of `keep`; "nothing" where none is found."""
        kept = [folded(words) for words in keep]
        for _ in range(TRIES if self._all else 0):
            value = rng.choice(self._all)
            if not any(folded(value) in words or words in folded(value) for words in kept):
                return value
        return "nothing"


def _classes(question: Record, answer: str) -> list[tuple[str, ...]]:
    """From narrow to wide: the same question about another thing, then the same form."""
    subject = question.get("subject", "")
    asked = re.sub(r"\AIn .{1,120}?, (?=what )", "", question["question"]).lower()
    has_template = subject and question["kind"] in ("table", "field", "fact")
    template = asked.replace(subject.lower(), "{}") if has_template else ""
    classes = [("asked", template)] if "{}" in template else []
    if _DIGITS.search(answer):
        # "49 EUR" may become "25 EUR", "12 March 1931" only another day of that form
        return [*classes, ("form", re.sub(r"[A-Z][a-z]{2,}", "Aa", _DIGITS.sub("0", answer)))]
    parts = _PART.findall(answer)
    shape = "".join("X" if len(part) > 1 and part.isupper() else "A" if part[0].isupper() else "a" for part in parts)
    # "silver" and "black" are alike as colours only: without a template names may change, common words within a kind
    return [*classes, ("name", shape)] if shape.isupper() else [*classes, (question["kind"], shape)]


def _other_digits(digits: str, rng: random.Random) -> str:
    """A number of as many digits; a year stays within some decades."""
    number = int(digits)
    if len(digits) == 4 and 1000 <= number <= 2100:
        return str(number + rng.choice([-1, 1]) * rng.randint(2, 40))
    is_padded = len(digits) > 1 and digits[0] == "0"
    first = "0" if is_padded else rng.choice([digit for digit in "123456789" if digit != digits[0]])
    return first + "".join(rng.choice("0123456789") for _ in digits[1:])
