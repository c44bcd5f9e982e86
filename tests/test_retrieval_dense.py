"""Dense retrieval: what is written in pieces, found again after a crash, searched exactly and by codes."""

import json

import numpy as np
import pytest
from dense_stubs import LearningEncoder, WordEncoder, stub_encoders
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.errors import KnowledgeBaseError
from nanochat.retrieval import Document, make_retriever
from nanochat.retrieval.vectors import index as vector_index
from nanochat.retrieval.vectors import quantised
from nanochat.retrieval.vectors.known import Journal, KnownVectors, text_keys
from nanochat.retrieval.vectors.store import to_float32

WORDS = "red blue kite heron sea moss lamp stone river glass".split()
DOCUMENTS = [
    Document(id=str(number), content=" ".join(WORDS[number * step % 10] for step in (1, 3, 7, 9)) + f" w{number}")
    for number in range(400)
]
QUERIES = ["red kite", "moss on stone", "w17 heron", "glass"]


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
    return stub_encoders(monkeypatch, WordEncoder)


def written(folder, documents, previous=None, **attributes):
    folder.mkdir()
    retriever = make_retriever("dense")
    vars(retriever).update(attributes)
    retriever.write(folder, documents, previous)
    return folder


def loaded(folder, **settings):
    retriever = make_retriever("dense", settings)
    retriever.load(folder)
    return retriever


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("kind", [WordEncoder, LearningEncoder])
@pytest.mark.parametrize("cuts", [[200], [1] * 45, [5, 100, 3, 1, 60, 200], [0, 7, 0]])
def test_written_in_pieces_equals_written_at_once(kind, cuts, tmp_path, monkeypatch):
    stub_encoders(monkeypatch, kind)
    ends = np.cumsum(cuts).tolist()
    at_once = loaded(written(tmp_path / "once", DOCUMENTS[: ends[-1]]))
    folder, start = None, 0
    for end in ends:
        before = bytes_of(folder) if folder else {}
        new = written(tmp_path / f"to{len(list(tmp_path.iterdir()))}", DOCUMENTS[start:end], folder)
        assert folder is None or bytes_of(folder) == before, "the previous index has changed"
        folder, start = new, end
    in_pieces = loaded(folder)
    assert in_pieces.num_rows == ends[-1] and in_pieces.describe() == at_once.describe()
    assert in_pieces.search(QUERIES, 30) == at_once.search(QUERIES, 30)
    assert len(list(folder.glob("v-*"))) <= 1 + np.log2(ends[-1]), "files grow with the logarithm of the rows"


def test_unchanged_files_are_links(tmp_path):
    first = written(tmp_path / "a", DOCUMENTS[:300])
    second = written(tmp_path / "b", DOCUMENTS[300:303], first)
    pairs = [(file, second / file.name) for file in first.iterdir()]
    same = {file.name for file, other in pairs if other.exists() and file.samefile(other)}
    assert same == {"v-000000000000-000000000300.npy", "k-000000000000-000000000300.npy", "encoder.json"}


