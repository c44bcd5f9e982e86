"""Every format into documents: text, titles, and headings and pages at their exact places."""

import gzip
import json

import pytest
from reader_samples import PAGE, docx, paragraph, pdf

from nanochat.errors import DocumentError
from nanochat.retrieval import READERS, read_documents
from nanochat.retrieval.readers import find_files, read_files

SAMPLES = {
    ".json": b'[{"id": "a", "content": "words"}]', ".jsonl": b'{"id": "a", "content": "words"}',
    ".ndjson": b'{"id": "a", "content": "words"}', ".csv": b"id,content\na,words\n", ".tsv": b"id\tcontent\na\twords\n",
    ".html": PAGE.encode(), ".htm": PAGE.encode(), ".pdf": pdf([["some words"]]), ".docx": docx(paragraph("words")),
}
NEEDS = {".html": "selectolax", ".htm": "selectolax", ".pdf": "pypdf"}


def read(folder, name, content, **options):
    """Documents and problems of one file, parsed in this process."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    [result] = read_files(find_files(path), workers=0, **options)
    for document in result.documents:
        for offset, level, words in document.metadata.get("headings", []):
            assert 1 <= level <= 9
            found = document.content[offset : offset + len(words) + 40]
            # the headings above the second part of a long text stand at its start
            assert not offset or not words or words.split()[0] in found, (words, found)
        assert document.content.strip() and document.title == " ".join(document.title.split())
        json.dumps(document.to_dict(), ensure_ascii=False).encode("utf-8")
    return result.documents, [str(error) for error in result.errors]


def only(folder, name, content):
    [document], errors = read(folder, name, content)
    assert not errors
    return document


def heading_words(document):
    """What stands in the content at each heading, up to the end of the line."""
    return [document.content[offset:].split("\n")[0] for offset, _, _ in document.metadata["headings"]]


@pytest.mark.parametrize("ending", READERS)
def test_every_reader_reads_a_file_and_its_gzip(tmp_path, ending):
    if ending in NEEDS:
        pytest.importorskip(NEEDS[ending])
    content = SAMPLES.get(ending, b"words of a text\n")
    names = [f"x{ending}", f"X{ending.upper()}"] + ([] if ending in (".pdf", ".docx") else [f"x{ending}.gz"])
    for name in names:
        document = only(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
        assert "words" in document.content or "items" in document.content
        assert document.metadata["file"] == name
        assert document.id == ("a" if ending in SAMPLES and ending[1] in "jnct" else name)


def test_text_in_any_usual_encoding(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32", "windows-1252"):
        document = only(tmp_path, "old_notes.txt", "Caf\u00e9\r\n\u201cquoted\u201d".encode(encoding))
        assert (document.title, document.content) == ("old notes", "Caf\u00e9\n\u201cquoted\u201d")
        assert document.metadata.get("encoding", "utf-8") == encoding.removesuffix("-sig")


@pytest.mark.parametrize("content", [
    b"words\x00words", bytes(range(256)), b"\x89PNG\r\n\x1a\n" + bytes(100), b"\xff\xfe\x00\xd8\x00\x00",
    "words".encode("utf-16-le"), b"\x1f\x8bwords", b"\x7fELF\x02\x01\xff",
])  # fmt: skip
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.csv", "a.json"])
def test_binary_data_under_a_text_name_is_skipped(tmp_path, name, content):
    documents, errors = read(tmp_path, name, content)
    assert not documents and len(errors) == 1 and str(tmp_path / name) in errors[0] and "hint" in errors[0]


@pytest.mark.parametrize("name", [f"a{ending}" for ending in READERS if ending not in NEEDS])
@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_an_empty_file_is_an_error_of_its_own(tmp_path, name, content):
    documents, errors = read(tmp_path, name, content)
    assert not documents and len(errors) == 1


MARKDOWN = """---
title: "The handbook"
tags: [a, 'b']
date: 2024-01-31
---

Intro
=====

## Fees & [costs](http://x) ##

```sh
# no heading
```

