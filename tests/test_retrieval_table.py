"""Tables of documents: what is read is what was written, in one part or many, whole or cut into passages."""

import gc
import json
import os
import random
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_stubs import doc, opened, unsynced  # noqa: F401

from nanochat.retrieval.document import Document, ScoredDocument
from nanochat.retrieval.table import PartRecord, Table, document_hash, merge_parts, write_part


def table_of(folder, *blocks, spans=None, deleted=()):
    parts = [opened(folder, write_part(folder, block, spans)) for block in blocks]
    return Table(parts, np.array(deleted, np.int64))


def pieces(document):
    """A plain chunker: 4 characters each, the last ones overlap; contents of up to 4 characters stay whole."""
    length = len(document.content)
    return [(start, min(start + 4, length)) for start in range(0, length, 3)] if length > 4 else [(0, length)]


def expected_passages(document):
    spans = pieces(document)
    if len(spans) == 1:
        return [document]
    return [
        replace(document, id=f"{document.id}#{number}", content=document.content[start:end],
                metadata={**document.metadata, "parent": document.id, "start": start, "end": end})
        for number, (start, end) in enumerate(spans, 1)
    ]  # fmt: skip


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(st.characters(codec="utf-8"), max_size=5),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2), max_leaves=4)
DOCUMENT = st.builds(Document, id=WORDS, title=st.text(st.characters(codec="utf-8"), max_size=5), content=WORDS,
                     source=st.sampled_from(["", "s"]), metadata=st.dictionaries(WORDS, JSON, max_size=2))
DOCUMENTS = st.lists(DOCUMENT, min_size=1, max_size=9, unique_by=lambda document: document.id)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(DOCUMENTS, st.data())
def test_a_table_is_the_list_of_its_passages(tmp_path_factory, documents, data):
    folder = tmp_path_factory.mktemp("table")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(documents)), max_size=3)) | {len(documents)})
    blocks = [documents[start:end] for start, end in zip([0, *cuts], cuts)]
    spans = data.draw(st.sampled_from([None, pieces]))
    passages_of = expected_passages if spans else lambda document: [document]
    rows, passages = {}, []
    for document in documents:
        rows[document.id] = list(range(len(passages), len(passages) + len(passages_of(document))))
        passages += passages_of(document)
    gone = data.draw(st.sets(st.sampled_from(documents), max_size=3)) if len(documents) > 1 else set()
    deleted = sorted(row for document in gone for row in rows[document.id])
    table = table_of(folder, *blocks, spans=spans, deleted=deleted)
    if data.draw(st.booleans()):
        table = Table([opened(folder, merge_parts(folder, table.parts))], table.deleted)

    live = [row for row in range(len(passages)) if row not in deleted]
    assert (table.num_rows, table.num_live) == (len(passages), len(live))
    assert table.documents == [passages[row] for row in live]
    assert [table.documents[place] for place in range(-len(live), 0)] == [passages[row] for row in live]
    assert list(table.documents[1::2]) == [passages[row] for row in live[1::2]]
    assert list(reversed(table.documents)) == [passages[row] for row in reversed(live)]
    assert list(table.rows(1, table.num_rows)) == passages[1:] and [table.passage(row) for row in rows[documents[0].id]]
    wanted = data.draw(st.lists(st.integers(0, len(passages) - 1), max_size=6))
    assert table.passages(wanted) == [passages[row] for row in wanted]
    assert table.passages(wanted * 30) == [passages[row] for row in wanted] * 30
    assert list(table.whole_documents) == [document for document in documents if document not in gone]
    assert table.num_documents == len(documents) - len(gone)
    for document in documents:
        is_live = document not in gone
        assert table.find(document.id) == (rows[document.id] if is_live else [])
        assert table.document(document.id) == (document if is_live else None)
        assert table.hash_of(document.id) == (document_hash(document) if is_live else None)
        for place, row in enumerate(rows[document.id]):
            around = rows[document.id][max(0, place - 1) : place + 3]
            assert table.neighbours(row, 1, 2) == (around if is_live else [])
            assert passages[row].id in rows or table.find(passages[row].id) == ([row] if is_live else [])