def test_an_interrupted_write_goes_on_where_it_was(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr("nanochat.retrieval.vectors.encoding.BLOCK_ROWS", 64)
    encoder.fail_after = 200
    with pytest.raises(RuntimeError):
        written(tmp_path / "a", DOCUMENTS, journal=tmp_path / "work")
    encoder.fail_after, encoder.encoded = None, 0
    assert len(list((tmp_path / "work").rglob("*.keys.npy"))) == 3
    resumed = loaded(written(tmp_path / "b", DOCUMENTS, journal=tmp_path / "work"))
    assert encoder.encoded == 400 - 3 * 64
    assert resumed.search(QUERIES, 9) == loaded(written(tmp_path / "c", DOCUMENTS)).search(QUERIES, 9)


def test_vectors_of_equal_texts_are_reused_if_the_encoder_is_the_same(tmp_path, monkeypatch, encoder):
    old = written(tmp_path / "old", DOCUMENTS)
    encoder.encoded = 0
    changed = [*DOCUMENTS[100:150], Document(id="new", content="moss"), *DOCUMENTS[:50]]
    new = loaded(written(tmp_path / "new", changed, reuse=old))
    assert encoder.encoded == 1
    assert new.search(QUERIES, 9) == loaded(written(tmp_path / "fresh", changed)).search(QUERIES, 9)
    other = stub_encoders(monkeypatch, type("Other", (WordEncoder,), {"fingerprint": "other"}))
    written(tmp_path / "other", changed, reuse=old)
    assert other.encoded == 101
    written(tmp_path / "gone", changed, reuse=tmp_path / "nothing here")


def test_equal_texts_of_a_block_are_encoded_once(tmp_path, encoder):
    written(tmp_path / "a", DOCUMENTS[:5] * 100)
    assert encoder.encoded == 5


def test_an_encoder_that_learns_learns_from_the_first_texts_only(tmp_path, monkeypatch):
    encoder = stub_encoders(monkeypatch, LearningEncoder)
    folder = written(tmp_path / "a", DOCUMENTS[:30])
    assert encoder.fits == [10] and (folder / "texts.jsonl").exists()
    folder = written(tmp_path / "b", DOCUMENTS[30:39], folder)
    assert encoder.fits == [10]
    folder = written(tmp_path / "c", DOCUMENTS[39:41], folder)
    assert encoder.fits == [10, 40] and not (folder / "texts.jsonl").exists(), "it will not learn again"


def test_scores_are_cosines_and_ties_go_by_row():
    retriever = make_retriever("dense")
    retriever.index([Document(id=str(number), content="kite" if number % 2 else "moss") for number in range(50)])
    hits = retriever.search(["kite"], 30)[0]
    assert [hit.position for hit in hits] == [*range(1, 50, 2), 0, 2, 4, 6, 8]
    assert hits[0].score == pytest.approx(1, abs=1e-3) and abs(hits[-1].score) < 0.9


def test_queries_without_a_word_find_nothing_and_others_do():
    retriever = make_retriever("dense")
    assert retriever.search(["kite"], 3) == [[]] and retriever.num_rows == 0
    retriever.index(DOCUMENTS)
    found = retriever.search(["", "?!", "the of", "kite", "\ud800"], 3)
    assert [len(hits) for hits in found] == [0, 0, 0, 3, 0]


# small enough to be quick, large enough for codes


@pytest.fixture(params=["all rows", "lists"])
def large(tmp_path, monkeypatch, request):
    """1,000 rows with codes, in two spans, scanned whole or by lists."""
    pytest.importorskip("faiss")
    if request.param == "lists":
        for name, value in {"LISTED_ROWS": 600, "_NUM_LISTS": 20, "_SCANNED_LISTS": 0.7}.items():
            monkeypatch.setattr(quantised, name, value)
    monkeypatch.setattr(quantised, "EXACT_ROWS", 300)
    monkeypatch.setattr(quantised, "_TRAINING_ROWS", 500)
    monkeypatch.setattr(vector_index, "_GATHER_ROWS", 50)
    monkeypatch.setattr(vector_index, "_CANDIDATES", 100)
    texts = [f"{WORDS[row % 10]} {WORDS[row % 7]} v{row % 97}" for row in range(1000)]
    documents = [Document(id=str(row), content=text) for row, text in enumerate(texts)]
    first = written(tmp_path / "first", documents[:900])
    return written(tmp_path / "second", documents[900:], first)


def test_codes_find_what_exact_search_finds(large, request):
    assert len(list(large.glob("c-*"))) == 2
    assert (large / quantised.LISTS).is_file() == ("lists" in request.node.name)
    by_codes, exact = loaded(large), loaded(large, exact=True)
    found, expected = by_codes.search(QUERIES, 10), exact.search(QUERIES, 10)
    assert by_codes.search(QUERIES, 10) == [by_codes.search([query], 10)[0] for query in QUERIES]
    for hits, right in zip(found, expected):
        # at equal scores another row may be found
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in right], abs=0.05)
        assert sum(hit in right for hit in hits) >= 8
        assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.position))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.03, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("exact", [True, "auto"])
def test_only_allowed_rows_are_found(large, share, exact):
    retriever = loaded(large, exact=exact)
    allowed = np.random.default_rng(3).random(1000) < share
    for hits, every in zip(retriever.search(QUERIES, 20, allowed=allowed), retriever.search(QUERIES, 1000)):
        assert len(hits) == min(20, allowed.sum()) and all(allowed[row] for row, _ in hits)
        right = [hit for hit in every if allowed[hit.position]][:20]
        assert hits == right if exact is True or share < 0.05 else sum(hit in right for hit in hits) >= 0.8 * len(right)


def test_allowed_rows_far_from_the_query_are_found(large):
    by_codes, exact = loaded(large), loaded(large, exact=True)
    for query in QUERIES:
        allowed = np.zeros(1000, bool)
        allowed[[hit.position for hit in exact.search([query], 1000)[0]][-400:]] = True
        found, right = (retriever.search([query], 20, allowed=allowed)[0] for retriever in (by_codes, exact))
        assert len(found) == 20 and all(allowed[hit.position] for hit in found)
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in right], abs=0.05)


def test_codebooks_are_kept_until_the_collection_has_grown_four_times(large, tmp_path):
    record = json.loads((large / "dense.json").read_text())["vectors"]
    assert record["trained_rows"] == 900 and (tmp_path / "first/pq-codebook.npy").samefile(large / "pq-codebook.npy")
    grown = written(tmp_path / "grown", [Document(id=str(row), content=f"sea {row}") for row in range(2700)], large)
    assert json.loads((grown / "dense.json").read_text())["vectors"]["trained_rows"] == 3700
    assert not (grown / "pq-codebook.npy").samefile(large / "pq-codebook.npy")


