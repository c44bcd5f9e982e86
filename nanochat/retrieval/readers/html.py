"""HTML: the text a reader of the page would read, with headings, lists, tables and code; menus and scripts left out."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.errors import DocumentError, MissingDependency
from nanochat.retrieval.document import Document
from nanochat.retrieval.readers.opening import decode, read_bytes, without_control
from nanochat.retrieval.readers.parts import documents_of
from nanochat.retrieval.readers.writing import TextWriter

# encodings that pages declare; other names (Python knows stranger ones) are not followed
_DECLARED = re.compile(
    rb"""<meta[^>]{0,200}?charset=["']?\s*((?:iso-8859-|windows-|koi8-)[\w-]{1,4}|shift[_-]jis|euc-(?:jp|kr)"""
    rb"""|gbk|gb2312|gb18030|big5)""", re.IGNORECASE,
)
_NEVER = frozenset("script style noscript template svg math iframe object embed canvas audio video head button select "
                   "textarea input dialog -comment -doctype".split())
_AROUND = frozenset("nav aside footer menu".split())
_AROUND_ROLES = frozenset("navigation banner contentinfo complementary search dialog alert menu menubar".split())
_AROUND_NAMES = re.compile(
    r"(?:^|[\s_-])(?:cookies?|consent|gdpr|skip-?(?:link|nav|to)|breadcrumbs?|advert\w*|sidebar|navbar|share-?bar|pagination"
    r"|newsletter|popup|screen-reader-text|visually-hidden|sr-only)(?:$|[\s_-])", re.IGNORECASE,
)
_SECTIONS = frozenset("main article section".split())
_PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 ul ol dl table pre blockquote section article figure main body hr address "
                        "details fieldset header caption".split())
_LINES = frozenset("li tr div br dt dd summary figcaption legend option tbody thead tfoot center td th form".split())
_HEADING = re.compile(r"h[1-6]$")


