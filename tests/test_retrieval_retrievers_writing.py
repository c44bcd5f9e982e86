"""Laws of every retriever in the table about rows: written in pieces, added to, allowed or not."""

import os
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_retrieval_retrievers import EXACT, LEXICAL, RETRIEVERS, built, made, positions

from nanochat.retrieval import Document

WORDS = "red blue kite heron flies sings over near lake hill old new tree boat fish wind rain sun moon star".split()


def documents_of(count, seed=0):
    choose = random.Random(seed)
    return [
        Document(id=f"r{number}", title=choose.choice(WORDS), content=" ".join(choose.choices(WORDS, k=5 + number % 9)))
        for number in range(count)
    ]


DOCUMENTS = documents_of(400)
QUERIES = ["red kite", "heron near the lake", "wind rain wind", "old boat fish tree moon", "star"]


@pytest.fixture(params=RETRIEVERS)
def name(request):
    return request.param


def written(name, folder, documents, pieces, first=0):
    """A retriever loaded from an index written in so many pieces (after the first rows), and the folder of the last."""
    choose, previous = random.Random(pieces), None
    cuts = [first, *sorted(choose.choices(range(first, len(documents) + 1), k=pieces - 1)), len(documents)]
    for number, (start, end) in enumerate(zip(cuts, cuts[1:]) if not first else zip([0, *cuts], cuts)):
        target = folder / f"{number}"
        target.mkdir(parents=True)
        made(name).write(target, documents[start:end], previous)
        previous = target
    retriever = made(name)
    retriever.load(previous)
    return retriever, previous


def assert_alike(name, found, expected):
    assert [positions(hits) for hits in found] == [positions(hits) for hits in expected]
    if name in EXACT:
        assert found == expected
    for one, other in zip(found, expected):
        assert [score for _, score in one] == pytest.approx([score for _, score in other], rel=1e-5, abs=1e-5)


def contents(folder):
    return {file.relative_to(folder): (file.read_bytes(), file.stat().st_mtime_ns) for file in files_of(folder)}


def files_of(folder):
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_written_in_pieces_equals_written_at_once(name, pieces, tmp_path):
    if name in LEXICAL:
        retriever, _ = written(name, tmp_path, DOCUMENTS, pieces)
        expected = built(name, DOCUMENTS)
    else:
        # an encoder fitted to the first rows goes on with them: the same beginning, then the rest at once
        retriever, _ = written(name, tmp_path / "a", DOCUMENTS, min(pieces, 9), first=200)
        expected, _ = written(name, tmp_path / "b", DOCUMENTS, 1, first=200)
    assert retriever.num_rows == expected.num_rows == len(DOCUMENTS)
    assert_alike(name, retriever.search(QUERIES, 30), expected.search(QUERIES, 30))


def test_adding_leaves_the_previous_folder_as_it_is_and_links_to_it(name, tmp_path):
    _, folder = written(name, tmp_path, DOCUMENTS, 2)
    before, target = contents(folder), tmp_path / "next"
    target.mkdir()
    made(name).write(target, documents_of(10, seed=1), folder)
    assert contents(folder) == before
    assert sum(file.stat().st_nlink > 1 for file in files_of(target)) > 0
    retriever = made(name)
    retriever.load(target)
    assert retriever.num_rows == len(DOCUMENTS) + 10 and contents(folder) == before


def test_loading_and_searching_leave_the_folder_as_it_is(name, tmp_path):
    retriever, folder = written(name, tmp_path, DOCUMENTS, 3)
    before = contents(folder)
    again = made(name)
    again.load(folder)
    assert again.search(QUERIES, 5) == retriever.search(QUERIES, 5) and contents(folder) == before


def test_what_was_loaded_can_be_saved(name, tmp_path):
    retriever, folder = written(name, tmp_path, DOCUMENTS[:50], 2)
    before, target = contents(folder), tmp_path / "copy"
    target.mkdir()
    retriever.save(target)
    again = made(name)
    again.load(target)
    assert again.search(QUERIES, 5) == retriever.search(QUERIES, 5) and contents(folder) == before


