"""A passage as a document of its own: its id, and what its document says about the place it comes from."""

from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from nanochat.retrieval.chunking.markup import cut_words
from nanochat.retrieval.document import Document


class Cutter:
    """Makes the passages of one document, any of them in any order."""

    def __init__(self, document: Document, num_passages: int) -> None:
        self._document = document
        self._is_single = num_passages == 1

    def passage(self, number: int, start: int, end: int) -> Document:
        """Passage `number` (from 1), content[start:end]; the document itself where that is all of it.

        Raises ValueError for a span that the document does not have.
        """
        document = self._document
        length = len(document.content)
        if self._is_single and (start, end) == (0, length):
            return document
        if not 0 <= start < end <= length:
            raise ValueError(f"passages.npy names characters {start} to {end} of {length} in document {document.id!r}")
        metadata, paths, pages = self._surroundings
        metadata = {**metadata, "parent": document.id, "start": start, "end": end}
        before = bisect_right(paths, start, key=_offset)
        if before and paths[before - 1][1]:
            metadata["heading"] = paths[before - 1][1]
        if pages:
            metadata["page"] = max(1, bisect_right(pages, start))
        return Document(id=f"{document.id}#{number}", title=document.title, content=document.content[start:end],
                        source=document.source, metadata=metadata)

    @cached_property
    def _surroundings(self) -> tuple[dict[str, Any], list[tuple[int, str]], list[int]]:
        """The metadata that all passages have, the paths of headings, the pages."""
        metadata = dict(self._document.metadata)
        headings, pages = reader_headings(metadata), reader_pages(metadata)
        if headings is not None:
            del metadata["headings"]
        if pages is not None:
            del metadata["pages"]
        return metadata, _paths(headings or []), pages or []


def _offset(path: tuple[int, str]) -> int:
    return path[0]


def reader_headings(metadata: Mapping[str, Any]) -> list[list[Any]] | None:
    """[[offset, level, text], ...] as readers note them; None where "headings" is missing or the user's own."""
    found = metadata.get("headings")
    if isinstance(found, list) and all(
        isinstance(item, list | tuple) and [type(part) for part in item] == [int, int, str] for item in found
    ):
        return sorted(found, key=lambda item: item[0])
    return None


def reader_pages(metadata: Mapping[str, Any]) -> list[int] | None:
    """The offset where every page starts, as readers note them; None where "pages" is missing or the user's own."""
    found = metadata.get("pages")
    if isinstance(found, list) and all(type(item) is int for item in found) and found == sorted(found):
        return found
    return None


def _paths(headings: list[list[Any]]) -> list[tuple[int, str]]:
    """(offset, path of the headings in force from there), such as (120, "Install > Linux")."""
    open_headings: list[tuple[int, str]] = []
    paths = []
    for offset, level, text in headings:
        while open_headings and open_headings[-1][0] >= level:
            open_headings.pop()
        if text.strip():
            open_headings.append((level, cut_words(" ".join(text.split()))))
        paths.append((offset, " > ".join(name for _, name in open_headings)))
    return paths
