"""When, where, who and how many: questions from sentences whose grammar is plain enough to turn around."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from nanochat.rag import fact_patterns as patterns
from nanochat.rag.drafts import Draft, lowered
from nanochat.rag.layout import Page
from nanochat.rag.rules_names import NO_SUBJECTS
from nanochat.rag.spans import FUNCTION, MONTHS, Vocabulary, names_nothing
from nanochat.rag.verbs import base_form

MAX_SUBJECT_WORDS = 7

_Match = re.Match[str]
# verbs that say enough without an object: "When did X die?"
_ALONE = frozenset(
    """
    arrive begin close collapse debut die disband end escape explode graduate happen leave merge occur open premiere
    resign retire return start surrender
    """.split()
)
_COUNTS = frozenset("three four five six seven eight nine ten eleven twelve hundreds thousands millions".split())
_LARGE = frozenset("million billion hundred thousand".split())
_VAGUE = frozenset("kinds types ways reasons things".split())
# words that end like a past tense, or begin a passive
_NOT_PAST = frozenset(
    "united indeed need needed hundred used based located situated called named known related limited followed".split()
)
_NO_PERSONS = re.compile(
    r"\b(?:University|Company|Corporation|Street|City|County|River|Island|Museum|College|Institute|School|Church|War"
    r"|Party|Empire|Kingdom|Republic|Council|League|Union|Army|Navy|Records|Pictures|Studios|Press|Times|State|States|North"
    r"|South|East|West|Park|Lake|Mount|Bay|Act|Club|Band|Team|New|Great|Air|Force|Court|House|Group|Society|Association"
    r"|Bank)\b"
)
_BASE = {"has": "have", "had": "have", "contains": "contain", "contained": "contain", "includes": "include",
         "included": "include", "employs": "employ", "employed": "employ", "covers": "cover"}
_VERBS = re.compile(
    r"\b(?:is|are|was|were|has|have|had|that|which|who|whom|can|could|will|would|may|might|must|should|do|does|did|said"
    r"|says|when|where|if|because|than|as|there|not|it|he|she|they|we|this|these|his|her|its|their|one|some|both|each"
    r"|such|other|another)\b", re.I,
)
_UNFINISHED = re.compile(r"\d|\band\b|\bto\b|\bhim\b|\bthem\b|\bsame\b|\b(?:in|the|a|of)\s*$")


def fact(page: Page, vocabulary: Vocabulary) -> Iterator[Draft]:
    """Dates, places, doers and counts of sentences that begin with their subject or with a date."""
    if not page.is_english:
        return
    for start, end in page.sentences:
        for pattern, turn in _TURNS:
            found = pattern.match(page.content, start, end)
            draft = turn(found, vocabulary) if found else None
            if draft is not None:
                answer = draft_answer(page, draft)
                # the full stop of a sentence is no part of a name; that of an initial is
                has_stop = answer[-1] == "." and len(answer.split()[-1]) > 2 and draft.end >= end - 1
                yield replace(draft, end=draft.end - has_stop)
                break


def draft_answer(page: Page, draft: Draft) -> str:
    """The answer of a draft as it stands in the document."""
    return page.content[draft.start : draft.end]


def _passive_date(found: _Match, vocabulary: Vocabulary) -> Draft | None:
    subject = _subject(found["subject"], vocabulary)
    done = f"{found['adverb'] or ''}{found['done']}{found['rest']}"
    return _draft(found, f"When {found['verb']} {subject} {done}?", subject) if subject else None


def _passive_by(found: _Match, vocabulary: Vocabulary) -> Draft | None:
    subject = _subject(found["subject"], vocabulary)
    return _draft(found, f"Who {found['verb']} {subject} {found['done']} by?", subject) if subject else None


def _active_date(found: _Match, vocabulary: Vocabulary) -> Draft | None:
    subject = _subject(found["subject"], vocabulary)
    base = "" if found["did"] in _NOT_PAST else base_form(found["did"], vocabulary.lower)
    if not subject or not base or not _is_rest(found["rest"]) or not (found["rest"] or base in _ALONE):
        return None
    return _draft(found, f"When did {subject} {base}{found['rest']}?", subject)


def _fronted(found: _Match, vocabulary: Vocabulary) -> Draft | None:
    if found["did"]:
        return _active_date(found, vocabulary)
    subject = _subject(found["subject"], vocabulary)
    if not subject or not _is_rest(found["rest"]):
        return None
    return _draft(found, f"When {found['verb']} {subject} {found['done']}{found['rest']}?", subject)


def _place(found: _Match, vocabulary: Vocabulary) -> Draft | None:
    subject = _subject(found["subject"], vocabulary)
    if not subject or found["answer"].removeprefix("the ").split()[0] in MONTHS:
        return None
    return _draft(found, f"Where {found['verb']} {subject} {found['done']}?", subject)


def _count(found: _Match, vocabulary: Vocabulary) -> Draft | None:
    subject, verb, things = _subject(found["subject"], vocabulary), found["verb"], found["things"]
    if not subject or things.split()[0] in FUNCTION | _LARGE or things.endswith("ss"):
        return None
    helper = "did" if verb.endswith("ed") or verb == "had" else "do" if verb in ("have", "contain") else "does"
    return _draft(found, f"How many {things} {helper} {subject} {_BASE.get(verb, verb)}?", subject)


def _there(found: _Match, vocabulary: Vocabulary) -> Draft | None:
    words = found["things"].split()
    is_plural = words[-1].endswith("s") or words[-1] in ("people", "children")
    if not is_plural or set(words) & (FUNCTION | _LARGE | _VAGUE):
        return None
    return _draft(found, f"How many {found['things']} {found['verb']} there {found['rest']}?", found["subject"])


def _the_of(found: _Match, vocabulary: Vocabulary) -> Draft | None:
    is_named = any(word[0].isupper() and vocabulary.is_name(word) for word in found["subject"].split())
    # "the largest schools of X are Y": one name is seldom all of them
    is_list = found["verb"] in ("are", "were") and not found["answer"][0].isdigit()
    # "The best in Ralgard": of what kind, the sentence does not say
    is_nothing = names_nothing(re.split(r" (?:of|in|for) ", found["thing"], maxsplit=1)[0])
    if not is_named or is_list or is_nothing or _VERBS.search(found["thing"]) or found["thing"].split()[0] in FUNCTION:
        return None
    return _draft(found, f"What {found['verb']} the {found['thing']}?", found["subject"])


def _who(found: _Match, vocabulary: Vocabulary) -> Draft | None:
    names = [word for word in found["answer"].replace(".", "").split() if word[0].isupper() and len(word) > 1]
    if names_nothing(found["answer"]) or _NO_PERSONS.search(found["answer"]):
        return None
    if not all(map(vocabulary.is_name, names)):
        return None
    rest = found["rest"]
    # what was done must be named, or anybody could have done it
    if _VERBS.search(rest) or not any(word[0].isupper() for word in rest.split()) or re.search(r"\band\b", rest):
        return None
    return _draft(found, f"Who {found['did']} {rest}?", "")


def _draft(found: _Match, question: str, subject: str) -> Draft:
    return Draft("fact", " ".join(question.split()), *found.span("answer"), subject)


def _is_rest(words: str) -> bool:
    """Whether what follows the verb reads as one piece: no second clause, no other date, nothing that points back."""
    return not _VERBS.search(words) and not _UNFINISHED.search(words)


def _subject(words: str, vocabulary: Vocabulary) -> str:
    """The subject within a question; "" where it says too little by itself or may be more than a subject."""
    parts = words.split()
    if names_nothing(words) or not 1 <= len(parts) <= MAX_SUBJECT_WORDS:
        return ""
    if _VERBS.search(words) or parts[0][0].isdigit():
        return ""
    if parts[0].lower() in (NO_SUBJECTS | _COUNTS) - {"a", "an"} or parts[0].endswith(("ly", "ing")):
        return ""
    names = parts[1:] if parts[0] in ("The", "A", "An") else parts
    is_named = any(part[0].isupper() and vocabulary.is_name(part.strip("'\".")) for part in names)
    return lowered(" ".join(parts), vocabulary) if is_named else ""


# the first that matches a sentence and gives a question counts
_TURNS: tuple[tuple[re.Pattern[str], Callable[[_Match, Vocabulary], Draft | None]], ...] = (
    (patterns.PASSIVE_DATE, _passive_date), (patterns.PASSIVE_BY, _passive_by), (patterns.FRONTED_DATE, _fronted),
    (patterns.ACTIVE_DATE, _active_date), (patterns.PLACE, _place), (patterns.COUNT, _count),
    (patterns.THE_OF, _the_of), (patterns.THERE, _there), (patterns.WHO, _who),
)
