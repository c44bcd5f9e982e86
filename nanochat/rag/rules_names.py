"""Questions about what things are: definitions, and what abbreviations stand for."""

import re
from collections.abc import Iterator

from nanochat.rag.drafts import Draft, lowered, says_something
from nanochat.rag.layout import Page
from nanochat.rag.spans import Vocabulary, names_nothing
from nanochat.retrieval.words.analysis import analyze

MAX_SUBJECT_WORDS = 6
MAX_ANSWER_WORDS = 22

_DEFINED = re.compile(
    r"(?P<subject>[A-Z][^,;:()?!\"\u201c]{1,70}?)(?P<aside> \([^)]{1,60}\)|, (?:also |often |sometimes |commonly )*"
    r"(?:known as|called|abbreviated|or) [^,]{2,60},)? (?P<verb>is|are|was|were|refers? to|means) "
    r"(?P<answer>(?:an? |the |one of )?[a-zA-Z][^;:?!]*)"
)
_ARTICLE = re.compile(r"(?:an?|the|one of)\s")
_END = re.compile(
    r",\s|\s?[\u2013\u2014]\s?|\s-\s|\s?\(|;|\s(?:where|although|while|whereas|but|because|so that|not only)\s"
)
# what may follow a comma after a whole description
_AFTER = re.compile(r"(?:which|who|whose|where|although|while|but|with|located|known|\w+(?:ed|ing))\b")
# a first word that makes the subject no name of a thing
NO_SUBJECTS = frozenset(
    """
    a about above according after all also although among an and another any as at because before below besides both but
    by certain despite despite during each early either every few finally first for from given he hence her here his
    how however i if in instead it its last later like many more most much my neither next no none nor not now of often
    on once one only or other others our over people second several she since so some such than that their then there
    these they third this those though thus to today two under unlike until various we what when where which while who
    why with within without yes yet you your
    """.split()
)
_VERBS = re.compile(r"\b(?:is|are|was|were|has|have|had|that|which|who|whom|can|could|will|would|may|might|must|should"
                    r"|do|does|did|said|says|when|where|if|because|than|as|there|not|and|or)\b")
_RELATIVES = re.compile(r"\b(?:he|she|it|they|this|these|those|his|her|its|their|i|we|you|my|your|our)\b", re.I)
_PERSON = re.compile(
    r"\b(?:actor|actress|architect|artist|athlete|author|bishop|businessman|chemist|coach|composer|dancer|diplomat"
    r"|director|economist|emperor|engineer|explorer|footballer|general|historian|inventor|journalist|judge|king|lawyer"
    r"|leader|mathematician|monk|musician|novelist|officer|painter|philosopher|photographer|physician|physicist|pilot"
    r"|player|poet|politician|pope|president|priest|prince|princess|producer|professor|psychologist|queen|rapper|saint"
    r"|scholar|scientist|sculptor|singer|soldier|songwriter|statesman|theologian|writer|man|woman|boy|girl|founder"
    r"|son|daughter|wife|husband|brother|sister|youth|child|servant|knight|minister|senator"
    r"|governor|teacher|sailor|merchant|doctor|nurse)\b"
)
_RANKS = re.compile(
    r"(?:most|least|best|worst|largest|smallest|biggest|first|second|third|last|only|main|same|one|result|case|reason|way"
    r"|example|number|fact|right|left|rest|next|question|time|end|beginning|problem|kind)\b"
)
_EMPTY = re.compile(
    r"(?:an?|the) (?:\w+ )?(?:condition|disorder|disease|syndrome|group|type|form|kind|person|thing|place)"
)
_PLAIN = re.compile("an? |that |the (?:act|process|study|part|ability) ")
_WEAK = re.compile(
    r"(?:an? |the )(?:\w+ )?(?:subject|target|point|candidate|site|inspiration|factor|matter|part|source|member|symbol"
    r"|sign"
    r"|favou?rite|key|major|common|popular|important|integral|dominant|significant|contemporary|concern|success|failure"
    r"|priority|requirement|challenge|feature|leader|issue|component|result|response|step|goal|focus|topic|lot|bit|few"
    r"|large|small|objective|business|example|classic|long-term|difficult|thing|land|good|bad|great|big|high|low|little"
    r"|possible|potential|new|similar|different|better|more|less|very)\b"
)
_SHORT = re.compile(r"(?<=[a-z\d]) \(([A-Z][A-Za-z]{0,6}[A-Z])s?\)")
_BEFORE = re.compile(r"(?:[A-Za-z][\w'-]*[ -]){0,8}[A-Za-z][\w'-]*\Z")
_SMALL = frozenset("of the and for in on to a an de la du".split())


