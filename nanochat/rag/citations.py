"""Sources for people: which documents an answer cites, and where in them, as text that any terminal can show."""

import unicodedata

from nanochat.rag.answer import Answer

SNIPPET_CHARS = 160
WORD_CHARS = 20  # how far from a cut a space is looked for
_KEPT = "\n\t"
# marks that change the reading direction can make a line show other words than it holds
_DIRECTION = {*"\u200e\u200f\u061c", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def printable(text: str) -> str:
    """Text without control characters, lone surrogates and direction marks: no escape sequence reaches a terminal."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c in _KEPT or not (c in _DIRECTION or unicodedata.category(c) in ("Cc", "Cs")))


def one_line(text: str) -> str:
    """Printable text with every run of white space as one space."""
    return " ".join(printable(text).split())


def snippet(content: str, answer: str, *, max_chars: int = SNIPPET_CHARS) -> str:
    """The part of a document's content around the answer's words, or its beginning, on one line."""
    content, answer = one_line(content), one_line(answer)
    if len(content) <= max_chars:
        return content
    found = content.lower().find(answer.lower()) if answer else -1
    start = max(0, found - max(0, max_chars - len(answer)) // 2) if found >= 0 else 0
    start = min(start, len(content) - max_chars)
    end = start + max_chars
    # words are shown whole where a space is near; not every script has spaces
    if start and (space := content.find(" ", start - 1, start + WORD_CHARS)) >= 0:
        start = space + 1
    if end < len(content) and (space := content.rfind(" ", end - WORD_CHARS, end + 1)) >= 0:
        end = space
    return ("... " if start else "") + content[start:end].strip() + (" ..." if end < len(content) else "")


def source_name(document: dict, number: int | None = None) -> str:
    """"[2] Title (id)"; without a number "Title (id)"; the id alone for a document without title."""
    title, id = one_line(document["title"]), one_line(document["id"])
    name = f"{title} ({id})" if title else id
    return name if number is None else f"[{number}] {name}"


def source_lines(answer: Answer) -> list[str]:
    """Cited documents with a snippet each, then one line that names the others."""
    words = answer.info.get("answer", "")
    lines = []
    for citation, document in zip(answer.citations, answer.cited, strict=True):
        lines += [f"  {source_name(document, citation['number'])}", f"      {snippet(document['content'], words)}"]
    if answer.uncited:
        lines.append(f"  also read: {', '.join(source_name(document) for document in answer.uncited)}")
    return lines
