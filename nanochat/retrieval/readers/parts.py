"""One text into documents: one, or several where it is longer than a document may be; headings and pages come along."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nanochat.retrieval.chunking.markup import Heading, cut_words
from nanochat.retrieval.document import MAX_CONTENT_CHARS, Document

_PARAGRAPH = re.compile(r"\n\s*\n")
_STEM = re.compile(r"[_\s]+")


def documents_of(
    text: str,
    name: str,
    *,
    title: str = "",
    headings: Sequence[Heading] = (),
    pages: Sequence[int] = (),
    metadata: Mapping[str, Any] | None = None,
    limit: int = MAX_CONTENT_CHARS,
) -> Iterator[Document]:
    """The document of a file, or its parts of at most `limit` characters, cut at headings, pages or paragraphs.

    `name` (the relative path) is the id and the source; part 2 is called "<name>:part2", with metadata "part" and
    "parts". metadata["headings"] is [[offset, level, text], ...], metadata["pages"] the offset of each page, both in
    the content of that very document; pages and headings before a part are at its offset 0, so that counting works.
    """
    # a title or a heading goes with every passage: one of a million characters would be written thousands of times
    title = cut_words(title or title_of(name))
    headings = [(offset, level, cut_words(words)) for offset, level, words in headings]
    segments = list(_segments(text, limit, headings, pages))
    for number, (first, end) in enumerate(segments, start=1):
        own: dict[str, Any] = {"file": name, **(metadata or {})}
        if len(segments) > 1:
            own |= {"part": number, "parts": len(segments)}
        if headings:
            own["headings"] = _headings(headings, first, end)
        if pages:
            own["pages"] = [max(0, offset - first) for offset in pages if offset < end or offset == 0]
        yield Document(
            id=name if number == 1 else f"{name}:part{number}", title=title, source=name,
            content=text[first:end], metadata=own,
        )


def title_of(name: str) -> str:
    """A title out of a file name: without folders and ending, underscores as spaces."""
    base = name.rsplit("/", 1)[-1].removesuffix(".gz")
    return _STEM.sub(" ", base.rsplit(".", 1)[0] or base).strip()


def _segments(
    text: str, limit: int, headings: Sequence[Heading], pages: Sequence[int]
) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        stop = len(text)
        if stop - start > limit:
            stop = _cut(text, start + limit // 2, start + limit, headings, pages)
        # a part of nothing but white space would be no document
        if text[start:stop].strip():
            yield start, stop
        start = stop


def _cut(text: str, first: int, last: int, headings: Sequence[Heading], pages: Sequence[int]) -> int:
    """The best place after `first`, at most `last`: a heading (high and late), a page, a paragraph, a line, a word."""
    tops = [(-level, offset) for offset, level, _ in headings if first < offset <= last]
    if tops:
        return max(tops)[1]
    tops = pages[bisect_right(pages, first) : bisect_right(pages, last)]
    if tops:
        return tops[-1]
    ends = [found.end() for found in _PARAGRAPH.finditer(text, max(first, last - 100_000), last)]
    return (ends[-1] if ends else 0) or text.rfind("\n", first, last) + 1 or text.rfind(" ", first, last) + 1 or last


def _headings(headings: Sequence[Heading], first: int, end: int) -> list[list[Any]]:
    in_force: list[Heading] = []
    for heading in headings:
        if heading[0] >= first:
            break
        in_force = [other for other in in_force if other[1] < heading[1]] + [heading]
    inside = [heading for heading in headings if first <= heading[0] < end]
    return [[max(0, offset - first), level, text] for offset, level, text in [*in_force, *inside]]