@given(DOCUMENTS, st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_parts_merged_are_the_part_written_at_once(tmp_path_factory, documents, cut):
    folder = tmp_path_factory.mktemp("table")
    blocks = [block for block in (documents[:cut], documents[cut:]) if block]
    merged = merge_parts(folder, table_of(folder, *blocks, spans=pieces).parts)
    assert merged == write_part(folder, documents, pieces)
    assert PartRecord.from_dict(json.loads(json.dumps(merged.to_dict()))) == merged


def test_ids_that_name_nothing_are_not_found(tmp_path):
    table = table_of(tmp_path, [doc("a", "one two three"), doc("b", "x"), doc("c#1", "y")], spans=pieces)
    assert table.find("a#1") == [0] and table.find("c#1") == [6]
    for unknown in ("", "#", "#1", "a#", "a#0", "a#01", "a#99", "a#-1", "a#1#1", "a#\u0661", "b#1", "c", "A", "\ud800",
                    "a#" + "9" * 5000):
        assert table.find(unknown) == [], unknown
    assert table.document("a#1") is None and table.hash_of("\ud800") is None


def test_an_id_may_come_back_after_it_was_deleted(tmp_path):
    table = table_of(tmp_path, [doc("a", "old"), doc("b")], [doc("a", "new")], deleted=[0])
    merged = Table([opened(tmp_path, merge_parts(tmp_path, table.parts))], table.deleted)
    for each in (table, merged):
        assert each.find("a") == [2] and each.document("a").content == "new"
    assert Table(merged.parts, np.array([2])).document("a").content == "old"
    assert merged.parts[0].find("a") == 2 and merged.parts[0].find("x") is None


def test_passages_tell_their_heading_and_page(tmp_path):
    text = "Intro. # One text # Two text # Three text"
    places = [text.index("#"), text.index("# Two"), text.index("# Three")]
    headings = [[places[0], 1, "One"], [places[1], 2, "Two\n words"], [places[2], 1, "Three"]]
    document = doc("a", text, headings=headings, pages=[0, 10, 20], topic="t", heading="mine")
    table = table_of(tmp_path, [document], spans=lambda _: [(0, 6), (7, 16), (places[1], 26), (places[2], len(text))])
    metadata = [passage.metadata for passage in table.documents]
    assert [each["heading"] for each in metadata] == ["mine", "One", "One > Two words", "Three"]
    assert [each["page"] for each in metadata] == [1, 1, 2, 3]
    assert all(each["topic"] == "t" and "headings" not in each and "pages" not in each for each in metadata)
    assert table.documents[2].text.startswith("about a\nOne > Two words\n# Two")
    assert table.document("a") == document and table.passage(1).content == text[7:16]


@pytest.mark.parametrize("own", [{"headings": "text"}, {"headings": [["x", 1, "y"]]}, {"pages": ["1"]}, {"pages": 3}])
def test_metadata_that_only_looks_like_a_readers_is_kept(tmp_path, own):
    first, _ = table_of(tmp_path, [doc("a", "one two", **own)], spans=lambda _: [(0, 3), (4, 7)]).documents
    assert first.metadata == {**own, "parent": "a", "start": 0, "end": 3}


def test_the_only_passage_is_the_document_when_it_is_all_of_it(tmp_path):
    table = table_of(tmp_path, [doc("a", " one two\n")], spans=lambda _: [(1, 8)])
    assert list(table.documents) == [doc("a", " one two\n")]
    assert table_of(tmp_path, [doc("a", "one two")], spans=lambda _: [(0, 3)]).passage(0).id == "a#1"


def test_what_json_changes_is_changed_before_it_is_hashed(tmp_path):
    given_document = Document(id=7, content="x", title=None, metadata={1: ("a", "b")})
    table = table_of(tmp_path, [given_document, ScoredDocument(id="s", content="x", score=0.5)])
    assert table.document("7") == Document(id="7", content="x", metadata={"1": ["a", "b"]})
    assert table.document("s") == Document(id="s", content="x")
    assert table.hash_of("7") == document_hash(given_document) == document_hash(table.document("7"))
    assert document_hash(doc("a", x=1, y=2)) == document_hash(doc("a", y=2, x=1)) != document_hash(doc("a", x=1, y=3))


def test_rows_outside_the_table_and_wrong_deletions_are_refused(tmp_path):
    table = table_of(tmp_path, [doc("a"), doc("b")], [doc("c")])
    for row in (-1, 3):
        for ask in (table.passage, table.neighbours, lambda row: table.passages([row])):
            with pytest.raises(IndexError):
                ask(row)
    for deleted in ([3], [-1], [1, 0], [1, 1]):
        with pytest.raises(ValueError, match="deleted rows"):
            Table(table.parts, np.array(deleted))
    empty = Table([], None)
    assert (len(empty.documents), list(empty.whole_documents), empty.find("a"), empty.num_documents) == (0, [], [], 0)
    assert empty.live is None and Table(table.parts, np.array([1])).live.tolist() == [True, False, True]


def test_threads_read_the_same_as_one(tmp_path):
    table = table_of(tmp_path, *([doc(f"{block}-{n}", "one two three four") for n in range(20)] for block in range(3)),
                     spans=pieces)
    passages, wrong = list(table.documents), []

    def read(seed):
        dice = random.Random(seed)
        for _ in range(300):
            row = dice.randrange(table.num_rows)
            if table.passage(row) != passages[row] or row not in table.find(passages[row].metadata["parent"]):
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files")
def test_a_table_that_is_dropped_closes_its_files(tmp_path):
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        table = table_of(tmp_path, *([doc(f"{n}", k=n)] for n in range(20)))
        assert len(table.documents) == len(list(table.documents)) == len(table.fields.matching("k", bool)) == 20
        assert len(os.listdir("/proc/self/fd")) - before <= 20
        del table
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_documents_stream_through_a_writer(tmp_path):
    tracemalloc.start()
    record = write_part(tmp_path, (doc(str(number), "x" * 5000) for number in range(3000)), None)
    part = opened(tmp_path, record)
    assert sum(1 for _ in Table([part]).documents) == 3000
    merge_parts(tmp_path, [part])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record.files["documents.jsonl"]["bytes"] > 15_000_000 and peak < 6_000_000, peak
