"""The table of checks: what each finds, how bad that is, and what to do about it."""

from collections.abc import Callable

from nanochat.retrieval.linting import characters, debris, languages, privacy, questions, repeats, sizes, titles
from nanochat.retrieval.linting.findings import CheckKind, Look, Setup, Severity


def _kind(severity: Severity, make: Callable[[Setup], Look], meaning: str, advice: str) -> CheckKind:
    return CheckKind(severity=severity, make=make, meaning=meaning, advice=advice)


_REMOVE = "remove it, or make sure that everybody who can search may read it"
_FIX = "--fix repairs it"

# name -> kind; a new check is one function and one line here
CHECKS: dict[str, CheckKind] = {
    "repeated_id": _kind("error", repeats.repeated_id, "the id of an earlier document", "give each its own id"),
    "payment_card": _kind("error", privacy.personal("payment_card"), "payment card numbers", _REMOVE),
    "iban": _kind("error", privacy.personal("iban"), "bank account numbers (IBAN)", _REMOVE),
    "social_security_number": _kind("error", privacy.personal("social_security_number"),
                                    "numbers written like US social security numbers", _REMOVE),
    "email": _kind("warning", privacy.personal("email"), "e-mail addresses of persons", _REMOVE),
    "phone": _kind("warning", privacy.personal("phone"), "phone numbers", _REMOVE),
    "evaluation_question": _kind("warning", questions.evaluation_question, "evaluation questions in the text",
                                 "take these documents out, or ask other questions: the test measures nothing"),
    "too_long": _kind("warning", sizes.too_long, "too many words to be read in one go",
                      "split them: --chunk_words 80 when building"),
    "no_content": _kind("warning", sizes.no_content, "nothing to find: a placeholder, an error page, a word or two",
                        "remove them"),
    "no_title": _kind("warning", titles.no_title, "no title", "--fix takes the first heading or line"),
    "unclear_title": _kind("warning", titles.unclear_title, "a title that says nothing", "say what it is about"),
    "duplicate": _kind("warning", repeats.duplicate, "the content of an earlier document",
                       "keep one of them; --fix does where the titles are equal, too"),
    "near_duplicate": _kind("warning", repeats.near_duplicate, "nearly the content of an earlier document",
                            "keep the newer one: both take places among the results"),
    "mixed_languages": _kind("warning", languages.mixed_languages, "more than one language", "one language a document"),
    "mojibake": _kind("warning", characters.mojibake, "text read in the wrong encoding", _FIX),
    "lost_characters": _kind("warning", characters.lost_characters, "characters that were lost",
                             "convert the file anew"),
    "control_characters": _kind("warning", characters.control_characters, "invisible or control characters", _FIX),
    "markup": _kind("warning", debris.markup, "HTML tags or entities", "convert the page anew, as a .html file"),
    "encoded_data": _kind("warning", debris.encoded_data, "encoded data, such as images in base64", "remove it"),
    "punctuation_runs": _kind("warning", debris.punctuation_runs, "dotted lines or runs of signs", "remove them"),
    "repeated_lines": _kind("warning", debris.repeated_lines, "header or footer lines of pages", "remove them"),
    "cut_words": _kind("warning", debris.cut_words, "words cut at line ends", "join them: a search misses both halves"),
    "too_short": _kind("info", sizes.too_short, "few words", "put facts about one thing into one document"),
    "repeated_title": _kind("info", titles.repeated_title, "the title of an earlier document",
                            "say in the title what is different"),
    "public_contact": _kind("info", privacy.public_contact, "addresses of offices, toll-free numbers",
                            "mostly harmless"),
    "reserved_tokens": _kind("info", characters.reserved_tokens, "text that looks like a token of a chat format",
                             "harmless here: a tokenizer of this project reads it as plain text"),
}
