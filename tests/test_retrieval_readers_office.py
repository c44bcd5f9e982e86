"""PDF and Word files into documents: structure, places, and what damaged, encrypted or huge files give."""

import io
import struct
import zipfile

import pytest
from reader_samples import docx, paragraph, pdf, table

from nanochat.retrieval.readers import docx as docx_reader
from nanochat.retrieval.readers import find_files, read_files


def read(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    [result] = read_files(find_files(path), workers=0)
    return result.documents, [error.problem for error in result.errors]


def only(folder, name, content):
    [document], errors = read(folder, name, content)
    assert not errors
    return document


REPORT = "".join([
    paragraph("My report", "Title"), paragraph("Introduction 1", "TOC1"), paragraph("Introduction", "H1"),
    "<w:p><w:r><w:t>Hel</w:t></w:r><w:r><w:rPr><w:b/></w:rPr><w:t xml:space='preserve'>lo </w:t></w:r><w:ins><w:r>"
    "<w:t>you</w:t></w:r></w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:br/><w:t>two</w:t></w:r></w:p>",
    paragraph("one", depth=0), paragraph("sub", depth=1), paragraph("after"), paragraph("Data", "H2"),
    table([["a", "b|c"], ["1", ""]]), table([["alone"]]), paragraph(" "), paragraph("end &amp; out"),
])  # fmt: skip


def test_word_files_keep_headings_lists_and_tables(tmp_path):
    core = "<dc:title> The title </dc:title><dc:creator>A. Writer</dc:creator>"
    document = only(tmp_path, "a.docx", docx(REPORT, core=core))
    assert document.title == "The title" and document.metadata["author"] == "A. Writer"
    assert document.content == """My report

Introduction

Hello you
two

- one
  - sub

after

Data

| a | b\\|c |
| --- | --- |
| 1 |  |

alone

end & out"""
    places = [(document.content[offset:].split("\n")[0], level) for offset, level, _ in document.metadata["headings"]]
    assert places == [("My report", 1), ("Introduction", 1), ("Data", 2)]


def test_a_word_file_without_properties_is_called_by_its_heading_or_its_name(tmp_path):
    assert only(tmp_path, "a.docx", docx(REPORT)).title == "My report"
    assert only(tmp_path, "the_name.docx", docx(paragraph("words"))).title == "the name"


BOMB = "<w:p><w:r><w:t>" + "x" * 1000 + "</w:t></w:r></w:p>"


def bomb(monkeypatch, lie=False):
    monkeypatch.setattr(docx_reader, "MAX_XML_BYTES", 50_000)
    content = docx(BOMB * 100)
    if lie:
        # the sizes that the archive states, in front of the file and in its directory
        size = struct.pack("<I", len(zipfile.ZipFile(io.BytesIO(content)).read("word/document.xml")))
        content = content.replace(size, struct.pack("<I", 10))
    return content


def test_zip_bombs_are_not_unpacked(tmp_path, monkeypatch):
    documents, [error] = read(tmp_path, "a.docx", bomb(monkeypatch))
    assert not documents and "unpacks to more than 50,000 bytes" in error
    documents, [error] = read(tmp_path, "a.docx", bomb(monkeypatch, lie=True))
    assert not documents and ("unpacks to more" in error or "damaged" in error)
    monkeypatch.setattr(docx_reader, "MAX_ENTRIES", 1)
    documents, [error] = read(tmp_path, "a.docx", docx(REPORT))
    assert not documents and "more than 1 files" in error


LAUGHS = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(("content", "message"), [
    (docx(REPORT)[:-40], "not a Word file, or damaged"), (docx(REPORT)[:300], "not a Word file, or damaged"),
    (b"", "not a Word file"), (b"PK\x03\x04", "not a Word file"), (docx("<w:p>"), "not a Word file, or damaged"),
    (docx(""), "holds no text"), (docx("&b;", head=LAUGHS), "declares entities"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "encrypted or old Word file"),
    (docx("<w:tbl><w:tr><w:tc>" * 3000 + paragraph("deep") + "</w:tc></w:tr></w:tbl>" * 3000), ""),
])  # fmt: skip
def test_bad_word_files_are_skipped_with_a_reason(tmp_path, content, message):
    documents, errors = read(tmp_path, "a.docx", content)
    if message:
        assert not documents and len(errors) == 1 and message in errors[0]
    else:
        assert documents[0].content == "deep"


def test_a_zip_file_of_something_else_is_skipped(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "words")
    documents, [error] = read(tmp_path, "a.docx", file.getvalue())
    assert not documents and "without word/document.xml" in error


NAMES = ("First", "Second", "Third", "Fourth")
PAGES = [["The shop 2024", f"{name} part", f"Words of page {number} are re-", "turned, well-", f"known and {name}.",
          f"Page {number} of 4"] for number, name in enumerate(NAMES, start=1)]
PAGES[2].insert(2, "A well-known thing.")


@pytest.fixture
def report():
    pytest.importorskip("pypdf")
    return pdf(PAGES, title="Annual report", bookmarks=[("First part", 0), ("Third  part", 2), ("Not printed", 3)])


def test_pdf_pages_have_their_places_and_no_running_headers(tmp_path, report):
    document = only(tmp_path, "a.pdf", report)
    assert document.title == "Annual report"
    assert (document.metadata["author"], document.metadata["date"]) == ("A. Writer", "2024-01-31")
    pages = document.metadata["pages"]
    assert len(pages) == 4 and pages[0] == 0
    for name, offset in zip(NAMES, pages, strict=True):
        assert document.content[offset:].startswith(f"{name} part\n")
    assert "shop" not in document.content and " of 4" not in document.content
    assert "are returned,\nwell-known\nand First." in document.content
    words = [(document.content[offset:].split("\n")[0], level) for offset, level, _ in document.metadata["headings"]]
    assert words == [("First part", 1), ("Third part", 1), ("Fourth part", 1)]


def test_a_pdf_named_by_a_program_is_called_by_its_file(tmp_path, report):
    assert only(tmp_path, "my_report.pdf", pdf(PAGES, title="Microsoft Word - x.doc")).title == "my report"


@pytest.mark.parametrize(("content", "message"), [
    (b"", "not a PDF, or damaged"), (b"%PDF-1.4\n", "not a PDF, or damaged"), (b"words " * 100, "not a PDF"),
    (pdf([[], []]), "no text on its 2 pages: scanned?"), (pdf([]), "no text on its 0 pages"),
    (pdf(PAGES)[:700], "damaged"),
])  # fmt: skip
def test_bad_pdfs_are_skipped_with_a_reason(tmp_path, content, message):
    pytest.importorskip("pypdf")
    documents, errors = read(tmp_path, "a.pdf", content)
    assert not documents and len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize(("password", "message"), [("", ""), ("secret", "is encrypted")])
def test_encrypted_pdfs_need_no_password_or_are_skipped(tmp_path, report, password, message):
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(report))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    documents, errors = read(tmp_path, "a.pdf", file.getvalue())
    assert bool(documents) == (not message) and message in "".join(errors)
