"""What can be left out of a sentence: whole sentences among debris, and in them dates, amounts, names and noun phrases.

The rules know English; of other languages they use what is written the same way, such as numbers and names.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanochat.retrieval.chunking import sentence_spans
from nanochat.retrieval.words.analysis import STOP_WORDS, analyze

MIN_WORDS, MAX_WORDS = 6, 60  # sentences outside are not asked about
RARE_SHARE = 0.01  # a term is rare when at most this share of the documents has it; one or two always may
PHRASE_SHARE = 0.03  # the same for a term of a noun phrase that is left out

WORD = re.compile(r"[^\W_]+(?:[.&'\u2019-][^\W_]+)*")
LISTING = frozenset("and or nor &".split())
JOINING = frozenset("of the de du van von der la le al".split())  # inside names
_Words = Sequence[re.Match[str]]

MONTHS = "January February March April May June July August September October November December".split()
_MONTH = f"(?:{'|'.join(MONTHS)})"
_DATE = re.compile(
    rf"(?<!\S)(?:\d{{1,2}} {_MONTH}(?: \d{{4}})?|{_MONTH} \d{{1,2}}(?:, \d{{4}})?|{_MONTH} \d{{4}})"
    r"(?=[,;:!?]?\s|[.!?\"']|$)"
)
_NUMBER = re.compile(
    r"(?<!\S)[$\u20ac\u00a3]?\d+(?:[.,]\d+)*(?:%| (?:million|billion|trillion|percent)\b)?(?=[,;:!?]?\s|\.(?:\s|$)|$)"
)
# the same amount in another unit follows: "20 km (12 mi)"
_CONVERSION = re.compile(r"\s?\S{0,14} ?\([^)]*\d")
_NUMBERED = frozenset("figure fig table chapter section no number volume page step equation part type stage".split())
_NOT_NAMES = frozenset([*MONTHS, *"Monday Tuesday Wednesday Thursday Friday Saturday Sunday Jr Sr".split()])

# a noun phrase stands between a word of the first kind and one of the others, or punctuation
_OPENING = frozenset("the a an of in by with from for on into called without during between".split())
_CLOSING = LISTING | frozenset("is are was were has have had can may will would should that which who when".split())
_PREPOSITIONS = frozenset("of in for with by from at on into without during between among against".split())
FUNCTION = STOP_WORDS | _OPENING | _CLOSING | _PREPOSITIONS | frozenset(
    """
    after all also another because before both down each even every few first five forth four goes herself himself
    however if itself just like made make makes many might more most much must often one oneself only other others out
    over per same second seven several since six some still ten than themselves third three through two under until up
    upon us use used using usually very well while within yet
    """.split()
)
# "in addition", "a large variety of": these end phrases that name nothing
_EMPTY = frozenset(
    """
    addition amount case cases contrast example extent fact favor favour general instance kind kinds lot number order
    part particular parts practice reason reasons result results sort thing things time times variety way ways
    charge company course front future haste hundred hurry midst name names past place present search sight spite
    suggests thousand turn vain wonder
    """.split()
)
# these point at something or compare it, and say nothing of what it is
_POINTING = frozenset(
    """
    best better biggest certain chief closest common complete current different earlier earliest early entire fewer
    fewest final following former fourth further good great greater greatest heaviest higher highest important larger
    largest last late later latest latter least less lesser longer longest lower lowest main major minor nearest new
    newer newest next nine old older oldest one ones original particular popular present previous rare real recent
    remaining rest right shorter shortest similar sixth eight smaller smallest sole special strongest tallest thing
    things tiny true twelve typical unique usual various whole worse worst wrong younger youngest

    above across again along always around behind below beneath beside besides beyond despite else elsewhere ever except
    here inside instead near never now off onto outside past soon too toward towards underneath unlike via
    """.split()
)
_DEBRIS = re.compile(
    r"[\[\]|=@<>{}\\\ufffd]|__|\.\.|http|www\.|[a-z][.!?:;,][A-Z]|\s[-*\u2022\u2013]\s|\b([A-Z]\w+) \1\b"
)
_SPEAKER = re.compile(r"(?:[A-Z]|Question|Answer)\d{0,2}[:.)] ")  # "A: Yes, until ..."
_BULLET = re.compile(r"(?:\A|\s)[-*\u2022]\s+(?=[A-Z0-9])")
_END = re.compile(r"[.!][\"'\u201d\u2019)]*\Z")


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    tier: int  # 0 for dates, amounts and names, 1 for noun phrases


class Vocabulary:
    """What all documents together tell about words: which are rare, and which are names."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.num_texts = len(texts)
        self.lower: set[str] = set()
        self.places: defaultdict[str, list[int]] = defaultdict(list)  # search term -> positions of texts that have it
        for position, text in enumerate(texts):
            self.lower.update(word for word in WORD.findall(text) if word[0].islower())
            for term in set(analyze(text)):
                self.places[term].append(position)

    def is_name(self, word: str) -> bool:
        """Whether a capitalised word never stands in lower case."""
        return len(word) > 1 and word.lower() not in self.lower

    def is_rare(self, term: str, share: float = RARE_SHARE) -> bool:
        """Whether few documents, but one at least, have this search term."""
        return 0 < len(self.places.get(term, ())) <= max(2, share * self.num_texts)


