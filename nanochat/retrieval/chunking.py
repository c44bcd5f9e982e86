"""Long documents into passages: cut at sentence ends, exact offsets into the document kept.

A passage is a document of its own: it is searched, shown and cited alone. Small models read few words at a time, so
passages of some 80 words suit them; a passage never holds text of two documents.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace

from nanochat.errors import DocumentError
from nanochat.retrieval.analysis import _UNSPACED
from nanochat.retrieval.document import Document

# a character of a script without spaces counts as a word, as it does in search; punctuation stays with it
_WORD = re.compile(f"[{_UNSPACED}][^\\w\\s]*|[^\\s{_UNSPACED}]+")
# a full stop with its closing quotes, an ideographic one, an empty line, or the start of a list item; every branch
# starts with one certain character, so that long runs of one character cost linear time
_BREAK = re.compile(
    r"""(?P<mark>[.!?\u2026])["'\u201d\u2019\u00bb)\]]*\s+"""
    r"""|[\u3002\uff01\uff1f][\u201d\u2019\u300d\u300f\uff09]*\s*"""
    r"""|\n[^\S\n]*\n\s*|\n[^\S\n]*(?=(?:[-*\u2022]|\d{1,3}[.)])\s)"""
)
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c\u2018]+\Z")
_TITLES = frozenset("mr mrs ms dr prof st vs e.g i.e cf approx gen col sgt capt lt rev hon".split())
_BEFORE_NUMBERS = frozenset("no nos p pp vol fig b c d ca jan feb mar apr jun jul aug sep sept oct nov dec".split())


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence, white space around it left out; together they cover all that is not white space.

    A sentence ends at . ! ? before white space and no lower-case letter, unless the full stop belongs to an
    abbreviation or an initial; at an empty line; before a list item; and at the full stop of Chinese and Japanese.
    """
    spans, start = [], 0
    for found in _BREAK.finditer(text):
        if found["mark"] and not _ends_here(text, found):
            continue
        spans.append((start, found.end()))
        start = found.end()
    spans.append((start, len(text)))
    stripped = ((begin, end, text[begin:end]) for begin, end in spans)
    return [(begin + len(part) - len(part.lstrip()), begin + len(part.rstrip())) for begin, end, part in stripped
            if part.strip()]


def _ends_here(text: str, found: re.Match[str]) -> bool:
    following = text[found.end() : found.end() + 1]
    if following.islower():
        return False
    if found["mark"] != ".":
        return True
    word = _LAST_WORD.search(text, max(0, found.start() - 12), found.start())
    if word is None:
        return True
    last = word[0].lower()
    is_initial = len(last) == 1 and last.isalpha() and word[0].isupper()
    is_initials = "." in last and all(len(part) == 1 and part.isalpha() for part in last.split("."))
    return not (is_initial or is_initials or last in _TITLES or (last in _BEFORE_NUMBERS and following.isdigit()))


def chunk_document(document: Document, max_words: int) -> list[Document]:
    """The passages of a document, in order, each of at most `max_words` words; the document itself if it is that short.

    Passages end at sentence ends and are about equally long; only a sentence of more than `max_words` words is cut.
    Passage n (from 1) has the id "<id>#n", the document's title, source and metadata, and in its metadata "parent" (the
    document's id), "start" and "end" with document.content[start:end] == passage.content. Nothing but white space lies
    between passages. Words are what white space separates; characters of Chinese and Japanese count one by one.

    Raises ValueError if max_words < 1.
    """
    if max_words < 1:
        raise ValueError(f"max_words must be at least 1, not {max_words}")
    words: list[tuple[int, int]] = []
    ends: list[int] = []  # number of words up to each sentence end
    for start, end in sentence_spans(document.content):
        words += [found.span() for found in _WORD.finditer(document.content, start, end)]
        ends.append(len(words))
    if len(words) <= max_words:
        return [document]
    chunks: list[Document] = []
    begin = 0
    while begin < len(words):
        stop = _next_stop(begin, ends, max_words)
        start, end = words[begin][0], words[stop - 1][1]
        place = {"parent": document.id, "start": start, "end": end}
        chunks.append(replace(document, id=f"{document.id}#{len(chunks) + 1}", content=document.content[start:end],
                              metadata={**document.metadata, **place}))
        begin = stop
    return chunks


def _next_stop(begin: int, ends: Sequence[int], max_words: int) -> int:
    """Where the passage that begins at word `begin` stops; `ends` are the sentence ends, the last one of all words."""
    remaining, limit = ends[-1] - begin, begin + max_words
    if remaining <= max_words:
        return ends[-1]
    first, last = bisect_right(ends, begin), bisect_right(ends, limit)
    # the next sentence must be cut in any case: fill the passage with its beginning
    if first == last or ends[last] - ends[last - 1] > max_words:
        return limit
    even = begin + math.ceil(remaining / math.ceil(remaining / max_words))
    return ends[min(bisect_left(ends, even), last - 1)]


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
