"""Checks of length: documents too long to read in one go, too short to answer anything, or without content."""

import re

from nanochat.retrieval.linting.findings import Look, Setup, View, excerpt

_PLACEHOLDER = re.compile(
    r"\Alorem ipsum dolor|lorem ipsum dolor sit amet"
    r"|\A\W*(?:todo|tbd|to be (?:done|written|announced|determined)|n/?a|none|null|nan|undefined|test|content|"
    r"coming soon|under construction|(?:insert|add|your|enter) (?:text|content|description)(?: here)?|"
    r"no (?:content|description|text|data)(?: available)?)\W*\Z",
    re.IGNORECASE,
)
# what a web server or a browser says in place of the page; only short documents can be nothing but that
_ERROR_PAGE = re.compile(
    r"\b(?:40[134]|50[0234])\b[ :\-]{0,3}(?:not found|forbidden|unauthori[sz]ed|(?:internal )?server error|"
    r"bad gateway|service unavailable|gateway time-?out)|\bpage (?:was )?not found\b|\baccess (?:is )?denied\b"
    r"|(?:enable|turn on|requires?) javascript\b|javascript (?:is|to be) (?:disabled|enabled|required)"
    r"|(?:verify|checking) (?:that )?you are (?:a )?human|complete the captcha"
    r"|please (?:log|sign) in to (?:continue|view)"
    r"|subscribe to (?:continue|keep) reading|this (?:page|site) uses cookies",
    re.IGNORECASE,
)
_ERROR_PAGE_WORDS = 60


def too_long(setup: Setup) -> Look:
    return lambda view: f"{view.num_words:,} words" if view.num_words > setup.limits.max_words else ""


def too_short(setup: Setup) -> Look:
    def look(view: View) -> str:
        # passages end where their document ends
        if view.is_passage or not setup.limits.empty_words <= view.num_words < setup.limits.min_words:
            return ""
        return f"{view.num_words} words: {excerpt(view.content, around=80)}"
    return look


def no_content(setup: Setup) -> Look:
    def look(view: View) -> str:
        if view.num_words < setup.limits.empty_words and not view.is_passage:
            return excerpt(view.content, around=80) or "(nothing)"
        found = None
        if view.num_words <= _ERROR_PAGE_WORDS:
            found = _ERROR_PAGE.search(view.content) or _PLACEHOLDER.search(view.content)
        elif "orem ipsum" in view.content:
            found = _PLACEHOLDER.search(view.content)
        return excerpt(view.content, *found.span()) if found else ""
    return look