def names_nothing(phrase: str) -> bool:
    """Whether a phrase has no noun and no name, only words that point or compare: "The only", "the three oldest ones".
    """
    words = WORD.findall(phrase)
    # US and IT are names
    return all(word.lower() in FUNCTION | _POINTING and not (len(word) > 1 and word.isupper()) for word in words)


def sentences(text: str) -> list[str]:
    """The sentences and list items of a text, white space folded, without bullets."""
    parts = (" ".join(text[start:end].split()) for start, end in sentence_spans(text))
    return [item for part in parts for item in _BULLET.split(part) if item]


def is_plain(sentence: str, vocabulary: Vocabulary) -> bool:
    """Whether this reads as one whole sentence: no heading, run-on list, link or markup."""
    words = sentence.split()
    first = sentence.lstrip("\"'\u201c\u2018(")[:1]
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not _END.search(sentence) or not first.isalnum() or first.islower():
        return False
    if _DEBRIS.search(sentence) or _SPEAKER.match(sentence):
        return False
    if sentence.count("(") != sentence.count(")") or sentence.count('"') % 2:
        return False
    if sum(word[0].isupper() for word in words) > len(words) / 2:
        return False
    # "pain Loss of appetite Fever": capitals of common words after lower-case words are lost list items
    lost = sum((one.islower() or one[-1] == "%") and two[0].isupper() and len(two) > 1
               and not vocabulary.is_name(two.strip(".,;:")) for one, two in zip(words, words[1:]))
    return lost < 3


def find_spans(sentence: str, vocabulary: Vocabulary) -> Iterator[Span]:
    """What can be left out of a sentence, its first word and what stands in brackets excepted."""
    dates = [found.span() for found in _DATE.finditer(sentence)]
    spans = [Span(start, end, 0) for start, end in dates]
    for found in _NUMBER.finditer(sentence):
        if not any(start < found.end() and found.start() < end for start, end in dates) and _is_amount(sentence, found):
            spans.append(Span(*found.span(), 0))
    words = list(WORD.finditer(sentence))
    spans += [*_names(sentence, words, vocabulary), *_phrases(sentence, words, vocabulary)]
    for span in spans:
        in_brackets = sentence.count("(", 0, span.start) > sentence.count(")", 0, span.start)
        # a mark after the last letter belongs to it: the span would end inside a word
        if span.start and not in_brackets and not unicodedata.combining(sentence[span.end : span.end + 1] or " "):
            yield span


def _is_amount(sentence: str, found: re.Match[str]) -> bool:
    before = (sentence[: found.start()].split() or [""])[-1]
    after = (sentence[found.end() :].split() or [""])[0]
    if _CONVERSION.match(sentence, found.end()) or before.lower().strip(".,(") in _NUMBERED or before in MONTHS:
        return False
    if after[:1].isdigit() or before.rstrip(",;")[-1:].isdigit():
        return False
    # "2 things" is an amount, "factor 2 is" is a name
    return len(found[0]) > 1 or (after.isalpha() and after.islower() and after not in FUNCTION)


