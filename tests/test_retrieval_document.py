"""Documents and the JSONL reader: what is accepted, and what is refused with file and line."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.errors import DocumentError
from nanochat.retrieval import Document, read_documents
from nanochat.retrieval.document import MAX_CONTENT_CHARS, ScoredDocument

GOOD = b'{"id": "a", "title": "T", "content": "some words"}\n'


def record(**changes):
    return {"id": "a", "title": "T", "content": "some words", **changes}


def test_a_record_comes_back_out():
    document = Document.from_dict(record(source="s", topic="x", metadata={"date": "2024-01-01"}))
    assert document.metadata == {"date": "2024-01-01", "topic": "x"}
    assert Document.from_dict(document.to_dict()) == document
    assert json.loads(json.dumps(document.to_dict())) == document.to_dict()
    assert len({document, Document.from_dict(document.to_dict())}) == 1


def test_a_scored_document_is_a_document_with_its_score():
    document = Document.from_dict(record())
    assert ScoredDocument.of(document, 0.5).to_dict() == {**document.to_dict(), "score": 0.5}


def test_whole_numbers_are_ids_and_titles_may_be_missing():
    document = Document.from_dict({"id": 7, "content": "words", "title": None})
    assert (document.id, document.title, document.source) == ("7", "", "")


@pytest.mark.parametrize("bad", [
    {"title": "no id", "content": "words"}, record(id=""), record(id="  "), record(id=None), record(id=1.5),
    record(id=True), record(content=""), record(content=" \n"), record(content=None), record(content=["words"]),
    record(title=3), record(source={}), record(metadata=[1]), [], "text", None, 3,
])  # fmt: skip
def test_bad_records_are_refused_with_their_place(bad):
    with pytest.raises(DocumentError, match=r"^docs\.jsonl:4: .+"):
        Document.from_dict(bad, where="docs.jsonl:4")


def test_text_under_another_key_is_explained():
    with pytest.raises(DocumentError) as caught:
        Document.from_dict({"id": "a", "text": "words"})
    assert "'text'" in caught.value.hint


def test_a_huge_document_names_the_limit():
    with pytest.raises(DocumentError, match="1,000,001 characters.*limit is 1,000,000"):
        Document.from_dict(record(content="x" * (MAX_CONTENT_CHARS + 1)))
    assert Document.from_dict(record(content="x" * MAX_CONTENT_CHARS))


@pytest.mark.parametrize("name", [".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"])
def test_line_readers_accept_byte_order_mark_blank_lines_and_gzip(tmp_path, name):
    text = b"\xef\xbb\xbf" + GOOD + b"\r\n \n" + GOOD.replace(b'"a"', b'"b"').rstrip(b"\n")
    path = tmp_path / f"docs{name}"
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert [document.id for document in read_documents(path)] == ["a", "b"]
    assert [document.id for document in read_documents(path, limit=1)] == ["a"]


HOSTILE = {
    "malformed": (GOOD + b'{"id": "b", "content": }\n', r":2: not valid JSON"),
    "not closed": (GOOD + b'{"id": "b", "content": "x"\n', r":2: not valid JSON"),
    "array": (b'[{"id": "b", "content": "x"}]\n', r":1: expected a JSON object, found a list"),
    "number that is none": (b'{"id": "b", "content": "x", "score": NaN}\n', r":1: not valid JSON: NaN"),
    "too large": (b'{"id": "b", "content": "x", "score": 1e999}\n', r":1: not valid JSON: 1e999"),
    "endless number": (b'{"id": "b", "content": "x", "n": ' + b"9" * 5000 + b"}\n", r":1: not valid JSON"),
    "deep": (b'{"id": "b", "content": "x", "n": ' + b"[" * 200_000 + b"}\n", r":1: "),
    "no content": (GOOD + b'{"id": "b", "title": "x"}\n', r":2: 'content' is missing or empty in document 'b'"),
    "duplicate": (GOOD + b"\n" + GOOD, r":3: duplicate id 'a', first used in line 1"),
    "latin-1": (GOOD + b'{"id": "b", "content": "caf\xe9"}\n', r":2: not UTF-8"),
    "utf-16": (GOOD.decode().encode("utf-16"), r":1: not UTF-8"),
    "half a character": (b'{"id": "b", "content": "x \\ud83d"}\n', r":1: holds half of a character"),
    "empty": (b"", "holds no documents"),
    "only blanks": (b"\n \n", "holds no documents"),
    "binary": (bytes(range(256)) * 10, r":\d+: "),
    "cut gzip": (gzip.compress(GOOD * 1)[:-9], "gzip file is damaged"),
    "false gzip": (b"\x1f\x8b" + GOOD, "gzip file is damaged"),
    "flipped gzip": (gzip.compress(GOOD)[:15] + b"\xff\xff" + gzip.compress(GOOD)[17:], r"docs\.jsonl"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_name(tmp_path, name):
    content, message = HOSTILE[name]
    path = tmp_path / "docs.jsonl"
    path.write_bytes(content)
    with pytest.raises(DocumentError, match=message) as caught:
        read_documents(path)
    assert str(path) in caught.value.problem and caught.value.hint


def test_a_line_without_end_is_not_read_into_memory(tmp_path):
    path = tmp_path / "docs.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD + b'{"id": "b", "content": "' + b"x" * 20_000_000, compresslevel=1))
    with pytest.raises(DocumentError, match=r":2: line is longer than 16,000,000 bytes"):
        read_documents(path)


@pytest.mark.parametrize(("name", "message"), [
    ("missing.jsonl", "file not found"), ("folder.jsonl", "holds no documents"), ("notes.xyz", "no reader"),
])  # fmt: skip
def test_what_is_no_document_file_is_refused(tmp_path, name, message):
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "notes.xyz").write_bytes(GOOD)
    with pytest.raises(DocumentError, match=message):
        read_documents(tmp_path / name)


@given(st.binary(max_size=200))
def test_any_bytes_give_documents_or_a_document_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(content)
    try:
        read_documents(path)
    except DocumentError as error:
        assert str(path) in error.problem
