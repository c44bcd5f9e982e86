"""The English Snowball stemmer of 2025 (Porter 2001, "Snowball: A language for stemming algorithms"), in plain Python.

Gives what the compiled stemmer inside tantivy gives (a test compares them on real vocabulary), so that every lexical
retriever speaks of the same terms, with or without that package.
"""

import re

_VOWELS = "aeiouy"
_DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
_VALID_LI = "cdeghkmnrt"
_EXCEPTIONS = {
    "skis": "ski", "skies": "sky", "idly": "idl", "gently": "gentl",
    "ugly": "ugli", "early": "earli", "only": "onli", "singly": "singl", "sky": "sky", "news": "news", "howe": "howe",
    "atlas": "atlas", "cosmos": "cosmos", "bias": "bias", "andes": "andes",
}  # fmt: skip
_AFTER_1A = {"inning", "outing", "canning", "herring", "earring", "evening", "proceed", "exceed", "succeed"}
_STEP2 = (
    ("ization", "ize"), ("ational", "ate"), ("fulness", "ful"), ("ousness", "ous"), ("iveness", "ive"),
    ("tional", "tion"), ("biliti", "ble"), ("lessli", "less"), ("ogist", "og"), ("entli", "ent"), ("ation", "ate"),
    ("alism", "al"),
    ("aliti", "al"), ("ousli", "ous"), ("iviti", "ive"), ("fulli", "ful"), ("enci", "ence"), ("anci", "ance"),
    ("abli", "able"), ("izer", "ize"), ("ator", "ate"), ("alli", "al"), ("bli", "ble"), ("ogi", "og"), ("li", ""),
)  # fmt: skip
_STEP3 = (
    ("ational", "ate"), ("tional", "tion"), ("alize", "al"), ("icate", "ic"), ("iciti", "ic"), ("ative", ""),
    ("ical", "ic"), ("ness", ""), ("ful", ""),
)  # fmt: skip
_STEP4 = (
    "ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ism", "ate", "iti", "ous", "ive", "ize", "ion",
    "al", "er", "ic",
)  # fmt: skip
_REGION = re.compile(f"[{_VOWELS}][^{_VOWELS}]")
_PREFIX = re.compile("gener|commun|arsen|past|univers|later|emerg|organ|inter")
_HAS_VOWEL = re.compile(f"[{_VOWELS}]")
_SHORT_END = re.compile(f"(?:^[{_VOWELS}][^{_VOWELS}]|[^{_VOWELS}][{_VOWELS}][^{_VOWELS}wxY]|^past)$")
_CONSONANT_Y = re.compile(f"(^|[{_VOWELS}])y")


def stem(word: str) -> str:
    """The stem of a lower-case word. Words of one or two letters and words of other scripts come back unchanged."""
    if len(word) <= 2:
        return word
    if word in _EXCEPTIONS:
        return _EXCEPTIONS[word]
    # from here on, Y is a y that acts as a consonant
    if "y" in word:
        word = _CONSONANT_Y.sub(r"\1Y", word)
    first, second = _regions(word)
    word = _step_1a(word)
    if word in _AFTER_1A:
        return word
    word = _step_1b(word, first)
    if word[-1:] in ("y", "Y") and len(word) > 2 and word[-2] not in _VOWELS:
        word = word[:-1] + "i"
    word = _step_2(word, first)
    word = _step_3(word, first, second)
    word = _step_4(word, second)
    return _step_5(word, first, second).replace("Y", "y")


def _regions(word: str) -> tuple[int, int]:
    """Where the regions R1 and R2 start: after the first non-vowel that follows a vowel, and the same again."""
    prefix = _PREFIX.match(word)
    found = prefix or _REGION.search(word)
    first = found.end() if found else len(word)
    found = _REGION.search(word, first)
    return first, found.end() if found else len(word)


def _step_1a(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and _HAS_VOWEL.search(word[:-2]):
        return word[:-1]
    return word


def _step_1b(word: str, first: int) -> str:
    for suffix in ("eedly", "eed"):
        if word.endswith(suffix):
            start = len(word) - len(suffix)
            return word[:start] + "ee" if start >= first else word
    for suffix in ("ingly", "edly", "ing", "ed"):
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            if suffix == "ing" and len(rest) == 2 and rest[1] == "y" and rest[0] not in _VOWELS:
                return rest[0] + "ie"
            return _after_removal(rest, first) if _HAS_VOWEL.search(rest) else word
    return word


def _after_removal(word: str, first: int) -> str:
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if word.endswith(_DOUBLES):
        # add, egg and off keep both letters
        return word if len(word) == 3 and word[0] in "aeo" else word[:-1]
    return word + "e" if first >= len(word) and _SHORT_END.search(word) else word


def _step_2(word: str, first: int) -> str:
    for suffix, replacement in _STEP2:
        if word.endswith(suffix):
            start = len(word) - len(suffix)
            refused = (suffix == "ogi" and word[start - 1 : start] != "l") or (
                suffix == "li" and word[start - 1 : start] not in tuple(_VALID_LI)
            )
            return word if start < first or refused else word[:start] + replacement
    return word


def _step_3(word: str, first: int, second: int) -> str:
    for suffix, replacement in _STEP3:
        if word.endswith(suffix):
            start = len(word) - len(suffix)
            limit = second if suffix == "ative" else first
            return word[:start] + replacement if start >= limit else word
    return word


def _step_4(word: str, second: int) -> str:
    for suffix in _STEP4:
        if word.endswith(suffix):
            start = len(word) - len(suffix)
            refused = suffix == "ion" and word[start - 1 : start] not in ("s", "t")
            return word if start < second or refused else word[:start]
    return word


def _step_5(word: str, first: int, second: int) -> str:
    last = len(word) - 1
    if word.endswith("e"):
        if last >= second or (last >= first and not _SHORT_END.search(word[:-1])):
            return word[:-1]
    elif word.endswith("ll") and last >= second:
        return word[:-1]
    return word
