"""Hybrid retrieval: both scores of every candidate, whatever side it came from."""

import numpy as np
import pytest
from dense_stubs import WordEncoder, stub_encoders

from nanochat.errors import ConfigError
from nanochat.retrieval import Document, make_retriever
from nanochat.retrieval.retrievers import hybrid
from nanochat.retrieval.retrievers.fusion import convex
from nanochat.retrieval.retrievers.hybrid import ALPHA, HybridRetriever

WORDS = "red blue kite heron sea moss lamp stone river glass".split()
DOCUMENTS = [
    Document(id=str(row), content=" ".join(WORDS[row * step % 10] for step in (1, 3, 7)) + f" w{row % 50}")
    for row in range(300)
]
QUERIES = ["red kite", "moss on stone", "w17 heron w17", "glass"]


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    return stub_encoders(monkeypatch, WordEncoder)


@pytest.fixture
def retriever():
    retriever = make_retriever("hybrid")
    retriever.index(DOCUMENTS)
    return retriever


def by_hand(retriever, query, alpha=ALPHA):
    """Scores of all rows, from full rankings of both parts."""
    dense, lexical = np.zeros(len(DOCUMENTS)), np.zeros(len(DOCUMENTS))
    for part, scores in ((retriever.dense, dense), (retriever.bm25, lexical)):
        for row, score in part.search([query], len(DOCUMENTS))[0]:
            scores[row] = score
    return convex(dense, lexical, alpha=alpha, best_dense=dense.max(), best_lexical=lexical.max())


@pytest.mark.parametrize("depth", [5, 40, 300])
def test_candidates_have_the_score_of_both_sides(retriever, depth, monkeypatch):
    monkeypatch.setattr(hybrid, "_DEPTH", depth)
    monkeypatch.setattr(hybrid, "_DEPTH_PER_HIT", 0)
    for query in QUERIES:
        right, hits = by_hand(retriever, query), retriever.search([query], 10)[0]
        assert len(hits) >= min(depth, 10)
        assert [hit.score for hit in hits] == pytest.approx([right[hit.position] for hit in hits], abs=1e-4)
        if depth == 300:
            order = np.lexsort((np.arange(len(right)), -right.round(4)))[:10]
            assert [hit.position for hit in hits] == order.tolist()


def test_alpha_weighs_the_sides(retriever):
    parts = retriever.bm25, retriever.dense
    for alpha, part in ((0.0, parts[0]), (1.0, parts[1])):
        only = HybridRetriever.of(*parts, alpha=alpha)
        found, expected = only.search(["heron sea"], 5)[0], part.search(["heron sea"], 5)[0]
        assert [hit.position for hit in found] == [hit.position for hit in expected]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_a_filter_changes_no_score(retriever, share):
    allowed = np.random.default_rng(1).random(len(DOCUMENTS)) < share
    for hits, every in zip(retriever.search(QUERIES, 12, allowed=allowed), retriever.search(QUERIES, len(DOCUMENTS))):
        expected = [hit for hit in every if allowed[hit.position]][:12]
        assert [hit.position for hit in hits] == [hit.position for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)


def test_one_side_may_find_nothing(retriever, monkeypatch):
    # a word that no document has: BM25 is silent, the vectors are not
    hits = retriever.search(["zebra"], 4)[0]
    assert len(hits) == 4 and all(hit.score <= ALPHA for hit in hits)
    # a vector of zeros: only BM25 speaks
    monkeypatch.setattr(retriever.dense, "query_vectors", lambda queries: np.zeros((len(queries), 64), np.float32))
    assert [hit.position for hit in retriever.search(["w17"], 3)[0]] == [17, 67, 117]
    assert retriever.search(["zebra", ""], 4) == [[], []]


def test_reciprocal_rank_fusion_needs_no_scores(retriever):
    fused = HybridRetriever.of(retriever.bm25, retriever.dense, fusion="rrf")
    hits = fused.search(QUERIES, 10)
    assert all(len(row) == 10 and row == sorted(row, key=lambda hit: (-hit.score, hit.position)) for row in hits)
    assert max(hit.score for row in hits for hit in row) <= 2 / 11
    assert fused.describe()["fusion"] == "rrf" and fused.search(["?"], 3) == [[]]


def test_pieces_equal_at_once(retriever, tmp_path):
    folder = None
    for number, (start, end) in enumerate([(0, 120), (120, 121), (121, 300)]):
        new = tmp_path / str(number)
        new.mkdir()
        make_retriever("hybrid").write(new, DOCUMENTS[start:end], folder)
        folder = new
    loaded = make_retriever("hybrid")
    loaded.load(folder)
    assert loaded.num_rows == 300 and loaded.describe() == retriever.describe()
    for hits, expected in zip(loaded.search(QUERIES, 20), retriever.search(QUERIES, 20)):
        assert [hit.position for hit in hits] == [hit.position for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)


def test_parts_of_different_length_are_refused(retriever, tmp_path):
    retriever.save(tmp_path)
    other = make_retriever("bm25")
    other.index(DOCUMENTS[:9])
    for file in (tmp_path / "bm25").iterdir():
        file.unlink()
    other.save(tmp_path / "bm25")
    with pytest.raises(ValueError, match="bm25 has 9 rows, dense has 300"):
        make_retriever("hybrid").load(tmp_path)


@pytest.mark.parametrize(("settings", "message"), [
    ({"fusion": "sum"}, "Unknown fusion 'sum'; there are: convex, rrf"),
    ({"alpha": 1.5}, "alpha must lie in 0 .. 1, not 1.5"),
])
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_retriever("hybrid", settings)
