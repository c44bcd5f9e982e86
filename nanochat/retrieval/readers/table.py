"""The table of readers: which file name endings become documents, and by which function."""

from collections.abc import Callable, Iterator
from pathlib import Path

from nanochat.errors import UserError
from nanochat.retrieval.chunking.markup import CODE_ENDINGS
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.code import read_code
from nanochat.retrieval.readers.docx import read_docx
from nanochat.retrieval.readers.html import read_html
from nanochat.retrieval.readers.jsonl import read_jsonl
from nanochat.retrieval.readers.markdown import read_markdown
from nanochat.retrieval.readers.pdf import read_pdf
from nanochat.retrieval.readers.records import read_json
from nanochat.retrieval.readers.tables import read_csv
from nanochat.retrieval.readers.text import read_plain

# Each entry is (line, Document) or (line, error): a reader goes on after a bad record where it can.
Entry = tuple[int, Document | UserError]

# file name ending -> reader(path, name): name is the relative path, which names the documents of a file without ids
READERS: dict[str, Callable[[Path, str], Iterator[Entry]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_plain,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
    **dict.fromkeys(CODE_ENDINGS, read_code),
}
# parsers of foreign structure: they run in a process of their own, with limits on time and memory
ISOLATED = frozenset({".html", ".htm", ".pdf", ".docx"})
# one document per line: read as a stream, whatever the size
STREAMED = frozenset({".jsonl", ".ndjson", ".csv", ".tsv"})
_PACKED = frozenset({".pdf", ".docx"})


def kind_of(name: str) -> str:
    """The entry of READERS for a file name: its ending in lower case, .gz taken off; empty where there is none."""
    name = name.lower()
    ending = f".{name.removesuffix('.gz').rpartition('.')[2]}"
    is_readable = ending in READERS and not (name.endswith(".gz") and ending in _PACKED)
    return ending if is_readable else ""
