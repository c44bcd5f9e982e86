"""Check for documents that hold text in more than one language."""

import math
import re
from collections import Counter
from collections.abc import Callable

from nanochat.retrieval.linting.findings import Look, NotRun, Setup, View, excerpt

# The languages told apart, those that short pieces of each other are taken for in one group. Other answers of the
# identifier count as "not certain": they are mostly lists of names, dead languages and formulas.
_GROUPS = (
    "en", "de nl lb", "fr", "es ca gl pt it", "no nb nn da sv", "fi et", "pl", "cs sk", "hu", "ro", "tr az",
    "sr hr bs sl mk bg", "ru uk be", "el", "he", "ar fa ur", "hi mr ne", "bn", "ta", "te", "th", "ko", "ja",
    "zh yue wuu", "vi",
    "id ms", "lt", "lv",
)
_NAMES = {code: codes.split()[0] for codes in _GROUPS for code in codes.split()}
_PIECE_BYTES = 160
_BREAK = re.compile(r"(?<=[.!?\u2026])\s+|\n+|(?<=[\u3002\uff01\uff1f])")
# distance of the best language's score from the next group's, per square root of bytes
_MARGIN = 2.0
# A piece in which a fifth of the words are of the first kind is English; one in which a twentieth are of the second
# kind, which hardly any other language has, is nothing else for sure.
_ENGLISH = frozenset("the and of to in a is was for with from by that which are were this his it has had be as".split())
_ONLY_ENGLISH = frozenset("the and of to with from that which were this".split())
_ENGLISH_SHARE, _NOT_ENGLISH_SHARE = 0.2, 0.05


def mixed_languages(setup: Setup) -> Look:
    try:
        import py3langid
    except ModuleNotFoundError as missing:
        raise NotRun("pip install py3langid") from missing

    def look(view: View) -> str:
        minimum = setup.limits.language_bytes
        sizes: Counter[str] = Counter()
        first: dict[str, str] = {}
        for piece in _pieces(view.prose):
            language = _language(piece, py3langid.rank)
            sizes[language] += len(piece.encode("utf-8", "replace"))
            first.setdefault(language, piece)
        sizes.pop("", None)
        ranked = sizes.most_common(2)
        if len(ranked) < 2 or ranked[1][1] < minimum or ranked[1][1] < sum(sizes.values()) / 10:
            return ""
        return f"{ranked[0][0]} and {ranked[1][0]}: {excerpt(first[ranked[1][0]], around=80)}"
    return look


def _pieces(text: str) -> list[str]:
    """Runs of whole sentences of at least _PIECE_BYTES, the last one at least half of it."""
    pieces, held, length = [], [], 0
    for sentence in filter(str.strip, _BREAK.split(text)):
        held.append(sentence)
        length += len(sentence.encode("utf-8", "replace"))
        if length >= _PIECE_BYTES:
            pieces.append(" ".join(held))
            held, length = [], 0
    return [*pieces, " ".join(held)] if length >= _PIECE_BYTES // 2 else pieces


def _language(piece: str, rank: Callable[[str], list[tuple[str, float]]]) -> str:
    """The group of languages a piece belongs to, or "" where that is not certain."""
    words = piece.lower().split()
    if _share(words, _ENGLISH) >= _ENGLISH_SHARE:
        return "en"
    letters = sum(character.isalpha() or character.isspace() for character in piece)
    if letters < 0.8 * len(piece):
        return ""
    ranked = rank(piece)
    name, score = _NAMES.get(ranked[0][0], ""), ranked[0][1]
    other = next((value for code, value in ranked[1:] if _NAMES.get(code) != name), score)
    is_certain = score - other >= _MARGIN * math.sqrt(len(piece.encode("utf-8", "replace")))
    return name if is_certain and (name == "en" or _share(words, _ONLY_ENGLISH) < _NOT_ENGLISH_SHARE) else ""


def _share(words: list[str], known: frozenset[str]) -> float:
    return sum(word in known for word in words) / len(words)
