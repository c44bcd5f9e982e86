"""Which passage of a text states an answer: the sentence around it, with character offsets."""

import math
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from nanochat.text.sentences import sentence_spans

MAX_PASSAGE_CHARS = 400  # a longer sentence is cut to this around what was found in it
MAX_FINDS = 200  # places compared where the same words stand many times
MIN_SHARED = 0.5  # of the words of an answer that a sentence must have when it has not all of them in a row
MIN_INSIDE = 4  # letters of an answer that may stand inside a longer word

# scripts that write words without spaces between them, or with endings attached: Thai to Khmer, kana, Han, Hangul
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff" \
            "\U00020000-\U0003ffff"
_LETTER = rf"(?:(?![{_UNSPACED}])[^\W_]|[\u0300-\u036f])"
_MINUS = "\u2012\u2013\u2212\ufe63\uff0d-"
_BEFORE_MINUS = rf"\s(\[{{\"'=:<>~\u2248\u00b1\u201c\u2018{_UNSPACED}"
# the minus of -5 and the point of .5 belong to the number, the signs in 9-17 and "the end.5" do not
_SIGN = rf"(?:(?<![^{_BEFORE_MINUS}])[{_MINUS}](?=\.?\d))?"
_POINT = rf"(?:(?<![^\s(\[{_MINUS}])\.(?=\d))?"
# a number goes on behind a point, a comma or a colon: 1,987.5 and 21:30 are one word each
_WORD = re.compile(rf"[{_UNSPACED}]|{_SIGN}{_POINT}{_LETTER}+(?:(?<=\d)[.,:](?=\d){_LETTER}+)*")
_OPENS = re.compile(rf"{_SIGN}{_POINT}")
_TO_MINUS = str.maketrans(dict.fromkeys(_MINUS, "-"))
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
# words that tell nothing about where something is stated
_COMMON = frozenset(
    """
    a about after an and are as at be been but by can did do does for from had has have he her his how i if in into is
    it its not of on or she that the their them then there they this to was we were what when where which who whom whose
    why will with would you your
    """.split()
)


@dataclass(frozen=True)
class Passage:
    """Part of a text: text[start:end]; offsets count characters as Python does, code points."""

    start: int
    end: int
    text: str
    match: str  # "exact", "normalised" (case, punctuation, spaces, forms of characters aside) or "overlap"


def find_passage(text: str, answers: Sequence[str], *, question: str = "", end: int | None = None) -> Passage | None:
    """The passage of text[:end] that states the first of the answers that it states; None when nothing fits.

    An answer is looked for as it is written, then word by word without regard to case, punctuation, white space and
    compatibility forms, each time as whole words and numbers: no 5 in -5, 0.5 or 15, nor in what text[:end] leaves of
    500. The passage is the sentence, or sentences, it stands in, of several such places the one that shares most words
    with the question, then the first. When no answer stands anywhere, the sentence is taken that holds most of the
    words of one, at least half of them and all of its numbers, or a longer word with a one-word answer in it. Passages
    have at most MAX_PASSAGE_CHARS characters, unless the found words alone have more. Time is linear in the text.
    """
    place = _Text(text, len(text) if end is None else min(max(end, 0), len(text)))
    answers = [answer.strip() for answer in answers if any(unicodedata.category(sign)[0] in "LNS" for sign in answer)]
    asked = frozenset(_terms(_words(question)))
    for answer in answers:
        for match, finds in (("exact", place.written(answer)), ("normalised", place.spoken(answer))):
            if found := place.best(finds, asked):
                return place.passage(*found, match)
    for answer in answers:
        if found := place.best(place.inside(answer), asked) or place.overlapping(answer, asked):
            return place.passage(*found, "overlap")
    return None