def read_html(path: Path, name: str) -> Iterator[tuple[int, Document]]:
    """(1, Document) of a page. Raises DocumentError where it has no text, MissingDependency without selectolax."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            "No module named 'selectolax': HTML files need it", hint='uv pip install "nanochat-rag[ingest]"'
        ) from missing
    tree = LexborHTMLParser(_decoded(read_bytes(path), path))
    root = _main_part(tree)
    writer = TextWriter()
    for is_thorough in (True, False):
        # a page that is all menu by its marks is read as a whole
        writer = TextWriter()
        _write(root, writer, is_thorough)
        if len(writer):
            break
        root = tree.body or root
    text = writer.text()
    if not text:
        raise DocumentError(f"{path}: holds no text", hint="a page that scripts fill in must be saved from a browser")
    title, metadata = _about(tree, writer)
    for document in documents_of(text, name, title=title, headings=writer.headings, metadata=metadata):
        yield 1, document


def _decoded(data: bytes, path: Path) -> str:
    declared = _DECLARED.search(data[:4096])
    if declared and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode(declared[1].decode("ascii").lower().replace("gb2312", "gb18030"))
        except (LookupError, UnicodeDecodeError):
            pass
    return decode(data, path)[0]


def _main_part(tree: Any) -> Any:
    """The one element that claims to be the content, else the whole body."""
    for selector in ("main, [role=main]", "article"):
        found = tree.css(selector)
        if len(found) == 1 and len(found[0].text(deep=True).split()) >= 20:
            return found[0]
    return tree.body or tree.root


def _write(root: Any, writer: TextWriter, is_thorough: bool) -> None:
    """Walk the tree without recursion: pages may nest deeper than Python can call."""
    stack: list[tuple[Any, bool]] = [(root, False)]
    lists: list[int] = []       # open lists: -1 for bullets, else the last number
    inside = 0                  # open main, article and section elements
    while stack:
        node, is_end = stack.pop()
        tag = node.tag
        if tag == "-text":
            writer.words(without_control(node.text_content or ""))
            continue
        if is_end:
            inside -= tag in _SECTIONS
            if tag in ("ul", "ol") and lists:
                lists.pop()
            _end(tag, writer)
            continue
        if tag in _NEVER or is_thorough and node is not root and _is_around(node, tag, inside):
            continue
        if tag == "pre":
            writer.code(without_control(node.text(deep=True)))
            continue
        if tag == "table" and (rows := _rows(node)) is not None:
            if caption := node.css_first("caption"):
                writer.lines(2)
                writer.words(without_control(caption.text(deep=True)))
                writer.lines(1)
            writer.table(rows)
            continue
        inside += tag in _SECTIONS
        _begin(node, tag, writer, lists)
        stack.append((node, True))
        child = node.last_child
        while child is not None:
            stack.append((child, False))
            child = child.prev


def _is_around(node: Any, tag: str, inside: int) -> bool:
    """Whether an element is part of the site and not of the page: menus, footers, banners, hidden things."""
    if tag in _AROUND or tag == "header" and not inside and node.css_first("h1") is None:
        return tag != "footer" or not inside
    attributes = node.attributes
    if not attributes:
        return False
    if "hidden" in attributes or attributes.get("aria-hidden") == "true" or attributes.get("role") in _AROUND_ROLES:
        return True
    return any(_AROUND_NAMES.search(attributes.get(key) or "") for key in ("class", "id")) and tag not in _SECTIONS


def _begin(node: Any, tag: str, writer: TextWriter, lists: list[int]) -> None:
    if tag in _PARAGRAPHS and not (tag in ("ul", "ol", "p") and lists):
        writer.lines(2)
    elif tag in _LINES or tag in _PARAGRAPHS:
        writer.lines(1)
    if tag in ("ul", "ol"):
        lists.append(-1 if tag == "ul" else 0)
    elif tag == "li":
        depth = max(0, len(lists) - 1)
        if lists and lists[-1] >= 0:
            lists[-1] += 1
        writer.prefix("  " * min(depth, 8) + (f"{lists[-1]}. " if lists and lists[-1] > 0 else "- "))
    elif _HEADING.match(tag):
        writer.heading(int(tag[1]))


def _end(tag: str, writer: TextWriter) -> None:
    if _HEADING.match(tag):
        writer.end_heading()
    if tag in _PARAGRAPHS:
        writer.lines(2)
    elif tag in _LINES and tag != "br":
        writer.lines(1)


def _rows(table: Any) -> list[list[str]] | None:
    """Cells of a table of data, None for a table that is there for the layout."""
    if any(node.mem_id != table.mem_id for node in table.css("table, h1, h2, h3, pre, form")):
        return None
    rows = []
    for row in table.css("tr"):
        cells = [cell for cell in row.iter() if cell.tag in ("td", "th")]
        rows.append([" ".join(without_control(cell.text(deep=True, separator=" ")).split()) for cell in cells])
    rows = [row for row in rows if any(row)]
    return rows if rows and max(map(len, rows)) > 1 else None


def _about(tree: Any, writer: TextWriter) -> tuple[str, dict[str, Any]]:
    """Title and metadata that the page states about itself."""
    stated = tree.css_first("head > title")
    title = " ".join(without_control(stated.text(deep=True)).split()) if stated else ""
    first = next((words for _, level, words in writer.headings if level == 1 and words), "")
    # "Return policy | The shop": the heading says it better
    if first and (not title or first in title):
        title = first
    metadata: dict[str, Any] = {}
    language = (tree.root.attributes.get("lang") if tree.root is not None else None) or ""
    if re.fullmatch(r"[A-Za-z]{2,3}(?:[-_]\w{2,8})*", language):
        metadata["lang"] = language
    for key, selector in (("date", "meta[property='article:published_time']"), ("author", "meta[name=author]")):
        found = tree.css_first(selector)
        value = " ".join(without_control(found.attributes.get("content") or "").split()) if found else ""
        if value:
            metadata[key] = value[:200]
    return title, metadata
