"""The texts that an encoder reads: of documents, fetched in blocks, behind earlier ones kept in a file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanochat.retrieval.document import Document

TEXTS = "texts.jsonl"  # one JSON string per row
_BLOCK = 1_024


class Texts:
    """Texts of `earlier` rows followed by those of documents. Never holds more documents than it is asked for."""

    def __init__(self, documents: Sequence[Document], earlier: Sequence[str] = ()) -> None:
        self._earlier, self._documents = earlier, documents

    def __len__(self) -> int:
        return len(self._earlier) + len(self._documents)

    def block(self, start: int, end: int) -> list[str]:
        """The texts of rows start .. end - 1, as far as there are any."""
        known = len(self._earlier)
        documents = self._documents[max(start - known, 0) : max(end - known, 0)]
        return [*self._earlier[start:end], *(document.text for document in documents)]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self.block(start, start + _BLOCK)

    def write(self, path: Path) -> None:
        """Into a file, for `read_texts`."""
        with open(path, "w", encoding="utf-8") as file:
            # escaped, so that half characters (lone surrogates) can be written
            file.writelines(json.dumps(text) + "\n" for text in self)


def read_texts(path: Path, num_rows: int) -> list[str]:
    """What `write` wrote; ValueError when it is not so many texts."""
    with open(path, encoding="utf-8") as file:
        texts = [json.loads(line) for line in file]
    if len(texts) != num_rows or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path.name} holds {len(texts)} texts, not {num_rows}")
    return texts
