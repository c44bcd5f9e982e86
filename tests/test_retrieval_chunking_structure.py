"""Passages of documents with structure: headings, code, tables, tokens, overlap; exact places and nothing lost."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from nanochat.errors import ConfigError
from nanochat.retrieval import Document
from nanochat.retrieval.chunking import Chunking, chunk_document, spans, spans_function
from nanochat.retrieval.chunking.markup import find_definitions, find_headings

LINES = ["# Head", "## Sub head", "Words of a sentence. And one more!", "a b c d e f g h i j k l m n", "```", "```py",
         "x = 1", "    y = 2", "", "", "| a | b |", "|---|---|", "| some words | more of them |", "- item one", "Under",
         "=====", "\u4f60\u597d\u3002\u6211\u662f\u4eba\u3002", "def f(x):", "x" * 50, "\U0001f600 \u00e9\u0301", "  ",
         "~~~"]
TEXTS = st.lists(st.sampled_from(LINES), max_size=40).map("\n".join)


def doc(content, file="", **metadata):
    if file:
        metadata["file"] = file
    if file.endswith((".md", ".py")):
        found = find_definitions(content, file) if file.endswith(".py") else find_headings(content)
        metadata["headings"] = [list(item) for item in found]
    return Document(id="d", content=content or "x", metadata=metadata)


def passages(content, chunking, file="a.md"):
    return [content[start:end] for start, end in spans(doc(content, file), chunking)]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A byte-level tokenizer of few merges: words of several tokens, signs of several tokens each."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(LINES * 3, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    backend.save(str(path))
    return str(path.parent)


def check(content, found, size, overlap, count):
    """The laws of every chunking."""
    if found == [(0, len(content))]:
        return
    reached = previous = 0
    for start, end in found:
        part = content[start:end]
        assert part and part == part.strip() and count(part) <= size
        assert not content[reached:start].strip(), "something was lost"
        assert end > reached, "a passage brings nothing new"
        if start < reached:
            assert start > previous and count(content[start:reached]) <= overlap
        reached, previous = end, start
    assert not content[reached:].strip()


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1, 25), st.integers(0, 12), st.sampled_from(["", "a.md", "a.py"]))
@example("# A\n## B\n### C", 1, 0, "a.md")
def test_words_of_structured_text(content, size, overlap, file):
    overlap = min(overlap, size // 2)
    document = doc(content, file)
    chunking = Chunking("words", size, overlap)
    found = spans(document, chunking)
    assert found == spans(document, chunking) == spans_function(chunking)(document)

    def count(text):
        # a plain count: it may only be lower, as one word may hold two characters that count
        return len(text.split())

    check(document.content, found, size, overlap, count)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(8, 40), st.integers(0, 12))
@example("\n  \n  \n```py", 8, 0)
def test_tokens_of_structured_text(tokenizer, content, size, overlap):
    overlap = min(overlap, size // 2)
    document = doc(content, "a.md")
    backend = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")

    def count(text):
        return len(backend.encode(text, add_special_tokens=False).ids)

    found = spans(document, Chunking("tokens", size, overlap, tokenizer))
    check(document.content, found, size, overlap + 1, count)


MARKDOWN = """# Guide

Intro of the guide. It has two sentences.

## Install

Run this:

```sh
# not a heading
one two three. Four five six. Seven
```

Then it works.

## Empty

### Prices

