"""Chunking: exact offsets, nothing lost, sentences whole where they fit, ids that never clash."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat.common import run_main
from nanochat.errors import DocumentError
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.retrieval.__main__ import main
from nanochat.retrieval.chunking import chunk_document, chunk_documents, sentence_spans

# words and signs, Chinese with its quotes, Thai, a face, a letter with a mark, and all kinds of white space
PIECES = ["a", "Bo", "Dr.", "e.g.", "U.S.", "J.", "3.5", "end.", "What?", '"Hi."', "(x)", "-", "1.", "...",
          "\u4f60\u597d\u3002", "\u300c", "\u300d", "\u0e44\u0e17\u0e22", "\U0001f600", "e\u0301",
          " ", "  ", "\n", "\n\n", "\t", "\u3000", "\x1c", "\x85"]
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=80).map("".join),
                  st.lists(st.sampled_from(PIECES), max_size=80).map(" ".join))


def doc(content, id="d", **more):
    return Document(id=id, title="A Title", content=content, source="s", **more)


def split(text):
    return [text[start:end] for start, end in sentence_spans(text)]


def without_space(text):
    return "".join(text.split())


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 12))
@example("x" * 50 + ". " + "Word " * 40, 3)
def test_passages_are_exact_pieces_that_leave_out_nothing(content, max_words):
    document = doc(content, metadata={"topic": "t"})
    chunks = chunk_document(document, max_words)
    assert chunks == chunk_document(document, max_words)
    if chunks[0] is document:
        assert len(chunks) == 1 and len(content.split()) <= max_words
        return
    assert len(chunks) > 1
    for number, chunk in enumerate(chunks, start=1):
        place = chunk.metadata
        assert chunk.id == f"d#{number}" and place == {"topic": "t", "parent": "d", **place}
        assert content[place["start"] : place["end"]] == chunk.content and chunk.content == chunk.content.strip()
        assert 1 <= len(chunk.content.split()) <= max_words
        assert (chunk.title, chunk.source) == ("A Title", "s")
    assert "".join(without_space(chunk.content) for chunk in chunks) == without_space(content)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=20), st.integers(1, 12))
def test_only_sentences_above_the_limit_are_cut(lengths, max_words):
    content = " ".join(" ".join(["Word"] * length) + "." for length in lengths)
    chunks = chunk_document(doc(content), max_words)
    pieces = [(chunk.metadata.get("start", 0), chunk.metadata.get("end", len(content))) for chunk in chunks]
    for length, (start, end) in zip(lengths, sentence_spans(content), strict=True):
        assert length > max_words or any(first <= start and end <= last for first, last in pieces)


def test_passages_are_about_equally_long():
    content = " ".join(f"Sentence {number} has exactly six words." for number in range(20))
    chunks = chunk_document(doc(content), 80)
    assert [len(chunk.content.split()) for chunk in chunks] == [60, 60]


def test_characters_without_spaces_count_as_words():
    sentences = ["\u4f60\u597d\u3002", "\u6211\u662f\u4eba\u3002", "\u4ed6\u8bf4\u3002"]
    assert [chunk.content for chunk in chunk_document(doc("".join(sentences)), 3)] == sentences


@pytest.mark.parametrize(("text", "parts"), [
    ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
    ("Dr. Smith met J. K. Low in the U.S. Army. He left.", ["Dr. Smith met J. K. Low in the U.S. Army.", "He left."]),
    ('She said "No." Then (at last.) She left.', ['She said "No."', "Then (at last.)", "She left."]),
    ("It costs 3.5 dollars, e.g. here. see it", ["It costs 3.5 dollars, e.g. here. see it"]),
    ("See No. 5 on Jan. 6. No. That is all.", ["See No. 5 on Jan. 6.", "No.", "That is all."]),
    ("A heading\n\nfirst line\nsecond line", ["A heading", "first line\nsecond line"]),
    ("List:\n- one\n- two\n 3. three", ["List:", "- one", "- two", "3. three"]),
    (" \n ", []), ("", []),
])  # fmt: skip
def test_sentences_end_where_a_reader_would_say(text, parts):
    assert split(text) == parts


@pytest.mark.parametrize("piece", [".", " ", "\n", "a. ", ".) ", "\n ", "x", ".)", "\u4f60", "\n1", '."', "\n- "])
def test_long_runs_take_linear_time(piece):
    # a quadratic pattern would need minutes for this
    content = piece * (300_000 // len(piece))
    assert sum(len(chunk.content) for chunk in chunk_document(doc(content), 80)) <= len(content)


def test_a_limit_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        chunk_document(doc("a b"), 0)


def test_a_passage_with_the_id_of_another_document_is_refused():
    documents = [doc("One two. Three four."), doc("other", id="d#2")]
    with pytest.raises(DocumentError, match=r"passage 'd#2' of document 'd' has the id of another document") as caught:
        chunk_documents(documents, 2)
    assert "rename" in caught.value.hint
    assert [chunk.id for chunk in chunk_documents(documents, 4)] == ["d", "d#2"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "docs.jsonl"
    records = [{"id": "long", "content": "One two three. " * 4, "topic": "x"}, {"id": "s", "content": "short"}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_command_says_how_many_passages_and_the_manifest_keeps_the_length(file, tmp_path, capsys):
    words = ["--documents", str(file), "--output", str(tmp_path / "kb")]
    assert main([*words, "--chunk_words", "6"]) == 0
    assert "2 documents -> 3 passages of at most 6 words" in capsys.readouterr().out
    knowledge_base = KnowledgeBase.open(tmp_path / "kb")
    assert knowledge_base.manifest["chunk_words"] == 6
    assert [document.id for document in knowledge_base.documents] == ["long#1", "long#2", "s"]
    assert knowledge_base.documents[1].metadata == {"topic": "x", "parent": "long", "start": 30, "end": 59,
                                                    "file": file.name}
    assert main(words) == 0
    assert "passages" not in capsys.readouterr().out
    assert KnowledgeBase.open(tmp_path / "kb").manifest["chunk_words"] == 0


def test_mistakes_write_nothing(file, tmp_path, capsys):
    words = ["--documents", str(file), "--output", str(tmp_path / "kb"), "--chunk_words"]
    assert run_main(main, [*words, "-1"]) == 2
    assert "--chunk_words is -1" in capsys.readouterr().err
    file.write_text(file.read_text() + '{"id": "long#1", "content": "mine"}\n')
    assert run_main(main, [*words, "6"]) == 2
    assert "has the id of another document" in capsys.readouterr().err
    assert not (tmp_path / "kb").exists()
