"""Answers in the words of the documents: an answer is a run of words of a document that it cites, unchanged.

A small model that has found the right place may still slip while it copies ("245 crowns" for "290 crowns"). Held to the
words of what it cites it cannot, and every answer is found in its document with a plain search.

    text = quote (" or " quote)*       at most as many quotes as cited documents, for those that contradict each other

A quote begins and ends with a word of a cited document, as far as that was shown.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from nanochat.chat_format import text_ids
from nanochat.engine.grammar import IS_DOC, IS_SPACE, IS_TEXT, AnswerGrammar, AnswerRule
from nanochat.tokenizer import Tokenizer

JOINT = "or"
LINE_CHARS = 200  # of a text from a word on that no space stands before, but a mark, a line break or a tab
# such a word; its ids are others than those of the same word behind a space, which an answer begins with
_BEHIND_MARK = re.compile(r"(?<=[^\w ])\w")
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # part of a character
FRESH, JOINING = -1, -2  # in place of a run: a quote begins, "or" is being written


class Place(NamedTuple):
    """Where an answer stands."""

    run: int  # number of the run that is quoted; FRESH, JOINING
    at: int  # the id read last in the run; the next id of the joint
    quote: int  # number of the quote, from 1


@dataclass(frozen=True)
class Quotable:
    """A run of ids of a document, and the places in it where a word begins or ends."""

    ids: Sequence[int]
    starts: Sequence[int]
    ends: frozenset[int]


class Quotables:
    """What can be quoted from the documents of one prompt, worked out for a document when it is cited."""

    def __init__(self, prompt_ids: Sequence[int], tokenizer: Tokenizer) -> None:
        self._ids, self._tokenizer = prompt_ids, tokenizer
        self._of: dict[int, list[Quotable]] = {}  # by slot
        self.joint = text_ids(JOINT, tokenizer)

    def of(self, slot: int) -> list[Quotable]:
        """Title and content of a document, as far as shown, and lines of it behind words that follow a mark."""
        if slot not in self._of:
            found = []
            for ids in self._shown(slot):
                found.append(_quotable(ids, self._tokenizer))
                text = self._tokenizer.decode(ids)
                for match in _BEHIND_MARK.finditer(text):
                    line = text_ids(text[match.start() : match.start() + LINE_CHARS], self._tokenizer)
                    found.append(_quotable(line, self._tokenizer, only_first=True))
            self._of[slot] = found
        return self._of[slot]

    def _shown(self, slot: int) -> list[Sequence[int]]:
        """Ids behind each mark of a document, up to the next mark; a mark behind `cite` is that of an answer."""
        mark, citing, ids = self._tokenizer.doc(slot), self._tokenizer.special("cite"), self._ids
        found = []
        for place in range(1, len(ids)):
            if ids[place] == mark and ids[place - 1] != citing:
                end = place + 1
                while end < len(ids) and not self._tokenizer.is_reserved(ids[end]):
                    end += 1
                found.append(ids[place + 1 : end])
        return [run for run in found if run]


def _quotable(ids: Sequence[int], tokenizer: Tokenizer, *, only_first: bool = False) -> Quotable:
    # behind another id none loses its space
    anchor = ids[0]
    own = len(tokenizer.decode([anchor]))

    def text_of(start: int, end: int) -> str:
        return tokenizer.decode([anchor, *ids[start:end]])[own:]

    texts = [tokenizer.decode([anchor]), *(text_of(place, place + 1) for place in range(1, len(ids)))]
    after = [*texts[1:], " "]
    # numbers may have their space as an id of its own
    starts = [place for place, (text, following) in enumerate(zip(texts, after, strict=True))
              if place == 0 or text[:1] == " " and (text.strip() or not following[:1].isspace())]
    ends = set()
    for place, (text, following) in enumerate(zip(texts, after, strict=True)):
        if not text.strip():
            continue
        if _BROKEN in text + following:
            # the character that these are parts of; none has more than four
            text, following = text_of(max(0, place - 3), place + 1), text_of(place + 1, place + 5) or " "
        if text[-1] != _BROKEN and not (text[-1].isalnum() and following[:1].isalnum()):
            ends.add(place)
    return Quotable(ids, starts[:1] if only_first else starts, frozenset(ends))


class QuoteRule:
    """The rule of one answer: that of the grammar, with a text that quotes what it cites."""

    __slots__ = ("_cited", "_grammar", "_inner", "_places", "_quotables", "_runs")

    def __init__(self, inner: AnswerRule, grammar: AnswerGrammar, quotables: Quotables) -> None:
        self._inner, self._grammar, self._quotables = inner, grammar, quotables
        self._cited = 0  # documents
        self._runs: list[Quotable] = []  # of these
        self._places = frozenset({Place(FRESH, 0, 1)})

    def allowed(self) -> Tensor:
        """(V,) bool, as RowRule says."""
        allowed = self._inner.allowed()
        if not self._runs or not self._inner.may_write:
            return allowed
        mask = allowed & ~self._grammar.text
        mask[sorted({id for place in self._places for id, _ in self._steps(place)})] = True
        if not any(self._may_end(place) for place in self._places):
            mask[self._grammar.end] = False
        return mask & allowed

    def advance(self, id: int) -> None:
        """Take note of the id that was appended."""
        self._inner.advance(id)
        kind = self._grammar.kinds[id]
        if kind == IS_DOC:
            self._cited += 1
            self._runs = self._runs + [run for run in self._quotables.of(self._grammar.slots[id]) if run.starts]
        elif self._runs and kind in (IS_TEXT, IS_SPACE):
            self._places = frozenset(new for place in self._places for one, new in self._steps(place) if one == id)

    def fork(self) -> "QuoteRule":
        """A copy that goes its own way."""
        other = QuoteRule(self._inner.fork(), self._grammar, self._quotables)
        other._cited, other._runs, other._places = self._cited, self._runs, self._places
        return other

    def _steps(self, place: Place) -> Iterator[tuple[int, Place]]:
        """Ids that may come next, each with where it leads."""
        joint = self._quotables.joint
        if place.run == FRESH:
            for number, run in enumerate(self._runs):
                yield from ((run.ids[start], Place(number, start, place.quote)) for start in run.starts)
        elif place.run == JOINING:
            yield joint[place.at], self._joined(place.at, place.quote)
        else:
            for id in self._runs[place.run].ids[place.at + 1 : place.at + 2]:
                yield id, Place(place.run, place.at + 1, place.quote)
            if place.quote < self._cited and self._may_end(place):
                yield joint[0], self._joined(0, place.quote)

    def _joined(self, at: int, quote: int) -> Place:
        """The place behind the joint's id number `at`."""
        return Place(FRESH, 0, quote + 1) if at + 1 == len(self._quotables.joint) else Place(JOINING, at + 1, quote)

    def _may_end(self, place: Place) -> bool:
        """Whether the quote may end here: with a word."""
        return place.run >= 0 and place.at in self._runs[place.run].ends