def test_a_folder_that_cannot_be_written_is_read(name, tmp_path, monkeypatch):
    retriever, folder = written(name, tmp_path, DOCUMENTS[:50], 2)
    before = contents(folder)
    # the super-user of a test machine may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    again = made(name)
    again.load(folder)
    assert again.search(QUERIES, 5) == retriever.search(QUERIES, 5) and contents(folder) == before


def test_writing_does_not_change_what_is_loaded(name, tmp_path):
    retriever, folder = written(name, tmp_path, DOCUMENTS, 2)
    before, target = retriever.search(QUERIES, 9), tmp_path / "next"
    target.mkdir()
    retriever.write(target, DOCUMENTS[:20], folder)
    assert retriever.search(QUERIES, 9) == before and retriever.num_rows == len(DOCUMENTS)


@pytest.mark.parametrize("pieces", [1, 3])
def test_an_empty_index_can_be_added_to(name, pieces, tmp_path):
    retriever, folder = written(name, tmp_path, [], pieces)
    assert retriever.num_rows == 0 and retriever.search(QUERIES, 3) == [[]] * len(QUERIES)
    target = tmp_path / "next"
    target.mkdir()
    made(name).write(target, DOCUMENTS, folder)
    retriever.load(target)
    assert_alike(name, retriever.search(QUERIES, 20), built(name, DOCUMENTS).search(QUERIES, 20))


class Lazy(Sequence):
    """Documents made when they are asked for."""

    def __len__(self):
        return len(DOCUMENTS)

    def __getitem__(self, place):
        return DOCUMENTS[place]


def test_documents_may_be_any_sequence(name, tmp_path):
    made(name).write(tmp_path, Lazy())
    retriever = made(name)
    retriever.load(tmp_path)
    assert_alike(name, retriever.search(QUERIES, 20), built(name, DOCUMENTS).search(QUERIES, 20))


@pytest.fixture(scope="module")
def everyone():
    found = {name: built(name, DOCUMENTS) for name in RETRIEVERS}
    return [(name, retriever, retriever.search(QUERIES, len(DOCUMENTS))) for name, retriever in found.items()]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0, 0.005, 0.02, 0.1, 0.5, 0.95, 1]), top_k=st.integers(1, 500))
def test_allowed_rows_are_those_of_a_search_without_the_others(everyone, seed, share, top_k):
    allowed = np.random.default_rng(seed).random(len(DOCUMENTS)) < share
    for name, retriever, hits in everyone:
        expected = [[hit for hit in row if allowed[hit.position]][:top_k] for row in hits]
        found = retriever.search(QUERIES, top_k, allowed=allowed)
        assert_alike(name, found, expected)
        assert all(allowed[position] for row in found for position, _ in row)


def test_rows_that_are_all_allowed_change_nothing(name):
    retriever = built(name, DOCUMENTS)
    assert retriever.search(QUERIES, 9, allowed=np.ones(len(DOCUMENTS), bool)) == retriever.search(QUERIES, 9)
    assert retriever.search(QUERIES, 9, allowed=np.zeros(len(DOCUMENTS), bool)) == [[]] * len(QUERIES)


def test_allowed_rows_at_the_very_end_of_the_ranking_are_found(name):
    # few enough to be far down, too many to be named in a query one by one
    many = [Document(id=f"k{number}", content="kite kite kite") for number in range(900)]
    many += [Document(id=f"l{number}", content=f"kite in a longer text about lamp {number}") for number in range(100)]
    retriever = made(name)
    retriever.index(many)
    allowed = np.arange(len(many)) >= 900
    every = [hit for hit in retriever.search(["kite"], len(many))[0] if allowed[hit.position]]
    found = retriever.search(["kite"], 7, allowed=allowed)[0]
    assert [hit.position for hit in found] == [hit.position for hit in every[:7]]
