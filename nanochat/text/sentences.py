"""Where sentences end, by rule and for many scripts, with exact offsets."""

import re

# a full stop with its closing quotes, an ideographic one, an empty line, or the start of a list item; every branch
# starts with one certain character, so that long runs of one character cost linear time
_BREAK = re.compile(
    r"""(?P<mark>[.!?\u2026])["'\u201d\u2019\u00bb)\]]*\s+"""
    r"""|[\u3002\uff01\uff1f][\u201d\u2019\u300d\u300f\uff09]*\s*"""
    r"""|\n[^\S\n]*\n\s*|\n[^\S\n]*(?=(?:[-*\u2022]|\d{1,3}[.)])\s)"""
)
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c\u2018]+\Z")
_TITLES = frozenset("mr mrs ms dr prof st vs e.g i.e cf approx gen col sgt capt lt rev hon".split())
_BEFORE_NUMBERS = frozenset("no nos p pp vol fig b c d ca jan feb mar apr jun jul aug sep sept oct nov dec".split())


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence, white space around it left out; together they cover all that is not white space.

    A sentence ends at . ! ? before white space and no lower-case letter, unless the full stop belongs to an
    abbreviation or an initial; at an empty line; before a list item; and at the full stop of Chinese and Japanese.
    """
    spans, start = [], 0
    for found in _BREAK.finditer(text):
        if found["mark"] and not _ends_here(text, found):
            continue
        spans.append((start, found.end()))
        start = found.end()
    spans.append((start, len(text)))
    stripped = ((begin, end, text[begin:end]) for begin, end in spans)
    return [(begin + len(part) - len(part.lstrip()), begin + len(part.rstrip())) for begin, end, part in stripped
            if part.strip()]


def _ends_here(text: str, found: re.Match[str]) -> bool:
    following = text[found.end() : found.end() + 1]
    if following.islower():
        return False
    if found["mark"] != ".":
        return True
    word = _LAST_WORD.search(text, max(0, found.start() - 12), found.start())
    if word is None:
        return True
    last = word[0].lower()
    is_initial = len(last) == 1 and last.isalpha() and word[0].isupper()
    is_initials = "." in last and all(len(part) == 1 and part.isalpha() for part in last.split("."))
    return not (is_initial or is_initials or last in _TITLES or (last in _BEFORE_NUMBERS and following.isdigit()))
