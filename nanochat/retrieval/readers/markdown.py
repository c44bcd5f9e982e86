"""Markdown: one document per file, the text as it is written, its headings with their places."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.retrieval.chunking.markup import find_headings
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.parts import documents_of
from nanochat.retrieval.readers.text import checked_text

_FRONT = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.MULTILINE | re.DOTALL)
_FRONT_LINE = re.compile(r"([A-Za-z_][\w -]{0,60}):[ \t]*(.*?)[ \t]*$")


def read_markdown(path: Path, name: str) -> Iterator[tuple[int, Document]]:
    """(1, Document) of a Markdown file; its title is that of its front matter, its first heading or the file name."""
    text, metadata = checked_text(path)
    text, front = without_front_matter(text)
    title = front.pop("title", "")
    headings = find_headings(text)
    title = str(title) or next((words for _, _, words in headings if words), "")
    for document in documents_of(text, name, title=title, headings=headings, metadata=front | metadata):
        yield 1, document


def without_front_matter(text: str) -> tuple[str, dict[str, Any]]:
    """Text after a leading `---` block of "key: value" lines, and those values; anything else stays text."""
    found = _FRONT.match(text)
    if not found or not text[found.end() :].strip():
        return text, {}
    values: dict[str, Any] = {}
    for line in found[1].split("\n"):
        if pair := _FRONT_LINE.match(line):
            value = pair[2]
            if value.startswith("[") and value.endswith("]"):
                values[pair[1]] = [part.strip().strip("\"'") for part in value[1:-1].split(",") if part.strip()]
            elif value:
                values[pair[1]] = value.strip("\"'")
    return text[found.end() :].lstrip("\n"), values