def definition(page: Page, vocabulary: Vocabulary) -> Iterator[Draft]:
    """ "X is a ..." at the start of a sentence, where X is a name, the title, or a kind of thing."""
    if not page.is_english:
        return
    for start, end in page.sentences:
        found = _DEFINED.match(page.content, start, end)
        if not found or not says_something(" ".join(page.content[start:end].split()[:30])):
            continue
        subject, verb = " ".join(found["subject"].split()), found["verb"]
        place = _description(page, found.start("answer"), end)
        answer = page.content[place[0] : place[1]] if place else ""
        if place and _is_description(answer, verb) and _is_defined(subject, answer, page, vocabulary):
            is_title = set(analyze(subject)) == set(analyze(page.title))
            # of what is no topic only plain descriptions are asked for: "a ...", not "the site of ..."
            if is_title or (_PLAIN.match(answer) and not _WEAK.search(answer)):
                yield Draft("definition", _ask(subject, verb, answer, vocabulary), *place, lowered(subject, vocabulary))


def _description(page: Page, start: int, end: int) -> tuple[int, int] | None:
    """Where the description ends: with its sentence, or before what only adds to it; None where that is not plain."""
    last = _END.search(page.content, start, end)
    stop = last.start() if last else end
    if last and last[0].startswith(",") and not _AFTER.match(page.content, last.end(), end):
        return None
    if last and "(" in last[0]:
        closing = page.content.find(")", last.end(), end)
        if closing < 0 or page.content[closing + 1 : closing + 2] not in (".", ",", ";"):
            return None
    text = page.content[start:stop].rstrip(" .!\"'\u201d\u2019")
    is_empty = bool(_EMPTY.fullmatch(text))
    return (start, start + len(text)) if 3 <= len(text.split()) <= MAX_ANSWER_WORDS and not is_empty else None


def _is_description(answer: str, verb: str) -> bool:
    if verb in ("is", "was", "are", "were"):
        article = _ARTICLE.match(answer)
        # "are used in": without an article only plurals describe, and they are hard to tell from participles
        if article is None or _RANKS.match(answer[article.end() :].split(" ", 1)[0]):
            return False
    return not _RELATIVES.search(answer)


def _is_defined(subject: str, answer: str, page: Page, vocabulary: Vocabulary) -> bool:
    """Whether the subject names something by itself: the title, a proper name, or "a kettle" of a general statement."""
    words = subject.split()
    if not {"term", "word", "itself", "A", "An"}.isdisjoint(words[1:]) or words[0] in ("Term", "Word"):
        return False
    if names_nothing(subject) or not 1 <= len(words) <= MAX_SUBJECT_WORDS:
        return False
    if _VERBS.search(subject) or _RELATIVES.search(subject):
        return False
    if set(analyze(subject)) & set(analyze(answer)) == set(analyze(subject)):
        return False
    bare = subject.split(" ", 1)[-1] if words[0] in ("The", "A", "An") else subject
    terms = set(analyze(bare))
    if terms and terms == set(analyze(page.title)):
        return True
    if words[0] in ("A", "An"):
        return len(words) <= 4 and any(map(vocabulary.is_rare, terms))
    if words[0].lower() in NO_SUBJECTS:
        return False
    if words[0] == "The":
        return len(words) > 2 and all(
            word[0].isdigit() or word[0].isupper() and vocabulary.is_name(word) for word in words[1:])
    is_named = all(word[0].isupper() or word in _SMALL for word in words) and vocabulary.is_name(words[0])
    return is_named or (len(words) <= 3 and words[-1].islower() and any(map(vocabulary.is_rare, terms))
                        and " of " not in subject and not subject.endswith("ly"))


def _ask(subject: str, verb: str, answer: str, vocabulary: Vocabulary) -> str:
    inside = lowered(subject, vocabulary)
    if verb.startswith("refer"):
        return f"What does {inside} refer to?" if verb.endswith("s to") else f"What do {inside} refer to?"
    if verb == "means":
        return f"What does {inside} mean?"
    head = re.split(r" (?:of|in|who|whose|that|from|for|at|to|on|by|with|which|open)\b", answer, maxsplit=1)[0]
    if verb in ("is", "was") and inside[0].isupper():
        if _PERSON.search(head):
            return f"Who {verb} {inside}?"
        if verb == "was":
            return f"Who or what was {inside}?"
    return f"What {verb} {inside}?"


def abbreviation(page: Page, vocabulary: Vocabulary) -> Iterator[Draft]:
    """ "Long Name (LN)", where the letters are the initials of the last words before the bracket."""
    if not page.is_english:
        return
    for found in _SHORT.finditer(page.content):
        before = _BEFORE.search(page.content[max(0, found.start() - 120) : found.start()])
        letters = found[1].lower()
        words = list(re.finditer(r"[A-Za-z][\w']*", before[0])) if before else []
        for first in range(len(words) - 1, -1, -1):
            chosen = [word[0].lower() for word in words[first:]]
            initials = "".join(word[0] for word in chosen)
            strong = "".join(word[0] for word in chosen if word not in _SMALL)
            if letters in (initials, strong) and chosen[0] not in _SMALL:
                start = found.start() - len(before[0]) + words[first].start()
                yield Draft("abbreviation", f"What does {found[1]} stand for?", start, found.start(), found[1])
                break
