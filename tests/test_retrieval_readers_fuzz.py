"""Readers and hostile bytes: whatever a file holds, they give documents or listed errors, soon, and exact places."""

import gzip
import io
import json
import random
import zipfile

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from reader_samples import PAGE, docx, paragraph, pdf, table

from nanochat.errors import UserError
from nanochat.retrieval import Document
from nanochat.retrieval.chunking import Chunking, spans
from nanochat.retrieval.chunking.markup import find_headings
from nanochat.retrieval.readers import READERS
from nanochat.retrieval.readers.parts import documents_of

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".md", ".html", ".pdf", ".docx", ".py", ".rs")
NEEDS = {".html": "selectolax", ".pdf": "pypdf"}
WORD = docx(paragraph("Title", "Title") + paragraph("one", depth=1) + table([["a", "b"], ["c", "d"]]) + "<w:br/>")
PDF = pdf([["Head", "some words", "Page 1"], ["Head", "more words", "Page 2"], ["Head", "the end", "Page 3"]],
          title="T", bookmarks=[("some words", 0), ("more", 1)])
SEEDS = {
    ".jsonl": b'{"id": "a", "title": "T", "content": "some words", "x": [1]}\n{"id": 2, "content": "more"}\n',
    ".json": b'{"documents": [{"id": "a", "content": "some \\u00e9 words", "x": {"y": 1.5}}, {"content": "b"}]}',
    ".csv": 'id;"title";content\n1;"a ""b""";"caf\u00e9\nx"\n;;\n2;b;c;d\n'.encode(), ".tsv": b'a\tb\n"x"\ty\n1\t2\n',
    ".txt": "caf\u00e9 \u4f60\u597d\r\n\r\nwords".encode("utf-16"),
    ".md": b"---\ntitle: x\n---\n# A *b*\n\n```py\n# c\n```\n\nD\n===\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    ".html": PAGE.encode(), ".pdf": PDF, ".docx": WORD, ".py": b"class A:\n    def f(self):\n        pass\n",
    ".rs": b"pub fn f() {}\nimpl A for B {\n}\n",
}


def check(kind, path, content):
    """Read the bytes and look at everything that comes out."""
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    path.write_bytes(content)
    try:
        entries = list(READERS[kind](path, path.name))
    except UserError as error:
        entries = [(0, error)]
    for line, entry in entries:
        assert isinstance(line, int)
        if isinstance(entry, UserError):
            assert str(path) in entry.problem and entry.hint
            continue
        json.dumps(entry.to_dict(), allow_nan=False, ensure_ascii=False).encode("utf-8")
        assert Document.from_dict(entry.to_dict()) == entry
        if kind not in (".jsonl", ".json", ".csv", ".tsv"):
            places = [offset for offset, _, _ in entry.metadata.get("headings", [])]
            pages = entry.metadata.get("pages", [])
            assert sorted(places) == places and sorted(pages) == pages
            assert all(0 <= offset <= len(entry.content) for offset in [*places, *pages])
        found = spans(entry, Chunking("words", 5, 2))
        assert all(entry.content[start:end].strip() for start, end in found)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
@example(b"\x1f\x8b")
@example(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog /Pages 1 0 R >>\nendobj\ntrailer << /Root 1 0 R >>")
def test_any_bytes(tmp_path, kind, content):
    check(kind, tmp_path / f"x{kind}", content)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_damaged_files(tmp_path, kind, seed, changes):
    """Bytes of a good file changed, dropped, doubled and moved."""
    check(kind, tmp_path / f"x{kind}", damaged(SEEDS[kind], random.Random(seed), changes))


def damaged(content, chance, changes):
    data = bytearray(content)
    for _ in range(changes):
        place, length = chance.randrange(len(data) + 1), chance.randrange(1, 20)
        sign = chance.choice([b"<", b">", b'"', b"{", b"[", b"\n", b"|", b"0", b"9" * 30, b" "])
        match chance.randrange(5):
            case 0:
                data[place:place] = bytes(chance.randrange(256) for _ in range(length))
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length] * chance.randrange(1, 50)
            case 3:
                data[place : place + 1] = sign
            case 4:
                other = chance.randrange(len(data) + 1)
                data[place : place + length] = data[other : other + length]
    return bytes(data)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from(["word/document.xml", "word/styles.xml"]))
def test_damaged_parts_in_a_whole_archive(tmp_path, seed, changes, part):
    """Checksums of zip archives hide most damage from the XML: this puts it inside."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(WORD)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, damaged(data, random.Random(seed), changes) if name == part else data)
    check(".docx", tmp_path / "x.docx", file.getvalue())


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".txt", ".json"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_damaged_gzip(tmp_path, kind, seed):
    check(kind, tmp_path / f"x{kind}.gz", damaged(gzip.compress(SEEDS[kind] * 20), random.Random(seed), 2))


RUNS = ["#", "# ", "\n", "|", "| a ", "```\n", "~~~", "- ", "a\n=\n", "[", "[](", "**", "_", "<", "<b>", "<table>",
        "<!--", "&#", '"', '",', "a,", "\t", "{", '{"a":', "\\", "---\n", "def f", "a-\n", "1", " ", "\u00e9"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (".pdf", ".docx")])
def test_long_runs_take_linear_time(tmp_path, kind):
    # a quadratic pattern would need minutes for this
    size = 5_000 if kind in (".csv", ".tsv", ".jsonl") else 20_000
    for run in RUNS:
        check(kind, tmp_path / f"x{kind}", (run * (size // len(run))).encode())


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab #\n|`~", max_size=120), st.integers(1, 30), st.lists(st.integers(0, 120), max_size=4))
def test_parts_lose_nothing_but_blank_parts(text, limit, pages):
    headings = find_headings(text)
    pages = sorted({0, *(page for page in pages if page <= len(text))})
    parts = list(documents_of(text, "x.md", headings=headings, pages=pages, limit=limit))
    assert "".join("".join(part.content.split()) for part in parts) == "".join(text.split())
    assert all(len(part.content) <= limit for part in parts)
    place = 0
    for part in parts:
        start = text.index(part.content, place)
        for offset in part.metadata["pages"]:
            assert 0 <= offset <= len(part.content)
        number = sum(page <= start for page in pages)
        assert sum(offset <= 0 for offset in part.metadata["pages"]) >= min(1, number)
        place = start + len(part.content)
