"""Misspelt words of a question, read as they were meant: "waht is the waranty peirod" as "what is the warranty period".

A word is misspelt when it stands neither in an English word list nor in the documents that the question finds. It is
read as a word of those documents that is one slip away, or else as a common English word. One slip: a letter too many,
missing or wrong, or two neighbours exchanged (Damerau 1964); in short words, where most others are one letter away,
exchanged neighbours alone. The word list and the search for near words are symspellpy's.

Left as they are: everything with a capital or a digit but a question's first word, since a name that differs in a
letter may be another one; words that a document has in another form; and a question of which most words are unknown,
which is in another language, unless every one of them has a near word.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import TYPE_CHECKING

from nanochat.retrieval.words.analysis import STOP_WORDS
from nanochat.retrieval.words.stemming import stem

if TYPE_CHECKING:
    from symspellpy import SymSpell

MIN_LETTERS = 4
LONG_LETTERS = 6  # from here on any slip is looked for
# occurrences in the word list's corpus of 5e11 words; a rarer word is a bad guess where no document has it
COMMON = 20_000_000
VERY_COMMON = 200_000_000  # for a word with a capital, which may be a name
_WORDS = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
# a word by itself: not part of an address, a path or an identifier
_ALONE = re.compile(r"(?<!\S)[\"'(\[\u2018\u201c]*(?P<word>[^\W\d_]+)[\"')\]\u2019\u201d.,;:!?]*(?!\S)")
_SMALL = re.compile(r"(?<![\w'\u2019-])[a-z]+(?![\w'\u2019-])")
_SLIPS = 1


def corrected(question: str, texts: Iterable[str]) -> str:
    """The question with its misspelt words as they were meant, or the question itself where none is.

    texts: of the documents that it finds, titles and contents.
    """
    written = " ".join(texts)
    known = {word.lower() for word in _WORDS.findall(written)} | STOP_WORDS
    asked = list(_ALONE.finditer(question))
    strange = [match for match in asked if match["word"].lower() not in known]
    if not strange:
        return question
    english = _english()
    strange = [match for match in strange if match["word"].lower() not in english.words and _may_slip(match)]
    if not strange:
        return question
    small = Counter(_SMALL.findall(written))
    near, stems = _index(small), {stem(word) for word in small}
    meant = ["" if stem(match["word"].lower()) in stems else _meant(match["word"], near, small) for match in strange]
    if 2 * len(strange) > len(asked) and not all(meant):
        return question
    pieces, end = [], 0
    for match, word in zip(strange, meant, strict=True):
        pieces += [question[end : match.start("word")], word or match["word"]]
        end = match.end("word")
    return "".join([*pieces, question[end:]])


def _may_slip(match: re.Match[str]) -> bool:
    word = match["word"]
    is_first = not match.string[: match.start()].strip()
    return word.isascii() and len(word) >= MIN_LETTERS and (word.islower() or is_first and word[1:].islower())


def _meant(word: str, near: "SymSpell", small: Mapping[str, int]) -> str:
    """The word that was meant, or "" where none is near enough: of the documents first, then the commonest."""
    from symspellpy import Verbosity

    english, lower = _english(), word.lower()
    if word == lower:
        words = [one.term for one in near.lookup(lower, Verbosity.ALL, _SLIPS) if _is_slip(lower, one.term)]
        if words:
            return max(words, key=lambda each: (small[each], english.words.get(each, 0), each))
    floor = COMMON if word == lower else VERY_COMMON
    words = [one.term for one in english.lookup(lower, Verbosity.ALL, _SLIPS)
             if one.count >= floor and _is_slip(lower, one.term)]
    best = max(words, key=lambda each: (english.words[each], each), default="")
    return best if word == lower else best.capitalize()


def _is_slip(word: str, other: str) -> bool:
    # "analyzed" and "analysed", "savory" and "savoury" are both right
    if _american(word) == _american(other):
        return False
    return len(word) >= LONG_LETTERS or sorted(word) == sorted(other)


def _american(word: str) -> str:
    return word.replace("our", "or").replace("yse", "yze").replace("ise", "ize").replace("isa", "iza")


def _index(words: Mapping[str, int]) -> "SymSpell":
    from symspellpy import SymSpell

    index = SymSpell(max_dictionary_edit_distance=_SLIPS)
    for word, count in words.items():
        if len(word) >= MIN_LETTERS - 1:
            index.create_dictionary_entry(word, count)
    return index


@functools.cache
def _english() -> "SymSpell":
    """The word list, 83,000 words with their counts; some 70 MB, read at the first word that no document has."""
    from symspellpy import SymSpell

    english = SymSpell(max_dictionary_edit_distance=_SLIPS)
    path = resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt"
    with resources.as_file(path) as file:
        english.load_dictionary(file, 0, 1, encoding="utf-8-sig")
    return english