~~~
## nor this
```
~~~

    # indented code

| a | b |
|---|---|

Setext two
----------

- item
---

# `code` in *it*
#hashtag
####### seven
"""


def test_markdown_is_kept_as_written_with_its_headings(tmp_path):
    document = only(tmp_path, "a.md", MARKDOWN)
    assert document.content == MARKDOWN.split("---\n\n", 1)[1]
    assert document.title == "The handbook"
    assert document.metadata["tags"] == ["a", "b"] and document.metadata["date"] == "2024-01-31"
    levels = [(level, words) for _, level, words in document.metadata["headings"]]
    assert levels == [(1, "Intro"), (2, "Fees & costs"), (2, "Setext two"), (1, "code in it")]
    assert heading_words(document) == ["Intro", "## Fees & [costs](http://x) ##", "Setext two", "# `code` in *it*"]


def test_markdown_without_title_takes_its_first_heading(tmp_path):
    assert only(tmp_path, "a_b.md", "text\n\n# Head\n").title == "Head"
    assert only(tmp_path, "a_b.md", "text").title == "a b"
    assert only(tmp_path, "a.md", "---\nno front matter\n").content == "---\nno front matter\n"


def test_code_is_kept_as_written_with_its_definitions(tmp_path):
    code = "import os\n\nclass A:\n    async def run(self):\n        pass\n\ndef f():\n    pass\n"
    document = only(tmp_path, "a.py", code)
    assert (document.title, document.content) == ("a.py", code)
    assert [item[1:] for item in document.metadata["headings"]] == [[1, "class A"], [2, "def run"], [1, "def f"]]
    document = only(tmp_path, "a.rs", "use x;\npub fn go(a: u8) -> u8 {\n    fn inner() {}\n}\n")
    assert [words for _, _, words in document.metadata["headings"]] == ["fn go(a: u8) -> u8"]


def test_a_very_long_text_becomes_parts_that_lose_nothing(tmp_path):
    text = "".join(f"# Part {number}\n\n## Section\n\n" + "Some words here.\n" * 9000 + "\n" for number in range(20))
    documents, errors = read(tmp_path, "long.md", text)
    assert not errors and len(documents) > 2 and "".join(document.content for document in documents) == text
    assert [document.id for document in documents[:2]] == ["long.md", "long.md:part2"]
    assert documents[1].metadata["parts"] == len(documents)
    assert documents[1].content.startswith("#")
    documents, _ = read(tmp_path, "line.txt", "x" * 2_500_000)
    assert [len(document.content) for document in documents] == [1_000_000, 1_000_000, 500_000]


def test_html_is_what_a_reader_of_the_page_reads(tmp_path):
    pytest.importorskip("selectolax")
    document = only(tmp_path, "page.html", PAGE)
    assert document.title == "Return policy" and document.metadata["lang"] == "en"
    assert heading_words(document) == ["Return policy", "Fees & costs", "How to"]
    assert document.content == """Return policy

Customers can return items within 30 days of delivery, free.

Fees & costs

By country

| Country | Fee |
| --- | --- |
| France | 4.90 \u20ac per \\| parcel |

How to

1. Print it.
2. Pack it.
  - Reuse the box.

```
def f(x):
    return x < 1
```

H2O and cooperation.

Unclosed

block
tail"""


@pytest.mark.parametrize(("content", "expected"), [
    (b'<meta charset="windows-1251"><p>' + "\u0442\u0435\u043a\u0441\u0442".encode("windows-1251"),
     "\u0442\u0435\u043a\u0441\u0442"),
    (b"<p>caf\xe9", "caf\u00e9"), ("<p>\u4f60\u597d".encode("utf-16"), "\u4f60\u597d"),
    ("<nav><p>All that there is</nav>", "All that there is"), ("plain words", "plain words"),
    ("<div>" * 5000 + "deep" + "</div>" * 5000, "deep"), ("<p>a<p hidden>b", "a"), ("<p>x\x07y\u200b", "xy"),
    ("<table><tr><td><table><tr><td>a<td>b</table><td>c</table>", "| a | b |\n\nc"),
    ("<table><tr><td>only<tr><td>cells</table>", "only\ncells"),
    ("<pre>```\nx\n```</pre>", "````\n```\nx\n```\n````"),
])  # fmt: skip
def test_html_of_all_kinds(tmp_path, content, expected):
    pytest.importorskip("selectolax")
    assert only(tmp_path, "a.html", content).content == expected


@pytest.mark.parametrize("content", ["<p> </p>", "<script>words</script>", "<html></html>", "<!-- words -->"])
def test_html_without_text_is_skipped(tmp_path, content):
    pytest.importorskip("selectolax")
    documents, [error] = read(tmp_path, "a.html", content)
    assert not documents and "holds no text" in error


def test_read_documents_reads_any_file_by_name(tmp_path):
    (tmp_path / "a.docx").write_bytes(docx(paragraph("words")))
    assert [document.id for document in read_documents(tmp_path / "a.docx")] == ["a.docx"]
    (tmp_path / "b.docx").write_bytes(b"PK")
    with pytest.raises(DocumentError, match="not a Word file"):
        read_documents(tmp_path / "b.docx")
    assert [document.id for document in read_documents(tmp_path)] == ["a.docx"]
    with pytest.raises(DocumentError, match="not a Word file"):
        read_documents(tmp_path, strict=True)
