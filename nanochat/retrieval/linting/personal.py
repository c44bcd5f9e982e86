"""Personal data in a text: e-mail addresses, phone numbers, payment cards, bank accounts, social security numbers.

Numbers count only where their own checks hold (Luhn, ISO 7064, prefixes, lengths) or their writing leaves no doubt.
"""

import re
from collections.abc import Callable, Iterator

Span = tuple[int, int]

_EMAIL = re.compile(
    r"(?<![\w.%+'-])([A-Za-z0-9][\w.%+'-]{0,63})@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24})"
    r"(?![\w@-]|:[\w~./-]+/)"
)
# seven digits with at most two signs between them: without such a run there is no number to find
_DIGITS = re.compile(r"\d(?:[ .\-/()\u00a0\u2010-\u2013]{0,2}\d){6}")
_AROUND = 60
_NO_DOMAINS = frozenset("png jpg jpeg gif svg webp css js py ts html local localhost".split())
_ROLES = frozenset(
    "info contact support help helpdesk service sales office mail admin webmaster postmaster hostmaster press media "
    "hello team noreply no-reply donotreply do-not-reply feedback enquiries inquiries customerservice custserv abuse "
    "security privacy legal jobs careers hr marketing billing orders accounts reception kontakt presse".split()
)

# + and a country, then digits with at most two signs between them
_INTERNATIONAL = re.compile(r"(?<![\w+.=/])\+[1-9](?:[ .\-/()\u00a0\u2010-\u2013]{0,2}\d){7,14}(?![\w%]|[.,]\d)")
_AMERICAN = re.compile(
    r"(?<![\w.+/#=:,-])(?:1[-. ])?(?:\(([2-9]\d{2})\)[ \-.]?|([2-9]\d{2})([-.]))[2-9]\d{2}(?:[-.]| (?=\d{4}\b))\d{4}"
    r"(?![\w-]|[./]\d)"
)
_CUED = re.compile(
    r"\b(?:tel(?:ephone|efon|\u00e9fono|\u00e9phone)?|phone|fax|mobile|mobil|cell(?:phone)?|handy|whatsapp|t\u00e9l|"
    r"call (?:us|me|him|her|them)|reach (?:us|me|him|her|them)|hotline)\b\.?\s*(?:(?:number|no|nr)\b\.?)?\s*"
    r"(?:is|at|on|under)?\s*[:=#]?\s*"
    r"(?P<number>(?:\+|\b|\()\d(?:[ .\-/()\u00a0\u2010-\u2013]{0,2}\d){6,14})(?![\w%]|[.,]\d)",
    re.IGNORECASE,
)
_COORDINATES = re.compile(r"\+\d{1,3}\.\d{3,}")
_DATES = re.compile(
    r"(?:1[89]|20)\d\d\D{1,3}(?:1[89]|20)\d\d|(?:1[89]|20)\d\d[-./ ]\d\d?[-./ ]\d\d?"
    r"|\d\d?[-./]\d\d?[-./](?:1[89]|20)\d\d"
)
_FREE = re.compile(r"\+?\D?1?\D?\(?8(?:00|33|44|55|66|77|88)\b|\+?\D?0800\b")

_CARD = re.compile(
    r"(?<![\w.,/=-])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5}|\d{14,19})"
    r"(?![\w-]|[.,/]\d)"
)

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_IBAN_LENGTHS = {
    word[:2]: int(word[2:]) for word in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 "
        "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 "
        "LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 "
        "SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20").split()
}
_SOCIAL = re.compile(r"(?<![\w.,/-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|[.,/]\d)")


def emails(text: str) -> Iterator[Span]:
    for found in _EMAIL.finditer(text):
        if found[2].rsplit(".", 1)[1].lower() not in _NO_DOMAINS and ".." not in found[1]:
            yield found.span()


