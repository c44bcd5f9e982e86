"""Repairs that lose nothing: encoding, control characters, white space at line ends, missing titles, duplicates."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nanochat.retrieval.document import Document
from nanochat.retrieval.linting.characters import repairer, without_control_characters
from nanochat.retrieval.linting.findings import NotRun
from nanochat.retrieval.linting.repeats import content_digest

# looking back keeps long runs of blanks linear
_LINE_END = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]+(?=\n)")
_HEADING = re.compile(r"\s{0,3}#{1,6}[ \t]+([^\n]*?)[ \t#]*$", re.MULTILINE)
_MAX_TITLE_CHARS = 80


class Fixer:
    """Repairs documents one after another; `counts` says how often each repair was needed.

    Without ftfy, mojibake stays as it is and `note` says so.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.note = ""
        self._seen: set[tuple[bytes, bytes]] = set()
        self._repair: Callable[[str], str] = str
        try:
            self._repair = repairer()
        except NotRun as reason:
            self.note = f"mojibake is left as it is: {reason}"

    def fix(self, document: Document) -> Document | None:
        """The repaired document, the same object where nothing was wrong.

        None when an earlier one has its title and content (white space and case apart), or when only control
        characters were in it. Offsets in the metadata ("headings", "pages") still point at their places.
        """
        content, metadata = self._fix_content(document)
        if not content.strip():
            self.counts["emptied"] += 1
            return None
        title = " ".join(self._fix_text(document.title).split()) or first_line(content, metadata)
        key = (content_digest(title), content_digest(content))
        if key in self._seen:
            self.counts["duplicate"] += 1
            return None
        self._seen.add(key)
        self.counts["no_title"] += not document.title.strip() and bool(title)
        if (content, title) == (document.content, document.title):
            return document
        return replace(document, content=content, title=title, metadata=metadata)

    def _fix_content(self, document: Document) -> tuple[str, Mapping[str, Any]]:
        """Content and metadata; the pieces between offsets are repaired one by one, so that offsets can follow."""
        offsets = _offsets(document)
        if not offsets:
            return self._fix_text(document.content, at_end=True), document.metadata
        moved, pieces, length = {0: 0}, [], 0
        for start, end in zip([0, *offsets], [*offsets, len(document.content)], strict=True):
            moved[start] = length
            pieces.append(self._fix_text(document.content[start:end], at_end=end == len(document.content)))
            length += len(pieces[-1])
        moved[len(document.content)] = length
        return "".join(pieces), {**document.metadata, **_moved(document, moved)}

    def _fix_text(self, text: str, *, at_end: bool = False) -> str:
        fixed = text
        if not text.isascii():
            fixed = "\n".join(self._repair(line) for line in text.split("\n"))
            self.counts["mojibake"] += fixed != text
        clean = without_control_characters(fixed)
        self.counts["control_characters"] += clean != fixed
        trimmed = _LINE_END.sub("", clean.replace("\r\n", "\n"))
        if at_end:
            trimmed = trimmed.rstrip()
        self.counts["white_space"] += trimmed != clean
        return trimmed


def fix(document: Document) -> Document | None:
    """One document repaired by itself; see `Fixer` for many, among which duplicates are dropped."""
    return Fixer().fix(document)


def first_line(content: str, metadata: Mapping[str, Any]) -> str:
    """A title for a document without one: its first heading, or the beginning of its first line."""
    headings = metadata.get("headings") or ()
    found = _HEADING.search(content[:2000])
    title = next((str(entry[2]) for entry in headings if len(entry) > 2 and str(entry[2]).strip()), "")
    title = " ".join((title or (found[1] if found else "") or content.strip().split("\n", 1)[0]).split())
    if len(title) <= _MAX_TITLE_CHARS:
        return title
    return title[: _MAX_TITLE_CHARS - 3].rsplit(" ", 1)[0].rstrip(" ,;:") + "..."


def _offsets(document: Document) -> list[int]:
    """Places in the content that the metadata names, in order."""
    named = [entry[0] for entry in document.metadata.get("headings") or ()] + list(document.metadata.get("pages") or ())
    return sorted({place for place in named if isinstance(place, int) and 0 < place < len(document.content)})


def _moved(document: Document, moved: Mapping[int, int]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    if headings := document.metadata.get("headings"):
        changed["headings"] = [[moved.get(entry[0], entry[0]), *entry[1:]] for entry in headings]
    if pages := document.metadata.get("pages"):
        changed["pages"] = [moved.get(place, place) for place in pages]
    return changed
