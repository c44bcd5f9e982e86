"""Check for documents that contain evaluation questions: a test that is in the knowledge base measures nothing."""

from collections import Counter, defaultdict

from nanochat.retrieval.linting.findings import Look, NotRun, Setup, View
from nanochat.retrieval.linting.personal import mask
from nanochat.retrieval.words.analysis import spaced_words

_GRAM = 4


def _grams(words: list[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[place:] for place in range(_GRAM)), strict=False))


def evaluation_question(setup: Setup) -> Look:
    """Finds questions of which a document holds nearly all sequences of four words, the first and the last among them;
    case and punctuation do not count. A statement that answers the question has other words at one of its ends.
    """
    wanted: dict[str, list[tuple[str, ...]]] = {}
    for question in setup.questions:
        words = spaced_words(question).split()
        if len(words) >= setup.limits.question_words:
            wanted.setdefault(question, _grams(words))
    if not wanted:
        raise NotRun("no questions given: --questions FILE" if not setup.questions else
                     f"all questions have fewer than {setup.limits.question_words} words")
    shown, grams = list(wanted), list(wanted.values())
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, parts in enumerate(grams):
        for gram in set(parts):
            holders[gram].append(place)

    def look(view: View) -> str:
        common = holders.keys() & set(_grams(spaced_words(view.text).split()))
        held = Counter(place for gram in common for place in holders[gram])
        found = [
            place for place, count in held.items()
            if count >= setup.limits.question_share * len(set(grams[place]))
            and grams[place][0] in common and grams[place][-1] in common
        ]
        if not found:
            return ""
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return repr(mask(shown[min(found)].strip())[:120]) + more
    return look
