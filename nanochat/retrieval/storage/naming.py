"""Ids: each at most once, and none like that of a passage, which is named after its document ("guide#2")."""

import re
from collections.abc import Iterable, Iterator

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document
from nanochat.retrieval.table import Table

_NUMBERED = re.compile(r"(.+)#([1-9]\d{0,8})", re.DOTALL)


class Names:
    """The ids of the documents that are being written."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._numbered: list[str] = []

    @property
    def has_numbered(self) -> bool:
        """Whether any looks like the id of a passage."""
        return bool(self._numbered)

    def watch(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents; DocumentError where an id comes again."""
        for document in documents:
            if document.id in self._ids:
                raise DocumentError(f"document {len(self._ids) + 1}: duplicate id {document.id!r}",
                                    hint="give every document its own id")
            self._ids.add(document.id)
            if _NUMBERED.fullmatch(document.id):
                self._numbered.append(document.id)
            yield document

    def check(self, table: Table, *, had_numbered: bool) -> None:
        """Raise DocumentError where a passage and a document of the table now have one id.

        `had_numbered`: whether an older document's id may look like that of a passage.
        """
        for identifier in self._numbered:
            parent, number = _NUMBERED.fullmatch(identifier).groups()  # type: ignore[union-attr]
            if table.hash_of(parent) is not None and 1 < len(rows := table.find(parent)) >= int(number):
                raise _clash(parent, identifier, len(rows))
        for parent in self._ids if had_numbered else ():
            rows = table.find(parent)
            for number in range(1, len(rows) + 1) if len(rows) > 1 else ():
                if table.hash_of(f"{parent}#{number}") is not None:
                    raise _clash(parent, f"{parent}#{number}", len(rows))


def _clash(parent: str, identifier: str, num_passages: int) -> DocumentError:
    return DocumentError(
        f"passage {identifier!r} of document {parent!r} ({num_passages} passages) has the id of another document",
        hint=f"rename document {identifier!r}: passages are named after their document, with # and a number",
    )