class _Text:
    """A text with what the search needs of it, each made once."""

    def __init__(self, whole: str, end: int) -> None:
        # what is left of a number is another number
        self.text = whole[: _before_number(whole, end)]
        self.is_cut = _is_inside(whole, len(self.text))

    @cached_property
    def sentences(self) -> list[tuple[int, int]]:
        return sentence_spans(self.text)

    @cached_property
    def words(self) -> list[tuple[str, int, int]]:
        words = list(_words_at(self.text))
        return words[:-1] if self.is_cut and words and words[-1][2] == len(self.text) else words

    @cached_property
    def _spoken(self) -> list[str]:
        return [word for word, _, _ in self.words]

    @cached_property
    def _starts(self) -> list[int]:
        return [start for start, _ in self.sentences]

    def written(self, answer: str, *, whole: bool = True) -> Iterator[tuple[int, int]]:
        """Where an answer stands as it is written; whole: not inside of words and numbers."""
        at = self.text.find(answer)
        while at >= 0:
            if not whole or self._is_whole(at, at + len(answer)):
                yield at, at + len(answer)
            at = self.text.find(answer, at + 1)

    def _is_whole(self, start: int, end: int) -> bool:
        """Whether no word and no number goes on before or behind; a minus in front must be one."""
        text = self.text
        has_minus = text[start] in _MINUS and text[start + 1 : start + 2].isdigit()
        if has_minus and not _opens_number(text, start, start + 1):
            return False
        return not (_is_inside(text, start) or _is_inside(text, end) or (end == len(text) and self.is_cut))

    def spoken(self, answer: str) -> Iterator[tuple[int, int]]:
        """Where the words of an answer stand in a row."""
        wanted = _words(answer)
        first = -1
        while wanted:
            try:
                first = self._spoken.index(wanted[0], first + 1)
            except ValueError:
                return
            if self._spoken[first : first + len(wanted)] == wanted:
                yield self.words[first][1], self.words[first + len(wanted) - 1][2]

    def inside(self, answer: str) -> Iterator[tuple[int, int]]:
        """Where an answer of letters stands inside a longer word, as names with endings do."""
        if len(answer) >= MIN_INSIDE and answer.isalpha():
            yield from self.written(answer, whole=False)

    def best(self, finds: Iterable[tuple[int, int]], asked: frozenset[str]) -> tuple[int, int] | None:
        """Of some places the one in the sentence with the most words of the question, then the first."""
        chosen, most = None, -1
        known: dict[tuple[int, int], int] = {}  # a text without full stops is one sentence, looked at once
        for number, (start, end) in enumerate(finds):
            if number == MAX_FINDS:
                break
            span = self._sentence(start, end)
            if span not in known:
                known[span] = self._shared(*span, asked)
            shared = known[span]
            if shared > most:
                chosen, most = (start, end), shared
            if most == len(asked):
                break
        return chosen

    def overlapping(self, answer: str, asked: frozenset[str]) -> tuple[int, int] | None:
        """The sentence with the most words of an answer, if it has enough; of several, as best() has it."""
        wanted = frozenset(_terms(_words(answer)))
        numbers = frozenset(word for word in wanted if any(map(str.isdigit, word)))
        enough = max(1, math.ceil(MIN_SHARED * len(wanted)))
        fitting = [(shared, span) for span in self.sentences if (shared := self._shared(*span, wanted)) >= enough
                   and self._shared(*span, numbers) == len(numbers)]
        most = max((shared for shared, _ in fitting), default=0)
        return self.best((span for shared, span in fitting if shared == most), asked)

    def passage(self, start: int, end: int, match: str) -> Passage:
        """The sentences around a find, cut around it if they are long."""
        begin, stop = self._sentence(start, end)
        if stop - begin > MAX_PASSAGE_CHARS:
            if (start, end) == (begin, stop) and match == "overlap":
                # what was found is the sentence, not a place in it
                end = start
            room = max(0, MAX_PASSAGE_CHARS - (end - start))
            begin = self._cut(max(begin, start - room // 2), begin, start)
            stop = self._cut(min(stop, max(end, begin + MAX_PASSAGE_CHARS)), end, stop, back=True)
        return Passage(begin, stop, self.text[begin:stop], match)

    def _cut(self, place: int, least: int, most: int, *, back: bool = False) -> int:
        """A place to cut at, near the given one: between words if a space is near, never in a number or before a mark.

        Forward from it to `most`, or back to `least`.
        """
        if place in (least, most):
            return place
        step, limit = (-1, max(least, place - 20)) if back else (1, min(most, place + 20))
        for near in range(place, limit, step):
            if self.text[near - 1 if not back else near].isspace():
                return near
        while least < place < most and (unicodedata.combining(self.text[place]) or _is_in_number(self.text, place)):
            place += step
        return place

    def _sentence(self, start: int, end: int) -> tuple[int, int]:
        """From the start of the sentence that a find begins in to the end of the one it ends in."""
        first = max(0, bisect_right(self._starts, start) - 1)
        last = max(first, bisect_left(self._starts, end) - 1)
        return min(start, self.sentences[first][0]), max(end, self.sentences[last][1])

    def _shared(self, start: int, end: int, wanted: frozenset[str]) -> int:
        """How many of some terms a part of the text has."""
        if not wanted:
            return 0
        words = _words(self.text[start:end])
        return len(wanted.intersection(_terms(words[:-1] if self.is_cut and end == len(self.text) else words)))


def _words_at(text: str) -> Iterator[tuple[str, int, int]]:
    """Words in one form, with where they stand; every letter is a word in scripts without spaces."""
    for found in _WORD.finditer(text):
        word = found[0]
        if not word.isascii():
            word = unicodedata.normalize("NFKC", word.translate(_TO_MINUS))
        yield word.casefold(), found.start(), found.end()


def _words(text: str) -> list[str]:
    return [word for word, _, _ in _words_at(text)]


def _terms(words: Sequence[str]) -> Iterator[str]:
    """What sentences are compared by: words that tell something, and pairs of letters in scripts without spaces."""
    for number, word in enumerate(words):
        if not _IS_UNSPACED.match(word):
            if word not in _COMMON:
                yield word
        elif number + 1 < len(words) and _IS_UNSPACED.match(words[number + 1]):
            yield word + words[number + 1]


def _is_inside(text: str, place: int) -> bool:
    """Whether a place is inside of a word or a number, such as that between 3 and .5, or between - and 5."""
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if unicodedata.combining(after):
        return True
    if before.isalnum() and after.isalnum():
        return not (_IS_UNSPACED.match(before) or _IS_UNSPACED.match(after))
    if before.isdigit() and after in ".,:":
        return text[place + 1 : place + 2].isdigit()
    if before in ".,:" and after.isdigit() and text[place - 2 : place - 1].isdigit():
        return True
    return before in f".{_MINUS}" and _opens_number(text, place - 1, place)


def _opens_number(text: str, start: int, end: int) -> bool:
    """Whether what stands there is the minus or the leading point of a number."""
    found = _OPENS.match(text, start)
    return found is not None and found.end() >= end


def _is_in_number(text: str, place: int) -> bool:
    return _is_inside(text, place) and any(map(str.isdigit, text[place - 1 : place + 1]))


def _before_number(text: str, end: int) -> int:
    """The end itself, or the start of the number that it is inside of."""
    start = end
    while _is_inside(text, start):
        start -= 1
    return start if any(map(str.isdigit, text[start:end])) else end
