"""Long documents into passages: cut where a reader would, exact offsets into the document kept.

A passage is a document of its own: it is searched, shown and cited alone. Small models read few words at a time, so
passages of some 80 words suit them; a passage never holds text of two documents.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from nanochat.errors import ConfigError, DocumentError
from nanochat.retrieval.chunking.measures import Measure, TokenMeasure, Units, WordMeasure
from nanochat.retrieval.chunking.splitting import Piece, Span, Structure, structure_of
from nanochat.retrieval.document import Document
from nanochat.text import sentence_spans

__all__ = ["Chunking", "chunk_document", "chunk_documents", "sentence_spans", "spans", "spans_function"]

Unit = Literal["off", "words", "tokens"]


@dataclass(frozen=True)
class Chunking:
    """How documents become passages; the default keeps every document whole."""

    unit: Unit = "off"
    size: int = 0           # most words or tokens of a passage
    overlap: int = 0        # most words or tokens of whole sentences that a passage repeats from the one before
    tokenizer: str = ""     # tokenizer.json or its folder, for tokens

    def __post_init__(self) -> None:
        """Raises ConfigError for settings that cannot work."""
        if self.unit not in get_args(Unit):
            raise ConfigError(f"chunking unit is {self.unit!r}", hint=f"one of: {', '.join(get_args(Unit))}")
        for name in ("size", "overlap"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"chunking {name} is {value!r}", hint="give a whole number, 0 or more")
        if (self.unit == "off") != (self.size == 0):
            raise ConfigError(
                f"chunking unit is {self.unit!r} and size is {self.size}",
                hint='give both, such as unit "words" and size 80, or neither to keep documents whole',
            )
        if self.overlap > self.size // 2:
            raise ConfigError(
                f"chunking overlap is {self.overlap} with size {self.size}",
                hint=f"at most half the size: {self.size // 2}",
            )
        if (self.unit == "tokens") != bool(self.tokenizer):
            raise ConfigError(
                f"chunking unit is {self.unit!r} and tokenizer is {self.tokenizer!r}",
                hint="tokens need a tokenizer.json, and only tokens do",
            )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record; `Chunking.from_dict` gives the same settings back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Chunking":
        """Settings from a record. Raises ConfigError for unknown names and values that cannot work."""
        unknown = set(record) - set(cls.__dataclass_fields__)
        if unknown or not isinstance(record.get("tokenizer", ""), str):
            raise ConfigError(
                f"chunking settings are {dict(record)!r}", hint="known names: unit, size, overlap, tokenizer"
            )
        return cls(**record)


def spans_function(chunking: Chunking) -> Callable[[Document], list[Span]] | None:
    """`spans` with settings of its own, loaded once; None where documents stay whole."""
    if chunking.unit == "off":
        return None
    measure = TokenMeasure(chunking.tokenizer) if chunking.unit == "tokens" else WordMeasure()
    return lambda document: _spans(document, measure, chunking.size, chunking.overlap)


def spans(document: Document, chunking: Chunking) -> list[Span]:
    """(start, end) of every passage in document.content, in order; [(0, len(content))] where it is kept whole.

    A document of at most `size` words or tokens is kept whole. In others a heading starts a passage; passages end at
    sentence ends, between table rows and outside fenced code, are about equally long within a section, and hold at most
    `size` units: only a sentence, row or line of more units is cut. Nothing but white space lies between passages
    (with an overlap, a passage also repeats whole sentences of the one before, never across a heading).
    """
    function = spans_function(chunking)
    return function(document) if function else [(0, len(document.content))]


def chunk_document(document: Document, max_words: int) -> list[Document]:
    """The passages of a document, in order, each of at most `max_words` words; the document itself if it is that short.

    They are cut as `spans` says. Passage n (from 1) has the id "<id>#n", the document's title, source and metadata
    (without the places of headings and pages), and in its metadata "parent" (the document's id), "start" and "end" with
    document.content[start:end] == passage.content.
    Words are what white space separates; characters of Chinese and Japanese count one by one.

    Raises ValueError if max_words < 1.
    """
    if max_words < 1:
        raise ValueError(f"max_words must be at least 1, not {max_words}")
    found = spans(document, Chunking("words", max_words))
    if found == [(0, len(document.content))]:
        return [document]
    metadata = {key: value for key, value in document.metadata.items() if key not in ("headings", "pages")}
    return [
        replace(document, id=f"{document.id}#{number}", content=document.content[start:end],
                metadata={**metadata, "parent": document.id, "start": start, "end": end})
        for number, (start, end) in enumerate(found, start=1)
    ]


def chunk_documents(documents: Sequence[Document], max_words: int) -> list[Document]:
    """The passages of all documents, in order. Raises DocumentError where a passage has the id of another document."""
    ids = {document.id for document in documents}
    chunks = []
    for document in documents:
        parts = chunk_document(document, max_words)
        for part in parts:
            if part is not document and part.id in ids:
                raise DocumentError(
                    f"passage {part.id!r} of document {document.id!r} has the id of another document",
                    hint=f"rename document {part.id!r}: passages are named after their document, with # and a number",
                )
        chunks += parts
    return chunks


def _spans(document: Document, measure: Measure, size: int, overlap: int) -> list[Span]:
    content = document.content
    if measure.is_short(content, size):
        return [(0, len(content))]
    structure = structure_of(document)
    pieces = [piece for section in structure.sections for piece in section]
    units, counts = measure.units(content, [piece.span for piece in pieces])
    if units.totals[-1] <= size:
        return [(0, len(content))]
    found: list[Span] = []
    first = 0
    for section in _joined(structure, counts, units, size):
        ends = _ends(content, section, counts[first : first + len(section)], units, size)
        begin = counts[first - 1] if first else 0
        found += _pack(content, measure, units, begin, ends, size, overlap)
        first += len(section)
    return found


def _joined(structure: Structure, counts: Sequence[int], units: Units, size: int) -> list[list[Piece]]:
    """The sections, small neighbours as one where they may share a passage."""
    if not structure.may_join:
        return structure.sections
    joined: list[list[Piece]] = []
    first = begin = 0
    for section in structure.sections:
        first += len(section)
        if joined and units.totals[counts[first - 1]] - units.totals[begin] <= size:
            joined[-1] = joined[-1] + section
        else:
            begin = counts[first - len(section) - 1] if first > len(section) else 0
            joined.append(section)
    return joined


def _ends(content: str, section: Sequence[Piece], counts: Sequence[int], units: Units, size: int) -> list[int]:
    """Numbers of units after which a passage of this section may end; the last one is all of them."""
    ends: list[int] = []
    first: int | None = None  # where the headings began that what follows must stay with
    for number, (piece, count) in enumerate(zip(section, counts, strict=True)):
        begin = bisect_left(units.spans, piece.span)
        if piece.is_lines and units.totals[count] - units.totals[begin] > size:
            ends += [place for place in range(begin + 1, count)
                     if "\n" in content[units.spans[place - 1][1] : units.spans[place][0]]]
        first = begin if first is None else first
        following = counts[number + 1] if number + 1 < len(counts) else 0
        if piece.goes_on and following and units.totals[following] - units.totals[first] <= size:
            continue
        ends.append(count)
        first = None
    return ends


def _pack(
    content: str, measure: Measure, units: Units, begin: int, ends: Sequence[int], size: int, overlap: int
) -> Iterator[Span]:
    """Passages of one section: from unit `begin` to the last of `ends`."""
    reached = begin
    while reached < ends[-1]:
        stop = _next_stop(begin, ends, units.totals, size)
        while stop > begin + 1:
            start, end = units.spans[begin][0], units.spans[stop - 1][1]
            if measure.fits(content[start:end], units.totals[stop] - units.totals[begin], size):
                break
            shorter = bisect_left(ends, stop) - 1
            stop = ends[shorter] if shorter >= 0 and ends[shorter] > begin else stop - 1
        if stop <= reached:
            # with what it repeats, the passage has no room for anything new
            begin = reached
            continue
        yield units.spans[begin][0], units.spans[stop - 1][1]
        begin, reached = _next_begin(begin, stop, ends, units.totals, size, overlap), stop


def _next_stop(begin: int, ends: Sequence[int], totals: Sequence[int], size: int) -> int:
    """Where the passage that begins at unit `begin` stops."""
    remaining = totals[ends[-1]] - totals[begin]
    if remaining <= size:
        return ends[-1]
    limit = max(bisect_right(totals, totals[begin] + size) - 1, begin + 1)
    first, last = bisect_right(ends, begin), bisect_right(ends, limit)
    # the next sentence must be cut in any case: fill the passage with its beginning; or a single unit weighs more than
    # fits, such as a word with its tokens of white space
    if first == last or last == len(ends) or totals[ends[last]] - totals[ends[last - 1]] > size:
        return limit
    even = bisect_left(totals, totals[begin] + math.ceil(remaining / math.ceil(remaining / size)))
    return ends[min(bisect_left(ends, even), last - 1)]


def _next_begin(begin: int, stop: int, ends: Sequence[int], totals: Sequence[int], size: int, overlap: int) -> int:
    """Where the next passage begins: at `stop`, or up to `overlap` units of whole sentences before it."""
    place = bisect_left(ends, stop)
    if not overlap or place >= len(ends) - 1 or ends[place] != stop:
        return stop
    earliest = max(totals[stop] - overlap, totals[ends[place + 1]] - size)
    while place and ends[place - 1] > begin and totals[ends[place - 1]] >= earliest:
        place -= 1
    return ends[place]
