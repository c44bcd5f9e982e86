"""Sources for people: which documents an answer cites, where in them it stands, and what the model did not see."""

import unicodedata

from nanochat.rag.answer import Answer
from nanochat.tokenizer import NUM_DOC_SLOTS

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
    """Cited documents with the passage that states the answer each, then one line that names the others, then notes.

    Behind an abstention the document that comes closest, if the model named one.
    """
    lines = []
    for citation, document in zip(answer.citations, answer.cited, strict=True):
        name = f"  {source_name(document, citation['number'])}"
        if citation["start"] is None:
            lines += [f"{name}, no passage states the answer; it begins:", f"      {snippet(document['content'], '')}"]
        else:
            closest = ", the closest sentence" if citation["match"] == "overlap" else ""
            lines += [f"{name}, characters {citation['start']}-{citation['end']}{closest}:",
                      f'      "{one_line(citation["passage"])}"']
    closest = [one["slot"] for one in answer.info.get("closest", ())]
    lines += [f"  {source_name(answer.documents[slot], slot + 1)} comes closest, and does not say it"
              for slot in closest]
    named = {*closest, *(citation["slot"] for citation in answer.citations)}
    if others := [source_name(document) for slot, document in enumerate(answer.documents) if slot not in named]:
        lines.append(f"  also read: {', '.join(others)}")
    return lines + [f"  note: {note}" for note in notes(answer)]


def notes(answer: Answer) -> list[str]:
    """What a reader should know about what the model was shown, one sentence each; usually none."""
    found = [f'read as "{one_line(answer.read_as)}"'] if answer.read_as else []
    if not answer.documents and not answer.info:
        return [*found, "no document was found for this question"]
    for cut in answer.info.get("trimmed", ()):
        read, length = cut["shown_chars"], len(answer.documents[cut["slot"]]["content"])
        found.append(
            f"[{cut['number']}] was cut for want of room: the model read {read:,} of its {length:,} characters")
    left_out = answer.info.get("dropped", 0) - len(answer.info.get("trimmed", ()))
    if left_out:
        reason = f"a model is shown {NUM_DOC_SLOTS} at most" if len(answer.documents) == NUM_DOC_SLOTS else \
            "there is no room for them beside the question"
        found.append(f"{left_out} of the documents {'was' if left_out == 1 else 'were'} not shown: {reason}")
    return found