def phones(text: str) -> Iterator[Span]:
    for found in _INTERNATIONAL.finditer(text):
        if not _COORDINATES.match(found[0]) and found[0].count("(") == found[0].count(")"):
            yield found.span()
    for found in _AMERICAN.finditer(text):
        yield found.span()
    for found in _CUED.finditer(text):
        if not _DATES.search(found["number"]):
            yield found.span("number")


def cards(text: str) -> Iterator[Span]:
    for found in _CARD.finditer(text):
        digits = found[0].replace(" ", "").replace("-", "")
        if _is_issued(digits) and luhn(digits):
            yield found.span()


def ibans(text: str) -> Iterator[Span]:
    for found in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(found[0][:2], 0)
        # what follows in capitals may have been taken along
        end, taken = found.start(), 0
        while taken < length and end < found.end():
            taken += text[end] != " "
            end += 1
        account = text[found.start() : end].replace(" ", "")
        if length and len(account) == length and not text[end : end + 1].isalnum() and iban_holds(account):
            yield found.start(), end


def social_security_numbers(text: str) -> Iterator[Span]:
    for found in _SOCIAL.finditer(text):
        yield found.span()


def luhn(digits: str) -> bool:
    """The check digit of payment cards (ISO 7812)."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def iban_holds(account: str) -> bool:
    """The check digits of a bank account number (ISO 7064, modulo 97)."""
    return int("".join(str(int(character, 36)) for character in account[4:] + account[:4])) % 97 == 1


def _is_issued(digits: str) -> bool:
    """Whether a card network gives out numbers with this beginning and length."""
    two, three, four, length = int(digits[:2]), int(digits[:3]), int(digits[:4]), len(digits)
    if len(set(digits)) < 2:
        return False
    if digits[0] == "4" or 51 <= two <= 55 or 2221 <= four <= 2720:
        return length == 16
    if two in (34, 37):
        return length == 15
    if two in (36, 38) or 300 <= three <= 305:
        return length == 14
    return 16 <= length <= 19 and (four == 6011 or two in (62, 65) or 644 <= three <= 649 or 3528 <= four <= 3589)


# in order of certainty: what is a bank account is no phone number
NUMBERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "iban": ibans, "payment_card": cards, "social_security_number": social_security_numbers, "phone": phones,
}


def is_public(text: str) -> bool:
    """Whether an e-mail address or phone number belongs to an office: info@, a toll-free number."""
    name, at, _ = text.partition("@")
    return name.lower() in _ROLES if at else bool(_FREE.match(text))


def find_personal(text: str) -> dict[str, list[Span]]:
    """Name of each kind of personal data in the text, and where it is; a place counts once."""
    found: dict[str, list[Span]] = {}
    if "@" in text:
        found["email"] = list(emails(text))
    taken: set[int] = set()
    for first, stop in _windows(text):
        for name, find in NUMBERS.items():
            spans = [(first + start, first + end) for start, end in find(text[first:stop])]
            spans = [span for span in spans if taken.isdisjoint(range(*span))]
            taken.update(place for span in spans for place in range(*span))
            found.setdefault(name, []).extend(spans)
    return {name: spans for name, spans in found.items() if spans}


def _windows(text: str) -> Iterator[Span]:
    """Pieces of the text around its runs of digits, wide enough for what may stand before and after them."""
    first = stop = -1
    for found in _DIGITS.finditer(text):
        if first >= 0 and found.start() - _AROUND <= stop:
            stop = found.end() + _AROUND
            continue
        if first >= 0:
            yield first, stop
        first, stop = max(0, found.start() - _AROUND), found.end() + _AROUND
    if first >= 0:
        yield first, stop


def mask(text: str) -> str:
    """The text, equally long, with stars in place of most of each piece of personal data."""
    for spans in find_personal(text).values():
        for start, end in spans:
            # the first character, the one after @ and the last two stay
            shown = {start, text.find("@", start, end) + 1 or start, end - 2, end - 1}
            hidden = "".join("*" if character.isalnum() and place not in shown else character
                             for place, character in enumerate(text[start:end], start))
            text = text[:start] + hidden + text[end:]
    return text
