"""The structure of a document as spans: sections at headings, in them sentences, table rows and blocks of code.

Markdown is recognised by its marks wherever it stands, source code by the name of its file. Spans are in order, do not
overlap, have no white space around them, and leave out nothing but white space.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from nanochat.retrieval.chunking.markup import CODE_ENDINGS, closes, find_headings, opens
from nanochat.retrieval.document import Document
from nanochat.text import sentence_spans

Span = tuple[int, int]
_MARKED = re.compile(r"^[ \t]*(?:```|~~~|\|)", re.MULTILINE)
_HEADED = re.compile(r"^ {0,3}#{1,6}[ \t]", re.MULTILINE)
_RULE = re.compile(r"[ \t]*\|[ \t:|-]*-[ \t:|-]*$")


@dataclass(frozen=True)
class Piece:
    span: Span
    is_lines: bool = False      # code: where it must be cut, it is cut between its lines
    goes_on: bool = False       # a heading or the head of a table: what follows stays with it


@dataclass(frozen=True)
class Structure:
    sections: list[list[Piece]]     # a heading starts a section
    may_join: bool = False          # small sections in a row may share a passage (definitions in source code)


def structure_of(document: Document) -> Structure:
    """Sections of a document and the pieces that should stay whole; one section where there is no heading."""
    content = document.content
    is_code = _is_code(document)
    headings = _places(document)
    if not headings and not is_code and _HEADED.search(content):
        headings = [offset for offset, _, _ in find_headings(content)]
    cuts = sorted({0, *headings, len(content)})
    # a line of code may look like a heading of Markdown: metadata decides there
    starts = set(headings)
    sections: list[list[Piece]] = []
    for start, end in pairwise(cuts):
        pieces = list(_code_pieces(content, start, end) if is_code else _pieces(content, start, end, start in starts))
        if sections and sections[-1][-1].goes_on and len(sections[-1]) == 1:
            # a heading with nothing but another heading below it
            sections[-1] += pieces
        elif pieces:
            sections.append(pieces)
    return Structure(sections, may_join=is_code)


def _is_code(document: Document) -> bool:
    file = document.metadata.get("file")
    return isinstance(file, str) and file.lower().removesuffix(".gz").endswith(CODE_ENDINGS)


def _places(document: Document) -> list[int]:
    """Offsets of headings by the metadata, which may hold anything where a user wrote it."""
    headings = document.metadata.get("headings")
    if not isinstance(headings, list):
        return []
    offsets = [item[0] for item in headings if isinstance(item, list | tuple) and item and type(item[0]) is int]
    return [offset for offset in offsets if 0 <= offset < len(document.content)]


def _pieces(content: str, start: int, end: int, is_headed: bool) -> Iterator[Piece]:
    if is_headed:
        stop = content.find("\n", start, end)
        stop = end if stop < 0 else stop
        if span := stripped(content, start, stop):
            yield Piece(span, goes_on=True)
        start = stop
    if not _MARKED.search(content, start, end):
        yield from _sentences(content, start, end)
        return
    prose = start
    for first, last, is_table in _blocks(content, start, end):
        yield from _sentences(content, prose, first)
        if is_table:
            yield from _rows(content, first, last)
        elif span := stripped(content, first, last):
            yield Piece(span, is_lines=True)
        prose = last
    yield from _sentences(content, prose, end)


def _sentences(content: str, start: int, end: int) -> Iterator[Piece]:
    for first, last in sentence_spans(content[start:end]):
        yield Piece((start + first, start + last))


def _blocks(content: str, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """(start, end, is_table) of fenced code and of runs of lines that begin with |."""
    fence, is_table = "", False
    first = offset = start
    for line in content[start:end].split("\n"):
        here, offset = offset, min(offset + len(line) + 1, end)
        if fence:
            if closes(fence, line):
                yield first, offset, False
                fence = ""
            continue
        is_row = line.lstrip(" \t").startswith("|")
        if is_table and not is_row:
            yield first, here, True
        if is_row and not is_table:
            first = here
        is_table = is_row
        if not is_row and (fence := opens(line.lstrip())):
            first = here
    if fence or is_table:
        yield first, end, is_table


def _rows(content: str, start: int, end: int) -> Iterator[Piece]:
    offset = start
    lines = content[start:end].split("\n")
    for number, line in enumerate(lines):
        span = stripped(content, offset, offset + len(line))
        offset += len(line) + 1
        if span:
            # the names of the columns stay with the first row
            goes_on = number == 0 and len(lines) > 1 and bool(_RULE.match(lines[1])) or bool(_RULE.match(line))
            yield Piece(span, goes_on=goes_on)


def _code_pieces(content: str, start: int, end: int) -> Iterator[Piece]:
    """Blocks of code between empty lines."""
    first = offset = start
    for line in content[start:end].split("\n"):
        if not line.strip():
            if span := stripped(content, first, offset):
                yield Piece(span, is_lines=True)
            first = offset
        offset += len(line) + 1
    if span := stripped(content, first, end):
        yield Piece(span, is_lines=True)


def stripped(content: str, start: int, end: int) -> Span | None:
    """The span without white space around it, None if nothing is left."""
    part = content[start:end]
    inner = part.strip()
    if not inner:
        return None
    start += len(part) - len(part.lstrip())
    return start, start + len(inner)
