"""Checks for what converting a page leaves behind: markup, encoded data, page headers, dotted leaders, cut words."""

import re
from collections import defaultdict

from nanochat.retrieval.linting.findings import Look, Setup, View, excerpt

_TAGS = (
    "a|abbr|article|aside|body|br|button|center|cite|code|col|div|em|figure|font|footer|form|h[1-6]|head|header|hr|html|"
    "iframe|img|input|label|li|link|meta|nav|ol|option|pre|ref|script|section|select|small|span|strong|style|sub|sup|svg|"
    "table|tbody|td|th|thead|title|tr|ul"
)
_TAG = re.compile(
    rf"<(?:/(?:{_TAGS}|p|b|i)|(?:{_TAGS}|p)(?:\s+[\w:-]+\s*=\s*[\"'][^<>]{{0,300}})?\s*/?)>|<!--|<!DOCTYPE",
    re.IGNORECASE,
)
_ENTITY = re.compile(
    r"&(?:nbsp|amp|quot|lt|gt|apos|[mn]dash|[rl][sd]quo|hellip|copy|reg|trade|bull|middot|deg|times|euro|pound|"
    r"[aeiouAEIOU](?:acute|grave|uml|circ)|szlig|[cC]cedil|ntilde|#\d{2,6}|#[xX][0-9a-fA-F]{2,5});"
)
_CODE_ENDINGS = tuple(".py .js .ts .java .c .h .cpp .go .rs .sh .sql .rst .toml .yaml .yml".split())