| thing | price |
|---|---|
| red apple | one two |
| green pear | three |
"""


def test_headings_start_passages_and_blocks_stay_whole():
    found = passages(MARKDOWN, Chunking("words", 18))
    firsts = [part.split("\n")[0] for part in found]
    assert firsts == ["# Guide", "## Install", "Then it works.", "## Empty", "| green pear | three |"]
    code = next(part for part in found if "```" in part)
    assert code.count("```") == 2
    assert any(part.startswith("## Empty\n\n### Prices\n\n| thing") for part in found)
    for part in found:
        assert "\n## " not in part and all(line.endswith("|") for line in part.split("\n") if line.startswith("|"))
        # the names of the columns are not left alone
        assert not part.endswith("---|")


def test_a_heading_does_not_end_a_passage():
    content = "# Head\n\n" + "Some sentence of six words here. " * 3
    assert passages(content, Chunking("words", 8))[0].startswith("# Head\n\nSome")


def test_long_code_is_cut_between_lines():
    lines = [f"value_{number} = one + two" for number in range(30)]
    content = "Text before.\n\n```\n" + "\n".join(lines) + "\n```\n"
    for part in passages(content, Chunking("words", 20)):
        assert all(line in lines for line in part.split("\n") if line.startswith("value"))


def test_definitions_in_code_share_a_passage_while_they_fit():
    functions = [f"def f{number}(x):\n    y = x\n\n    return y\n" for number in range(8)]
    found = passages("\n".join(functions), Chunking("words", 16), "a.py")
    assert [part.count("def ") for part in found] == [2, 2, 2, 2]
    assert all(part.startswith("def ") for part in found)


def test_headings_in_the_metadata_count_where_the_text_has_no_marks():
    content = "Fees\n\nThey are low. They are fair.\n\nTimes\n\nAlways open. Never closed."
    document = doc(content, "a.pdf", headings=[[0, 1, "Fees"], [content.index("Times"), 1, "Times"]])
    found = spans(document, Chunking("words", 10))
    assert [content[start:end].split("\n")[0] for start, end in found] == ["Fees", "Times"]


@pytest.mark.parametrize("headings", ["x", [1], [["a", 1, "b"]], [[-5, 1, "b"], [10**9, 1, "c"]], {}, [[True, 1, "b"]]])
def test_headings_of_any_form_in_the_metadata_do_no_harm(headings):
    document = Document(id="d", content="One two. Three four.", metadata={"headings": headings, "file": 3})
    assert spans(document, Chunking("words", 2)) == [(0, 8), (9, 20)]


def test_overlap_repeats_whole_sentences_within_a_section():
    sentences = [f"Sentence number {number} here." for number in range(9)]
    content = "# A\n\n" + " ".join(sentences) + "\n\n# B\n\n" + " ".join(sentences)
    found = passages(content, Chunking("words", 12, 4))
    repeats = [two.split(".")[0] in one for one, two in zip(found, found[1:], strict=False)]
    assert found[0].startswith("# A") and repeats.count(False) == 1
    assert all(part.startswith(("# ", "Sentence")) and part.endswith(".") for part in found)
    assert sum(part.startswith("# B") for part in found) == 1


def test_without_structure_passages_are_those_of_chunk_document():
    document = doc("One two three. " * 40)
    places = [chunk.metadata for chunk in chunk_document(document, 10)]
    assert [(place["start"], place["end"]) for place in places] == spans(document, Chunking("words", 10))
    assert spans(document, Chunking()) == [(0, len(document.content))] and spans_function(Chunking()) is None


@pytest.mark.parametrize("settings", [
    {"unit": "pages", "size": 3}, {"unit": "words"}, {"size": 3}, {"unit": "words", "size": -1},
    {"unit": "words", "size": 10, "overlap": 6}, {"unit": "words", "size": 1.5}, {"unit": "tokens", "size": 3},
    {"unit": "words", "size": 3, "tokenizer": "x"}, {"unit": "words", "size": True}, {"unit": []}, {"name": 1},
    {"unit": "tokens", "size": 3, "tokenizer": 4},
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError) as caught:
        Chunking.from_dict(settings)
    assert caught.value.hint


def test_settings_come_back_from_their_record():
    chunking = Chunking("tokens", 100, 20, "somewhere")
    assert Chunking.from_dict(json.loads(json.dumps(chunking.to_dict()))) == chunking


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"model": {"type": "None"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="tokenizer"):
        spans_function(Chunking("tokens", 10, 0, str(tmp_path)))


@pytest.mark.parametrize("piece", ["# a\n", "```\n", "| a |\n", "a\n\n", "def f():\n", "~~~", "|\n", "\n", "x", "# "])
@pytest.mark.parametrize("file", ["a.md", "a.py", ""])
def test_long_runs_take_linear_time(piece, file):
    # a quadratic pattern would need minutes for this
    content = piece * (40_000 // len(piece))
    for overlap in (0, 5):
        assert spans(doc(content, file), Chunking("words", 10, overlap))
