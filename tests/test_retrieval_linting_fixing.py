"""Repairs of documents: what is broken is mended, what is not stays, offsets follow, twice is as once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.retrieval.document import Document
from nanochat.retrieval.linting import Fixer, fix, lint
from nanochat.retrieval.linting.fixing import first_line


def doc(content, title="Returns", name="a", **metadata):
    return Document(id=name, title=title, content=content, metadata=metadata)


@pytest.mark.parametrize("text", [
    "It’s “here” – and there…", "ﬁne ﬂow Ａ", "Tom &amp; Jerry", "<p>Text</p>", "می\u200cخواهم", "👩\u200d💻",
    "a\tb\n\nc", "café", "Ã is a letter", "x = 'straight' \"quotes\"", "<|user_start|>",
    "a\u00a0b", "e\u0301", "５ ｋｇ", "Line one\n  indented",
])  # fmt: skip
def test_good_text_stays_as_it_is(text):
    pytest.importorskip("ftfy")
    document = doc(text)
    assert fix(document) is document


@pytest.mark.parametrize(("text", "fixed"), [
    ("Itâ€™s a cafÃ©\nIt’s “good”", "It’s a café\nIt’s “good”"), ("KÃ¶ln", "Köln"),
])  # fmt: skip
def test_mojibake_is_undone(text, fixed):
    pytest.importorskip("ftfy")
    assert fix(doc(text)).content == fixed


@pytest.mark.parametrize(("text", "fixed"), [
    ("\ufeffText", "Text"), ("a\x00b", "ab"), ("zero\u200bwidth", "zerowidth"), ("soft\u00adhyphen", "softhyphen"),
    ("page\fbreak", "page\nbreak"), ("1\u00964", "1–4"), ("it\u0092s", "it’s"), ("\u202eevil\u202c", "evil"),
    ("trailing  \nspace\t\nhere \n\n", "trailing\nspace\nhere"), ("a\r\nb", "a\nb"),
])  # fmt: skip
def test_characters_and_white_space_are_mended(text, fixed):
    mended = fix(doc(text))
    assert mended.content == fixed
    assert not lint([mended])["control_characters"].count


def test_a_missing_title_is_made():
    assert fix(doc("# Return policy #\n\nText", "")).title == "Return policy"
    assert fix(doc("Intro\n\n## Returns\nText", " ")).title == "Returns"
    assert fix(doc("Goods may be returned.\nText", "")).title == "Goods may be returned."
    assert fix(doc("Text", "", headings=[[0, 1, "Policy"]])).title == "Policy"
    title = first_line("word " * 100, {})
    assert len(title) <= 80 and title.endswith("word...")


def test_later_duplicates_are_dropped():
    fixer = Fixer()
    kept = [fixer.fix(document) for document in (
        doc("Same text"), doc("same  text\n", name="b"), doc("Same text", "Other title", "c"),
        doc("\x00\u200b", name="d"))]
    assert [document and document.id for document in kept] == ["a", None, "c", None]
    assert fixer.counts["duplicate"] == 1 and fixer.counts["emptied"] == 1


def test_offsets_follow_the_text():
    content = "\ufeffPage one  \n\x00# First\x00\ntext \n# Second\nmore\x00\n"
    pages = [0, content.index("# Second")]
    headings = [[content.index("# First"), 1, "First"], [content.index("# Second"), 1, "Second"]]
    mended = fix(doc(content, pages=pages, headings=headings, topic="x"))
    assert mended.content == "Page one\n# First\ntext\n# Second\nmore" and mended.metadata["topic"] == "x"
    lines = [mended.content[place:].split("\n")[0] for place, *_ in mended.metadata["headings"]]
    assert lines == ["# First", "# Second"]
    assert mended.content[mended.metadata["pages"][1]:].startswith("# Second") and mended.metadata["pages"][0] == 0


TRICKY = " \n\r\t\f\x00\u200b\ufeff\x92Ãâ€™#"
TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(TRICKY)))


@given(TEXT.filter(str.strip), st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=150, deadline=None)
def test_twice_is_as_once_and_nothing_breaks(text, places):
    document = doc(text, "", pages=sorted({0, *places}))
    once = fix(document)
    if once is None:
        return
    assert once.content.strip() and all(0 <= place <= max(40, len(once.content)) for place in once.metadata["pages"])
    assert not lint([once], skip=["mixed_languages"])["control_characters"].count
    again = fix(once)
    assert again is not None and fix(again).content == again.content


HOSTILE = ["`", "```\n", ". ", "AB12 ", "x\n", "::\n ", ".. a", "&#", "tel ", "Ã©", "0a", "\u200d", "\U000e0041",
           "ab-\n", "~~~a\n", "....5\n", " ", "a \t", "Page 1\n", "_", "4111 ", "1-", "(", ".", ".\n", "a@", "<a x=\"",
           "+1", "\ud800"]


@pytest.mark.parametrize("piece", HOSTILE, ids=map(repr, HOSTILE))
def test_long_runs_of_anything_take_linear_time(piece):
    # quadratic work on so many characters would take minutes
    text = piece * (200_000 // len(piece))
    report = lint([doc(text, text[:2000]), doc(text + "x", "")], questions=["How many of these are there?"])
    assert report.num_documents == 2 and report.html() and report.table()
    assert fix(doc(text, "")) is None or fix(doc(text, "")).content


@given(TEXT, TEXT)
@settings(max_examples=100, deadline=None)
def test_any_text_can_be_linted(content, title):
    report = lint([doc(content, title), doc(title, content, "b")], questions=[content, title])
    assert report.num_documents == 2
    (report.html() + report.table()).encode("utf-8")
