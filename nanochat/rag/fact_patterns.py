"""Patterns of sentences whose grammar is plain enough to turn into a question: who did what, when, where, how many."""

import re

from nanochat.rag.spans import MONTHS

_MONTH = f"(?:{'|'.join(MONTHS)})"
_DATE = rf"(?:\d{{1,2}} {_MONTH}(?: \d{{4}})?|{_MONTH} \d{{1,2}}(?:, \d{{4}})?|{_MONTH} \d{{4}}|(?:1\d|20)\d\d)"
# "J. Edgar Hoover", "U.S. Steel": a full stop inside a name, never after it
_PART = r"(?:[A-Z]\.(?= [A-Z])|[A-Z](?:[\w'\u2019-]|\.(?=\w)|(?<=\.[A-Z])\.(?= [A-Z]))*)"
_NAME = rf"(?:{_PART}(?: (?:of |the |de |von |van )?{_PART}){{0,4}})"
_THE_NAME = rf"(?:the )?{_NAME}"
_NUMBER = r"\d(?:[\d,.]*\d)?(?![\d.,]*\d)"
_SMALL_NUMBERS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_AMOUNT = rf"(?P<answer>{_NUMBER}(?: (?:million|billion))?|{_SMALL_NUMBERS})"
_ABOUT = "(?:about |around |approximately |nearly |over |more than |some |roughly |at least |currently |only )?"
_UNITS = "percent|km|kilometres|kilometers|miles|metres|meters|feet|square miles"

_SUBJECT = r"(?P<subject>(?:The |An? )?[A-Z\d][^,;:()?!\"\u201c]{1,70}?)"
_PLAIN_SUBJECT = rf"(?P<subject>{_NAME}|[Tt]he [^,;:()?!\"]{{2,50}}?)"
_DONE = r"(?P<done>[a-z]+(?:ed|wn|ld|lt|nt|nd|ght|en|un|ught|ut|et|ad))"
_SURELY_DONE = r"(?P<done>[a-z]+(?:ed|wn|ilt|ent|ught|eft|old|ound|ken|ten|sen|rn))"
_DONE_BY = (
    "written|built|designed|founded|invented|discovered|created|directed|composed|painted|developed|introduced|named"
    "|led|owned|published|produced|killed|defeated|established|governed|elected|appointed|commissioned|funded|caused"
    "|operated|run|coined|formulated|proposed|organised|organized|edited|sung|played|hosted|won|ruled|captured|conquered"
    "|destroyed"
)
_PAST = (
    "[a-z]{2,}(?:ed|ew|ought|aught)|became|began|broke|built|came|chose|died|fell|found|gave|held|led|left|lost|made"
    "|met|ran|rose|sent|set|shot|sold|stood|struck|took|went|won|wrote|overthrew|arose|fought|spoke|sang"
)
_DID = (
    "wrote|invented|discovered|founded|directed|designed|composed|painted|led|defeated|won|proposed|published|developed"
    "|introduced|created|built|became|established|succeeded|conquered|played|coined|produced|signed|commanded|opened"
    "|married|named|released|recorded|performed|described"
)
_REST = r"(?P<rest>(?: [^,;:()?!]{1,60}?)?)"

# where a clause ends: with its sentence, or at a comma after which another part begins
_AFTER_COMMA = "and|but|which|who|where|when|while|with|after|before|although|though|making|the|an?|[a-z]+ing"
_CLAUSE = rf"(?=\.?[\"'\u201d]?$|;|, (?:{_AFTER_COMMA})\b)"
_WORDS_AFTER = "in|on|at|as|for|from|after|during|who|where|to|by"
# a list of names is more than the first of them
_NO_LIST = rf"(?=\.?[\"'\u201d]?$|;|,(?! (?:and |or |the )?[A-Z\d])|\s(?:{_WORDS_AFTER})\b)"
_STOP = r"(?=[.,;]|\s(?:and|by|in|at|with|for|as|when|after|to|on|under|following|during)\b|$)"

# "The Velda Bridge was first opened by Odessa Crane in 1843"
PASSIVE_DATE = re.compile(
    rf"{_SUBJECT} (?P<verb>was|were) (?P<adverb>(?:first|originally|officially|finally|later) )?{_DONE}"
    r"(?P<rest>(?: (?:by|in|at|to|as|into|for|from) (?:the )?[A-Z][^,;:()?!]{1,50}?)?)"
    rf" (?:in|on) (?P<answer>{_DATE}){_STOP}"
)
# "Tales of Brin was written by Odessa Crane"
PASSIVE_BY = re.compile(
    rf"{_SUBJECT} (?P<verb>is|are|was|were) (?P<done>{_DONE_BY}) by (?P<answer>{_THE_NAME}){_NO_LIST}"
)
# "Velda Marsik died in 1911"
ACTIVE_DATE = re.compile(rf"{_PLAIN_SUBJECT} (?P<did>{_PAST}){_REST} (?:in|on) (?P<answer>{_DATE}){_CLAUSE}")
# "In 1843, Velda Marsik sold the mill", "On 3 May 1911 the mill was sold"
FRONTED_DATE = re.compile(
    rf"(?:In|On) (?P<answer>{_DATE}),? {_PLAIN_SUBJECT}"
    rf" (?:(?P<verb>was|were) {_SURELY_DONE}|(?P<did>{_PAST})){_REST}{_CLAUSE}"
)
# "Torvik Works is located in Ralgard"
PLACE = re.compile(
    rf"{_SUBJECT} (?P<verb>is|are|was|were)"
    r" (?P<done>located|situated|born|headquartered|buried|held|found|based) (?:in|at|on|near)"
    rf" (?P<answer>{_THE_NAME}(?:, {_NAME})?){_NO_LIST}"
)
# "Torvik Works has 140 employees"
COUNT = re.compile(
    rf"{_SUBJECT} (?P<verb>has|have|had|contains|contain|contained|includes|included|employs|employed|covers)"
    rf" {_ABOUT}{_AMOUNT}"
    r" (?P<things>[a-z][a-z-]*(?: [a-z][a-z-]*)?s)(?=[.;]|,(?! and)|\s(?:in|on|at|with|from)\b|$)"
)
# "There are four bridges in Ralgard"
THERE = re.compile(
    rf"There (?P<verb>are|were) {_ABOUT}{_AMOUNT} (?P<things>[a-z][a-z-]*(?: [a-z][a-z-]*){{0,2}})"
    rf" (?P<rest>(?:in|on|at|of|within) (?P<subject>{_THE_NAME})){_NO_LIST}"
)
# "The capital of Ralgard is Brinmoor", "The population of Ralgard was 12,400"
THE_OF = re.compile(
    rf"The (?P<thing>(?:[a-z-]+ ){{1,3}}(?:of|in|for) (?P<subject>{_THE_NAME})) (?P<verb>is|was|are|were)"
    r" (?:now |then |currently |about |approximately |around |estimated at |called |known as |named )?"
    rf"(?P<answer>{_THE_NAME}|[$\u20ac\u00a3]?{_NUMBER}(?:%| (?:million|billion|{_UNITS}))?){_NO_LIST}"
)
# "Velda Marsik discovered the Torvik Comet"
WHO = re.compile(
    rf"(?P<answer>[A-Z][a-z]+(?: (?:[A-Z]\.|[A-Z][a-z]+|de|von|van)){{1,3}}) (?P<did>{_DID})"
    rf" (?P<rest>[^,;:()?!]{{8,80}}?){_CLAUSE}"
)
