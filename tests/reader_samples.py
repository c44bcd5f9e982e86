"""Small files of every format for the tests of readers, written by hand so that each byte is known."""

import io
import zipfile
from collections.abc import Sequence

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_STYLES = {"Title": "Title", "H1": "heading 1", "H2": "heading 2", "TOC1": "toc 1"}


def paragraph(text: str, style: str = "", depth: int | None = None) -> str:
    """A paragraph of a Word file; a list item where it has a depth."""
    form = f'<w:pStyle w:val="{style}"/>' if style else ""
    form += f'<w:numPr><w:ilvl w:val="{depth}"/></w:numPr>' if depth is not None else ""
    return f'<w:p><w:pPr>{form}</w:pPr><w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table of a Word file."""
    cells = ("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in cells) + "</w:tbl>"


def docx(body: str, *, core: str = "", head: str = '<?xml version="1.0"?>') -> bytes:
    """A Word file of a body of XML."""
    styles = "".join(f'<w:style w:styleId="{key}"><w:name w:val="{name}"/></w:style>' for key, name in _STYLES.items())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f"{head}<w:document {_W}><w:body>{body}</w:body></w:document>")
        archive.writestr("word/styles.xml", f"<w:styles {_W}>{styles}</w:styles>")
        if core:
            archive.writestr("docProps/core.xml", f'<p xmlns:dc="http://purl.org/dc/elements/1.1/">{core}</p>')
    return file.getvalue()


def pdf(pages: Sequence[Sequence[str]], *, title: str = "", bookmarks: Sequence[tuple[str, int]] = ()) -> bytes:
    """A PDF of pages of lines (ASCII without brackets), with bookmarks (words, number of the page from 0)."""
    first = 4  # objects 1 to 3: catalog, page tree, font; then a page and its content in turn
    marks = first + 2 * len(pages)
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    outline = f"/Outlines {marks} 0 R" if bookmarks else ""
    objects = [f"<< /Type /Catalog /Pages 2 0 R {outline} >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
               "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"]
    for number, lines in enumerate(pages):
        text = "".join(f"({line}) Tj T*\n" for line in lines)
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td\n{text}ET"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {first + 2 * number + 1} 0 R "
                       "/Resources << /Font << /F1 3 0 R >> >> >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    if bookmarks:
        objects.append(f"<< /Type /Outlines /First {marks + 1} 0 R /Last {marks + len(bookmarks)} 0 R >>")
        for number, (words, page) in enumerate(bookmarks, start=1):
            following = f"/Next {marks + number + 1} 0 R" if number < len(bookmarks) else ""
            objects.append(f"<< /Title ({words}) /Parent {marks} 0 R {following} "
                           f"/Dest [{first + 2 * page} 0 R /XYZ 0 0 0] >>")
    objects.append(f"<< /Title ({title}) /Author (A. Writer) /ModDate (D:20240131120000Z) >>")
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table_of = "".join(f"{place:010d} 00000 n \n" for place in places)
    return out + (f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table_of}trailer\n<< /Size {len(objects) + 1} "
                  f"/Root 1 0 R /Info {len(objects)} 0 R >>\nstartxref\n{len(out)}\n%%EOF\n").encode("latin-1")


PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Return policy | The shop</title>
<style>.x{color:red}</style><script>var a = "<p>script</p>";</script></head><body>
<a class="skip-link" href="#main">Skip to content</a><header><nav><ul><li>Home</li></ul></nav></header>
<div id="cookie-banner">We use cookies <button>Accept</button></div><div id=content><h1>Return policy</h1>
<p>Customers can return items within <b>30&nbsp;days</b> of
  delivery, <a href="/pay">free</a>.</p><h2>Fees &amp; costs</h2>
<table><caption>By country</caption><tr><th>Country<th>Fee
<tr><td>France<td>4.90 &euro;<br>per | parcel</tr></table>
<h2>How to</h2><ol><li>Print it.<li>Pack it.<ul><li>Reuse the box.</ul></ol><pre><code>def f(x):
    return x &lt; 1
</code></pre><p>H<sub>2</sub>O and co&shy;operation.<p>Unclosed <div>block</div> tail</div>
<aside>Related articles</aside><footer>All rights reserved</footer></body></html>"""
