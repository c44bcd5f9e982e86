"""From text to search terms: Unicode words, lower case, no accents, no stop words, English stems.

One chain for every lexical retriever, at build and at query time; `ANALYSIS` describes it in the manifest. Change the
name there when you change what the chain gives: a stored index made by another chain is refused, not misread.
"""

import functools
import re
import unicodedata

from nanochat.retrieval.document import Document
from nanochat.retrieval.words.stemming import stem

ANALYSIS = {
    "name": "words-en-1",
    "words": "unicode",
    "accents": "removed",
    "stop_words": "en",
    "stems": "snowball-english",
    "title_count": 2,
}

# a word of this many UTF-8 bytes or more is debris (encoded data, a run-on line), not something people search for
MAX_WORD_BYTES = 200

# scripts written without spaces: every character is a word (Japanese kana, Chinese characters and their extensions)
_UNSPACED = "\u3041-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_ACCENTS = re.compile("[\u0300-\u036f]")
_ASCII_WORDS = "".join(chr(code) if chr(code).isalnum() else " " for code in range(128))

STOP_WORDS = frozenset(
    """
    a about am an and any are as at be been being but by can could did do does doing for from had has have
    having he her hers him his how i if in into is it its me my no nor not of on or our ours s she should so
    such t than that the their theirs them then there these they this those to too very was we were what when
    where which who whom whose why will with would you your yours
    """.split()
)


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    # Python's \w leaves out the marks that Indic, Thai and other scripts need inside their words
    marks = (chr(code) for code in range(0x0370, 0x2000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    return re.compile(f"[{_UNSPACED}]|(?:[^\\W_{_UNSPACED}]|[{''.join(marks)}])+")


class _Plain(dict[str, str]):
    """Character -> what it is once in ASCII: a dash is a space, an e with an accent an e. Filled on first sight.

    Characters of other alphabets stay as they are.
    """

    def __missing__(self, character: str) -> str:
        plain = "".join(
            letter if letter.isascii() or _word_pattern().match(letter) else " " for letter in _folded(character)
        )
        self[character] = plain if plain.isascii() else character
        return self[character]


_PLAIN = _Plain()
_OTHERS = re.compile("[^\x00-\x7f]")


def indexed_words(document: Document) -> str:
    """The words of a document as they are indexed: a title's words count twice, as if it stood there twice."""
    # chosen on training questions of seven sets: mean nDCG@10 .736, once .723; three times .742, but worse where titles
    # say little
    return spaced_words(f"{document.title}\n{document.text}" if document.title else document.text)


def spaced_words(text: str) -> str:
    """The words of a text in lower case and without accents, separated by single or several spaces.

    Everything that is not a word becomes a space. Half characters (lone surrogates) are dropped.
    """
    # most texts have a few dashes and quotes only, which need not go the long way
    plain = text if text.isascii() else _OTHERS.sub(lambda found: _PLAIN[found[0]], text)
    return plain.lower().translate(_ASCII_WORDS) if plain.isascii() else _words_of(text)


def _words_of(text: str) -> str:
    return " ".join(_word_pattern().findall(_folded(text)))


def _folded(text: str) -> str:
    """Lower case, compatibility forms joined, no accents, no lone surrogates."""
    text = text.encode("utf-8", "ignore").decode("utf-8")
    text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))
    # lower-casing can set new marks free (the dotted capital I): remove accents once more
    return _ACCENTS.sub("", text.lower())


@functools.lru_cache(maxsize=1 << 18)
def term(word: str) -> str:
    """The search term of one lower-case word, or "" when it is a stop word or debris."""
    if word in STOP_WORDS or len(word.encode("utf-8")) >= MAX_WORD_BYTES:
        return ""
    return stem(word)


def analyze(text: str) -> list[str]:
    """The search terms of a text, in order, repetitions kept."""
    return [found for word in spaced_words(text).split() if (found := term(word))]
