"""Word documents (.docx): paragraphs, headings, lists and tables, read from the XML inside."""

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from nanochat.errors import DocumentError
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.opening import reading, without_control
from nanochat.retrieval.readers.parts import documents_of
from nanochat.retrieval.readers.writing import TextWriter

# a Word file is a zip archive: what it unpacks to is checked before and while unpacking
MAX_ENTRIES = 10_000
MAX_XML_BYTES = 100_000_000
# what the zip and XML modules raise on nonsense; RuntimeError: a password is needed
_DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, ElementTree.ParseError, NotImplementedError, RuntimeError,
            ValueError, LookupError, zlib.error, lzma.LZMAError)
_HINT = "open it in its program and save it again"
# text that was moved away, second forms of what stands elsewhere, formats
_LEFT_OUT = frozenset({"moveFrom", "Fallback", "rPr", "pPr", "sectPr", "tblPr"})


def read_docx(path: Path, name: str) -> Iterator[tuple[int, Document]]:
    """(1, Document) of a Word file. Raises DocumentError for damaged and encrypted files and for those without text."""
    with reading(path):
        if path.open("rb").read(8).startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
            raise DocumentError(
                f"{path}: an encrypted or old Word file (.doc), not .docx", hint="save it as .docx without a password"
            )
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            body = _xml(archive, "word/document.xml", path)
            if body is None:
                raise DocumentError(f"{path}: a zip file without word/document.xml", hint=_HINT)
            styles = _styles(_xml(archive, "word/styles.xml", path))
            about = _about(_xml(archive, "docProps/core.xml", path))
            notes = _xml(archive, "word/footnotes.xml", path)
    except _DAMAGED as error:
        raise DocumentError(f"{path}: not a Word file, or damaged ({error})", hint=_HINT) from error
    writer = TextWriter()
    _write(body, writer, styles)
    if notes is not None:
        _write(notes, writer, styles)
    text = writer.text()
    if not text:
        raise DocumentError(f"{path}: holds no text", hint="a document of pictures must go through text recognition")
    title = about.pop("title", "") or next((words for _, _, words in writer.headings), "")
    for document in documents_of(text, name, title=title, headings=writer.headings, metadata=about):
        yield 1, document


def _xml(archive: zipfile.ZipFile, part: str, path: Path) -> ElementTree.Element | None:
    """The root of an XML part, None where there is no such part."""
    if len(archive.infolist()) > MAX_ENTRIES:
        raise DocumentError(f"{path}: holds more than {MAX_ENTRIES:,} files (a zip bomb?)", hint=_HINT)
    try:
        entry = archive.getinfo(part)
    except KeyError:
        return None
    with archive.open(entry) as file:
        # the size that the archive states may be a lie
        data = file.read(MAX_XML_BYTES + 1) if entry.file_size <= MAX_XML_BYTES else None
    if data is None or len(data) > MAX_XML_BYTES:
        raise DocumentError(
            f"{path}: {part} unpacks to more than {MAX_XML_BYTES:,} bytes (a zip bomb?)", hint="split the document"
        )
    if b"<!DOCTYPE" in data[:2000]:
        raise DocumentError(f"{path}: {part} declares entities, which no Word file does", hint=_HINT)
    return ElementTree.fromstring(data)


def _name(element: ElementTree.Element) -> str:
    """Tag without its namespace: there are two for Word, transitional and strict."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _find(element: ElementTree.Element | None, *names: str) -> ElementTree.Element | None:
    """Child of a child ... by name."""
    for name in names:
        element = next((child for child in element if _name(child) == name), None) if element is not None else None
    return element


def _value(element: ElementTree.Element | None) -> str:
    if element is None:
        return ""
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == "val"), "")


def _number(text: str, default: int = 0) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else default


def _styles(root: ElementTree.Element | None) -> dict[str, str]:
    """Style id -> its name in lower case: "heading 1", "title", "toc 2"; those based on a heading have its name."""
    names: dict[str, str] = {}
    parents: dict[str, str] = {}
    for style in root if root is not None else ():
        if _name(style) == "style":
            identifier = next((value for key, value in style.attrib.items() if key.endswith("}styleId")), "")
            level = _number(_value(_find(style, "pPr", "outlineLvl")), 9)
            names[identifier] = f"heading {level + 1}" if level < 9 else _value(_find(style, "name")).lower()
            parents[identifier] = _value(_find(style, "basedOn"))
    for identifier, parent in parents.items():
        if names.get(parent, "").startswith("heading ") and not names[identifier].startswith("heading "):
            names[identifier] = names[parent]
    return names


def _about(root: ElementTree.Element | None) -> dict[str, Any]:
    """Title, author and date of the document's properties."""
    found: dict[str, Any] = {}
    for element in root if root is not None else ():
        key = {"title": "title", "creator": "author", "modified": "date"}.get(_name(element))
        value = " ".join(without_control(element.text or "").split())
        if key and value:
            found[key] = value[:10] if key == "date" else value[:500]
    return found


def _write(root: ElementTree.Element, writer: TextWriter, styles: dict[str, str]) -> None:
    """Walk the tree without recursion."""
    stack: list[tuple[ElementTree.Element, bool]] = [(root, False)]
    while stack:
        element, is_end = stack.pop()
        name = _name(element)
        if is_end:
            writer.end_heading()
        elif name == "t":
            writer.words(without_control(element.text or ""))
        elif name in ("br", "cr"):
            writer.lines(1)
        elif name in ("tab", "ptab"):
            writer.words(" ")
        elif name == "noBreakHyphen":
            writer.words("-")
        elif name == "tbl" and (rows := _rows(element)):
            writer.table(rows)
        elif name not in _LEFT_OUT and not (name == "p" and not _begin(element, writer, styles)):
            stack += [(element, True)] if name == "p" else []
            stack += [(child, False) for child in reversed(element)]


def _begin(paragraph: ElementTree.Element, writer: TextWriter, styles: dict[str, str]) -> bool:
    """Start a paragraph, a heading or a list item; False for a line of the table of contents."""
    form = _find(paragraph, "pPr")
    identifier = _value(_find(form, "pStyle"))
    style = styles.get(identifier, identifier.lower())
    if style.startswith("toc ") or style == "toc heading":
        return False
    level = _number(_value(_find(form, "outlineLvl")), 9)
    if style == "title" or style.startswith("heading "):
        level = _number(style[8:], 1) - 1
    is_item = level >= 9 and (_find(form, "numPr") is not None or style.startswith("list "))
    writer.lines(1 if is_item and writer.is_item else 2)
    writer.is_item = is_item
    if level < 9:
        writer.heading(level + 1)
    elif is_item:
        writer.prefix("  " * min(_number(_value(_find(form, "numPr", "ilvl"))), 8) + "- ")
    return True


def _rows(table: ElementTree.Element) -> list[list[str]]:
    """Cells of a table; none for one of one column and one that holds tables, which are read as paragraphs."""
    if len(list(islice(table.iter(table.tag), 2))) > 1:
        return []
    rows = []
    for row in (child for child in table if _name(child) == "tr"):
        cells: list[str] = []
        for cell in (child for child in row if _name(child) == "tc"):
            words = TextWriter()
            _write(cell, words, {})
            span = min(_number(_value(_find(cell, "tcPr", "gridSpan")), 1), 100)
            cells += [" ".join(words.text().split()), *[""] * (span - 1)]
        rows.append(cells)
    rows = [row for row in rows if any(row)]
    return rows if rows and max(map(len, rows)) > 1 else []