def _names(sentence: str, words: _Words, vocabulary: Vocabulary) -> Iterator[Span]:
    """Whole names: runs of capitalised words, also across "of the", with a word that stands in lower case nowhere."""
    place = 0
    while place < len(words):
        first = last = place
        while words[first][0][0].isupper() and (step := _step_in_name(sentence, words, last)):
            last += step
        place = last + 1
        end = words[last].end() - (2 if words[last][0][-2:] in ("'s", "\u2019s") else 0)
        name = sentence[words[first].start() : end]
        if (
            name[0].isupper() and name not in _NOT_NAMES
            and any(word[:1].isupper() and vocabulary.is_name(word) for word in re.split("[ -]", name))
            and _begins_here(sentence, words, first) and not _goes_on(sentence, words, last, end)
        ):
            yield Span(words[first].start(), end, 0)


def _step_in_name(sentence: str, words: _Words, last: int) -> int:
    """How many words after `last` the name has its next one; 0 where it ends. Two may join: "Bank of the West"."""
    for step in (1, 2, 3):
        if last + step < len(words) and words[last + step][0][0].isupper():
            between = [word[0] for word in words[last + 1 : last + step]]
            gap = sentence[words[last].end() : words[last + step].start()]
            return step if gap == " ".join(["", *between, ""]) and JOINING.issuperset(between) else 0
    return 0


def _begins_here(sentence: str, words: _Words, first: int) -> bool:
    """Whether no part of the name, and no list it stands in, lies before it."""
    previous = words[first - 1][0] if first else "A"
    gap = sentence[words[first - 1].end() : words[first].start()] if first else ""
    if previous.lower() in LISTING or (len(previous) == 1 and previous.isupper()):
        return False
    return gap in (" ", ' "', "; ") or (gap in (", ", ', "') and not previous[0].isupper())


def _goes_on(sentence: str, words: _Words, last: int, end: int) -> bool:
    """Whether what follows may belong to the name: a number, another name after "and", a title after a comma."""
    if last + 1 == len(words):
        return False
    following, gap = words[last + 1][0], sentence[end : words[last + 1].start()]
    if gap[:1] in ("-", "\u2013", "/", "_", "&") or (gap[:1] == "." and "." in words[last][0]):
        return True
    if following in LISTING or gap == " & ":
        second = words[last + 2][0] if last + 2 < len(words) else ""
        return following[0].isupper() or second[:1].isupper()
    if gap == " ":
        return following[0].isdigit()
    return gap.startswith((", ", "'s", "\u2019s", ". ")) and following[0].isupper()


def _phrases(sentence: str, words: _Words, vocabulary: Vocabulary) -> Iterator[Span]:
    """Rare noun phrases of one to three lower-case words: "by a hollow needle."."""
    for first in range(1, len(words)):
        opening = words[first - 1][0].lower()
        if opening not in _OPENING | LISTING or sentence[words[first - 1].end() : words[first].start()] != " ":
            continue
        last = first
        while last < len(words) and _is_content(words[last][0]) and (
            last == first or sentence[words[last - 1].end() : words[last].start()] == " "
        ):
            last += 1
        if not 1 <= last - first <= (1 if opening in LISTING else 3) or words[last - 1][0] in _EMPTY:
            continue
        start, end = words[first].start(), words[last - 1].end()
        following = words[last][0] if last < len(words) and sentence[end] == " " else ""
        phrase = [word[0] for word in words[first:last]]
        is_rare = any(vocabulary.is_rare(term, PHRASE_SHARE) for term in analyze(sentence[start:end]))
        if is_rare and _closes(phrase, sentence[end : end + 2], following, is_listed=opening in LISTING):
            yield Span(start, end, 1)


def _closes(phrase: Sequence[str], after: str, following: str, *, is_listed: bool) -> bool:
    """Whether the phrase ends here: punctuation, or a word that follows noun phrases."""
    if len(phrase) > 1 and phrase[-1].endswith("ed"):
        # "the bells tolled, and": a verb
        return False
    if after in (".", ",", ";", ":") or after[1:] and after[0] in ".,;:" and after[1] in " \"')":
        return True
    if is_listed or following not in _CLOSING | _PREPOSITIONS:
        return False
    if len(phrase) == 1:
        # "a series of" and "the size of" could be said of anything
        return following != "of"
    # several words may end in a verb: "the doctor talks with", "of cells made by"
    if following in _PREPOSITIONS - {"of"}:
        return False
    return following in LISTING or not phrase[-1].endswith("s")


def _is_content(word: str) -> bool:
    is_word = len(word) > 2 and word.replace("-", "").isalpha() and word.islower()
    return is_word and word not in FUNCTION and not word.endswith("ly")
