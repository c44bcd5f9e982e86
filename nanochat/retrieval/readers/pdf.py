"""PDF: the text of every page by pypdf, without running headers and footers, with the offset of each page."""

import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nanochat.errors import DocumentError, MissingDependency, UserError
from nanochat.retrieval.chunking.markup import Heading
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.opening import reading, without_control
from nanochat.retrieval.readers.parts import documents_of

# what a parser of foreign bytes may raise where they make no sense
FAILURES = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError,
            OSError, struct.error, zlib.error)
_HINT = "open it in its program and save it again"
_BROKEN_WORD = re.compile(r"([^\W\d_]+)-\n([^\W\d_]+)([^\s\w-]*) ?")
_SPACES = re.compile(r"(?<=\S)[ \t]{1,3}(?=\S)")
_NUMBER = re.compile(r"[0-9]+")
# letters that are printed as one: a search for "file" must find them
_LIGATURES = str.maketrans({"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
                            "\ufb05": "st", "\ufb06": "st", "\u00a0": " "})
# so many lines at the top and at the bottom of a page may be headers and footers
_MARGIN_LINES = 2


def read_pdf(path: Path, name: str) -> Iterator[tuple[int, Document | UserError]]:
    """(1, Document) of a PDF, after an error for each page that cannot be read.

    Raises DocumentError for damaged and encrypted files and those without text, MissingDependency without pypdf.
    """
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, PyPdfError
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            "No module named 'pypdf': PDF files need it", hint='uv pip install "nanochat-rag[ingest]"'
        ) from missing
    failures = (PyPdfError, *FAILURES)
    with reading(path):
        file = path.open("rb")
    with file:
        try:
            reader = PdfReader(file)
            if reader.is_encrypted and not reader.decrypt(""):
                raise DocumentError(f"{path}: is encrypted", hint="save it without a password")
            count = len(reader.pages)
        except DependencyError as missing:
            raise MissingDependency(
                f"{path}: is encrypted, which needs the package cryptography", hint="uv pip install cryptography"
            ) from missing
        except failures as error:
            raise _damaged(str(path), error) from error
        texts = []
        for number in range(count):
            try:
                texts.append(_cleaned(reader.pages[number].extract_text()))
            except failures as error:
                texts.append("")
                yield 1, _damaged(f"{path}: page {number + 1}", error)
        texts = without_margins(texts)
        if not any(texts):
            raise DocumentError(
                f"{path}: no text on its {count} pages: scanned?", hint="run text recognition (OCR) over it first"
            )
        text, pages = _joined(texts)
        title, metadata, headings = _about(reader, failures, text, pages)
    for document in documents_of(text, name, title=title, headings=headings, pages=pages, metadata=metadata):
        yield 1, document


def _damaged(where: str, error: BaseException) -> DocumentError:
    reason = " ".join(str(error).split())[:200]
    return DocumentError(f"{where}: not a PDF, or damaged ({type(error).__name__}: {reason})", hint=_HINT)


def _cleaned(text: str) -> str:
    text = without_control(text).translate(_LIGATURES)
    return "\n".join(_SPACES.sub(" ", line).rstrip() for line in text.split("\n")).strip("\n")


def without_margins(pages: Sequence[str]) -> list[str]:
    """Pages without the lines that stand at the top or the bottom of most pages, but for a page number in them."""
    if len(pages) < 3:
        return list(pages)
    lines = [page.split("\n") for page in pages]
    forms = [list(_margins(page, number)) for number, page in enumerate(lines)]
    counts = Counter(form for page in forms for form in {form for _, _, own in page for form in own})
    # an empty page has no header either
    common = max(3, sum(map(bool, pages)) // 2 + 1)
    kept = []
    for page, own in zip(lines, forms, strict=True):
        dropped: set[int] = set()
        for depth, line, names in own:
            # a second line belongs to the header only if the first one does
            if any(counts[name] >= common for name in names) and (not depth or dropped):
                dropped.add(line)
        kept.append("\n".join(line for number, line in enumerate(page) if number not in dropped).strip("\n"))
    return kept


def _margins(lines: Sequence[str], page: int) -> Iterator[tuple[int, int, set[str]]]:
    """(depth, number of the line, its forms) of the first and last lines: as it is, and relative to the page number."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    for edge, numbers in (("top", filled), ("end", filled[::-1])):
        for depth, number in enumerate(numbers[:_MARGIN_LINES]):
            line = " ".join(lines[number].split())
            forms = {f"{edge} {depth} {line}"}
            found = [match for match in _NUMBER.finditer(line) if len(match[0]) < 6]
            for match in (found[0], found[-1]) if found else ():
                relative = f"{line[: match.start()]}<{int(match[0]) - page}>{line[match.end() :]}"
                forms.add(f"{edge} {depth} {relative}")
            yield depth, number, forms


def _joined(texts: Sequence[str]) -> tuple[str, list[int]]:
    """One text of all pages and the offset of each; words broken at line ends are whole again."""
    whole = set(re.findall(r"[^\W\d_]+-[^\W\d_]+", "\n".join(texts)))

    def mend(found: re.Match[str]) -> str:
        first, last, marks = found.groups()
        if not (first[-1].islower() and last[0].islower()):
            return found[0]
        # the hyphen stays where the word has it elsewhere, too
        hyphen = "-" if f"{first}-{last}" in whole else ""
        return f"{first}{hyphen}{last}{marks}\n"

    pages: list[int] = []
    parts: list[str] = []
    length = 0
    for text in texts:
        text = _BROKEN_WORD.sub(mend, text).replace("\n ", "\n")
        if parts and text:
            parts.append("\n\n")
            length += 2
        pages.append(length)
        parts.append(text)
        length += len(text)
    return "".join(parts), pages


def _about(
    reader: Any, failures: tuple[type[BaseException], ...], text: str, pages: Sequence[int]
) -> tuple[str, dict[str, Any], list[Heading]]:
    """Title, metadata and headings (from the bookmarks); what is damaged is left out."""
    title, metadata, headings = "", {}, []
    try:
        info = reader.metadata or {}
        title = _line(info.get("/Title"))
        if author := _line(info.get("/Author")):
            metadata["author"] = author
        date = re.match(r"(?:D:)?(\d{4})(\d\d)(\d\d)", _line(info.get("/ModDate") or info.get("/CreationDate")))
        if date:
            metadata["date"] = "-".join(date.groups())
        headings = sorted(_headings(reader, text, pages))
    except failures:
        pass
    # programs write their own name or the file's into the title
    if re.search(r"^(?:untitled|microsoft word)|\.(?:docx?|tex|indd|pdf|dvi|html?)$", title, re.IGNORECASE):
        title = ""
    return title, metadata, headings


def _line(value: Any) -> str:
    return " ".join(without_control(str(value)).split())[:300] if value else ""


def _headings(reader: Any, text: str, pages: Sequence[int]) -> Iterator[Heading]:
    """Bookmarks at the place of their words on their page, or at its start."""
    stack: list[tuple[Any, int]] = [(item, 1) for item in reversed(reader.outline)]
    for _ in range(10_000):
        if not stack:
            return
        item, level = stack.pop()
        if isinstance(item, list):
            # the children of the bookmark before them
            stack += [(child, level + 1) for child in reversed(item)]
            continue
        words = _line(item.title)
        page = reader.get_destination_page_number(item)
        if words and page is not None and 0 <= page < len(pages):
            end = pages[page + 1] if page + 1 < len(pages) else len(text)
            found = re.compile(r"\s+".join(map(re.escape, words.split()))).search(text, pages[page], end)
            yield (found.start() if found else pages[page]), min(level, 9), words