_DATA_URI = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=])(?:[A-Za-z0-9+/]{60,76}\r?\n){2,}|(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{100,}")
_HEX = re.compile(
    r"(?<![0-9A-Za-z])(?=\d{0,40}[a-fA-F])(?=[a-fA-F]{0,40}\d)(?:[0-9a-f]{120,}|[0-9A-F]{120,})(?![0-9A-Za-z])"
)

# looking back keeps long runs of one sign linear
_LEADER = re.compile(
    r"(?<![._\u2026])(?<!\. )(?:\.{4,}|(?:\. ){4,}\.?|\u2026{2,}|_{4,}) {0,4}\d{1,4}[ \t]*$", re.MULTILINE
)
# signs that ruled lines, tables and gaps to fill in are made of are left out
_RUN = re.compile(r"([^\w\s\-=+|*#~^`_\u2500-\u257f\u2013-\u2015])(?:[ \t]?\1){9,}")

_CUT_WORD = re.compile(r"[^\W\d_]{2,}-\n[ \t]*[^\W\d_]{2,}")
_DIGITS = re.compile(r"\d+")
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_PAGE_NUMBER = r"(?:page|p\.|seite|p\u00e1gina|pagina|strona) ?\d{1,4}|\d{1,4} ?(?:of|/|von|sur) ?\d{1,4}"
_SAYS_PAGE = re.compile(rf"(?<!\w)(?:{_PAGE_NUMBER})(?!\w)", re.IGNORECASE)
_ONLY_PAGE = re.compile(rf"\W*(?:{_PAGE_NUMBER}|\d{{1,4}})\W*", re.IGNORECASE)
_NO_HEADER = re.compile(r"[\s>]*(?:[-*+|\u2022#=~^]|\d{1,3}[.)]\s|\.\.|:|@|//)")


def markup(setup: Setup) -> Look:
    """HTML tags and entities outside code; a single tag may be what the text is about."""
    def look(view: View) -> str:
        if ("<" not in view.content and "&" not in view.content) or _is_code(view):
            return ""
        tags = list(_TAG.finditer(view.prose)) if "<" in view.prose else []
        found = tags[0] if len(tags) >= 2 else _ENTITY.search(view.prose)
        return excerpt(view.prose, *found.span()) if found else ""
    return look


def encoded_data(setup: Setup) -> Look:
    def look(view: View) -> str:
        if view.longest_word < 60:
            return ""
        found = _DATA_URI.search(view.content) or _HEX.search(view.content)
        if not found:
            found = next((run for run in _BASE64.finditer(view.content) if _is_base64(run[0])), None)
        return excerpt(view.content, found.start(), found.start() + 40, around=20) if found else ""
    return look


def _is_base64(run: str) -> bool:
    # a path or a sequence of proteins has no such mixture
    kinds = (str.isdigit, str.islower, str.isupper)
    counts = [sum(map(kind, run)) for kind in kinds]
    return min(counts) >= 0.04 * len(run) and counts[2] >= 0.15 * len(run)


def punctuation_runs(setup: Setup) -> Look:
    """Dotted lines of a table of contents, and long runs of signs that are no ruled line."""
    def look(view: View) -> str:
        has_leaders = any(sign in view.content for sign in ("....", ". . .", "____", "\u2026\u2026"))
        leaders = list(_LEADER.finditer(view.content)) if has_leaders else []
        if len(leaders) >= 3:
            return excerpt(view.content, *leaders[0].span())
        if _is_code(view):
            return ""
        for run in _RUN.finditer(view.prose):
            # alone in its line it underlines a heading, or parts two sections
            if not (_starts_line(view.prose, run.start()) and view.prose[run.end() : run.end() + 1] in ("", "\n")):
                return excerpt(view.prose, *run.span())
        return ""
    return look


def _starts_line(text: str, place: int) -> bool:
    return place == 0 or text[place - 1] == "\n"


def repeated_lines(setup: Setup) -> Look:
    """Header and footer lines of pages: they count the pages, or stand beside a line that does."""
    def look(view: View) -> str:
        lines = [line for line in map(str.strip, view.prose.split("\n")) if line]
        if len(lines) < 12 or _is_code(view):
            return ""
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, line in enumerate(lines):
            if 5 <= len(line) <= 120 and not _NO_HEADER.match(line):
                places[_DIGITS.sub("0", line)].append(place)
        for shape, found in places.items():
            if len(found) < 3 or _least_gap(found) < 3 or shape.count("|") > 1:
                continue
            numbered = [lines[place] for place in found]
            # a line that is always the same is a header where it stands beside bare page numbers
            if len(set(numbered)) == 1 and len(shape.split()) >= 3 and _least_gap(found) >= 10:
                beside = [lines[max(0, place - 1) : place + 2] for place in found]
                numbered = [next(filter(_ONLY_PAGE.fullmatch, around), "") for around in beside]
            if _counts_pages(numbered):
                return f"{len(found)} times: {excerpt(lines[found[0]], around=80)}"
        return ""
    return look


def _least_gap(places: list[int]) -> int:
    return min(after - before for before, after in zip(places, places[1:], strict=False))


def _counts_pages(lines: list[str]) -> bool:
    """Whether one of the numbers in these lines goes up by one from line to line, as page numbers do."""
    # numbered headings ("Example 3") are shorter, and sentences have no number at an end
    line = lines[0]
    is_header = len(_LETTERS.findall(line)) >= 4 and (line[:1].isdigit() or line[-1:].isdigit())
    if not (is_header or _SAYS_PAGE.search(line) or all(map(_ONLY_PAGE.fullmatch, lines))):
        return False
    columns = zip(*([int(number) for number in _DIGITS.findall(line)[:8]] for line in lines), strict=False)
    return any(all(after - before == 1 for before, after in zip(column, column[1:], strict=False))
               for column in columns)


def cut_words(setup: Setup) -> Look:
    """Words cut at line ends, as columns of print have them; a search does not find them."""
    def look(view: View) -> str:
        if "-\n" not in view.content or _is_code(view):
            return ""
        found = list(_CUT_WORD.finditer(view.prose))
        return excerpt(view.prose, *found[0].span()) if len(found) >= 3 else ""
    return look


def _is_code(view: View) -> bool:
    return str(view.document.metadata.get("file", "")).lower().endswith(_CODE_ENDINGS)
