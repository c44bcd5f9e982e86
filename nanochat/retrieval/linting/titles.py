"""Checks of titles: missing ones, ones that say nothing, and ones that several documents share."""

import re

from nanochat.retrieval.linting.findings import Look, Setup, View, excerpt

_WHAT = (
    r"(?:(?:microsoft|ms|google|new|my|the) )*(?:word |excel |powerpoint |text |pdf )?"
    r"(?:document|doc|file|page|sheet|slide|presentation|workbook|spreadsheet|book|chapter|section|part|item|article|"
    r"entry|record|note|scan|image|photo|picture|screenshot|figure|table|attachment|post|text)"
)
_UNCLEAR = re.compile(
    # Untitled, Untitled-3, (no title), New Microsoft Word Document (2), Document1, page 3, Scan_0042, Slide 7 of 20
    rf"\W*(?:untitled(?:[ _-]*{_WHAT})?|no title|without title|title|unbenannt|sans titre|sin t[ií]tulo|{_WHAT})"
    r"[\s_#.\-]*(?:no\.? ?)?(?:\(?\d{1,8}\)?(?: ?(?:of|/) ?\d+)?|[ivxlc]{1,6}|copy)?\W*"
    # words that name a place in every collection
    r"|[\s\-*#_=.:|>]*(?:home ?page|home|index|welcome|contents?|table of contents|readme|read me|introduction|"
    r"overview|summary|main|default|draft|copy|backup|final|misc(?:ellaneous)?|other|unknown|n/?a|none|null|nan|undefined|tbd|todo|test|"
    r"example|sample|blank|empty|click here|read more|details|back|next|log ?in|sign ?in|abstract|"
    r"corresponding authors?)\W*"
    # file names, addresses, ids
    r"|[^\n]{1,200}\.(?:pdf|docx?|odt|rtf|txt|mdx?|x?html?|xlsx?|pptx?|csv|tsv|jsonl?|xml|ya?ml|png|jpe?g|tiff?|gz|zip)"
    r"|(?:https?://|www\.|file:)\S+|[a-z]:\\[^\n]*"
    r"|(?:img|dsc|scan|doc|page|file)[_\-]?\d{2,}\w*"
    r"|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{12,64}"
    r"|\W+",
    re.IGNORECASE,
)
# a number alone says nothing, unless it may be a year
_NUMBER = re.compile(r"\W*(?!(?:1\d{3}|20\d\d)\W*\Z)[\d.,\-/ ]+\W*")
_MAX_TITLE_CHARS = 300


def is_unclear(title: str) -> bool:
    """Whether a title that is not empty tells nothing about its document."""
    title = title.strip()
    return bool(_UNCLEAR.fullmatch(title[:400]) or _NUMBER.fullmatch(title[:400]) or len(title) > _MAX_TITLE_CHARS)


def no_title(setup: Setup) -> Look:
    def look(view: View) -> str:
        if view.title.strip() or not view.speaks_for_document:
            return ""
        return excerpt(view.content, around=80) or "(nothing)"
    return look


def unclear_title(setup: Setup) -> Look:
    def look(view: View) -> str:
        if not view.title.strip() or not view.speaks_for_document or not is_unclear(view.title):
            return ""
        return f'"{excerpt(view.title, around=80)}"'
    return look


def repeated_title(setup: Setup) -> Look:
    """Names every document whose title an earlier one has."""
    first: dict[str, str] = {}

    def look(view: View) -> str:
        title = " ".join(view.title.casefold().split())
        if not title or not view.speaks_for_document:
            return ""
        earlier = first.setdefault(title, view.whole_id)
        return "" if earlier == view.whole_id else f'"{excerpt(view.title, around=80)}", as {earlier}'
    return look