def test_without_faiss_the_search_is_exact(large, monkeypatch, caplog):
    expected = loaded(large, exact=True).search(QUERIES, 10)
    for module in (quantised, vector_index):
        monkeypatch.setattr(module, "has_faiss", lambda: False)
    monkeypatch.setattr(vector_index, "_MATRIX_BYTES", 1000)
    assert loaded(large).search(QUERIES, 10) == expected
    assert "faiss is not installed" in caplog.text


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_exact_search_equals_sorting_all_scores(data):
    num_rows, dimension = data.draw(st.integers(1, 90)), data.draw(st.sampled_from([1, 3, 17, 64]))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    matrix = random.integers(-2, 3, (num_rows, dimension)).astype(np.float32)
    queries = random.standard_normal((data.draw(st.integers(1, 40)), dimension)).astype(np.float32)
    allowed = random.random(num_rows) < data.draw(st.sampled_from([0.1, 0.6, 1.0]))
    top_k = data.draw(st.integers(1, 100))
    for query, hits in zip(queries, vector_index.search_exact(matrix, queries, top_k, allowed)):
        scores = np.vecdot(matrix, query)
        order = [row for row in np.lexsort((np.arange(num_rows), -scores)).tolist() if allowed[row]][:top_k]
        assert [tuple(hit) for hit in hits] == [(row, scores[row]) for row in order]
    assert vector_index.search_exact(matrix, queries, top_k, allowed)[-1] == vector_index.search_exact(
        matrix, queries[-1:], top_k, allowed)[0]


def test_all_finite_halves_become_the_same_numbers():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    found, expected = to_float32(halves), halves.astype(np.float32)
    # where something in the process (training does) has made the processor flush denormals, the smallest become 0
    is_small = np.abs(expected) < np.finfo(np.float16).smallest_normal
    assert np.array_equal(found[~is_small], expected[~is_small])
    assert np.isin(found[is_small] - expected[is_small], 0).all() or not found[is_small].any()


def test_known_vectors_are_told_from_those_with_a_similar_key():
    known = KnownVectors()
    keys = text_keys(["a", "b", "c"])
    assert not known.fill(keys, np.zeros((3, 2), np.float16)).any()
    known.add(keys[:1], np.ones((1, 2), np.float16))
    known.add(keys[2:], np.full((1, 2), 2, np.float16))
    twin = keys[:1].copy()
    twin[0, 15] ^= 1  # the same first half
    vectors = np.zeros((4, 2), np.float16)
    assert known.fill(np.concatenate([keys, twin]), vectors).tolist() == [True, False, True, False]
    assert vectors[:, 0].tolist() == [1, 0, 2, 0]


def test_unfinished_blocks_of_a_journal_are_passed_over(tmp_path):
    journal, keys = Journal(tmp_path / "j"), text_keys(list("abcd"))
    for start in (0, 2):
        journal.save(keys[start : start + 2], np.full((2, 3), start, np.float16))
    cut = sorted((tmp_path / "j").glob("*.vectors.npy"))[0]
    cut.write_bytes(cut.read_bytes()[:-4])
    (tmp_path / "j" / "ff.keys.npy").write_bytes(b"nonsense")
    known = KnownVectors()
    journal.load(known, 3)
    assert known.fill(keys, np.zeros((4, 3), np.float16)).sum() == 2


@pytest.mark.parametrize("record", [
    [], {}, {"encoder": 3}, {"encoder": {"model": ""}, "vectors": {}}, {"encoder": {"model": ""}, "vectors": None},
    {"encoder": {"model": ""}, "vectors": {"dimension": 8, "spans": [[5, 10]], "trained_rows": 0}},
    {"encoder": {"model": ""}, "vectors": {"dimension": 8, "spans": [["../x", 10]], "trained_rows": 0}},
    {"encoder": {"model": ""}, "vectors": {"dimension": 9, "spans": [[0, 400]], "trained_rows": 0}},
    {"encoder": {"model": ""}, "vectors": {"dimension": 8, "spans": [[0, 400]], "trained_rows": 7}},
])
def test_records_that_do_not_fit_are_refused(record, tmp_path):
    folder = written(tmp_path / "a", DOCUMENTS)
    (folder / "dense.json").unlink()
    (folder / "dense.json").write_text(json.dumps(record))
    with pytest.raises((ValueError, OSError)):
        loaded(folder)


def test_another_model_than_the_index_was_made_with_is_refused(tmp_path, monkeypatch):
    folder = written(tmp_path / "a", DOCUMENTS)
    assert loaded(folder, model="another name of it").search(["kite"], 1)[0]
    stub_encoders(monkeypatch, type("Other", (WordEncoder,), {"fingerprint": "b2"}))
    with pytest.raises(KnowledgeBaseError, match=r"made with the encoder words \(fingerprint a1\), not with x \(b2\)"):
        loaded(folder, model="x")
