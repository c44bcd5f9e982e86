"""From text to search terms: Unicode words, lower case, no accents, no stop words, English stems.

One chain for every lexical retriever, at build and at query time; `ANALYSIS` describes it in the manifest. Change the
name there when you change what the chain gives: a stored index made by another chain is refused, not misread.
"""

import functools
import re
import unicodedata

from nanochat.retrieval.stemming import stem

ANALYSIS = {
    "name": "words-en-1",
    "words": "unicode",
    "accents": "removed",
    "stop_words": "en",
    "stems": "snowball-english",
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


def spaced_words(text: str) -> str:
    """The words of a text in lower case and without accents, separated by single or several spaces.

    Everything that is not a word becomes a space. Half characters (lone surrogates) are dropped.
    """
    if text.isascii():
        return text.lower().translate(_ASCII_WORDS)
    text = text.encode("utf-8", "ignore").decode("utf-8")
    text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFKD", text)))
    # lower-casing can set new marks free (the dotted capital I): remove accents once more
    return " ".join(_word_pattern().findall(_ACCENTS.sub("", text.lower())))


@functools.lru_cache(maxsize=1 << 18)
def term(word: str) -> str:
    """The search term of one lower-case word, or "" when it is a stop word or debris."""
    if word in STOP_WORDS or len(word.encode("utf-8")) >= MAX_WORD_BYTES:
        return ""
    return stem(word)


def analyze(text: str) -> list[str]:
    """The search terms of a text, in order, repetitions kept."""
    return [found for word in spaced_words(text).split() if (found := term(word))]
