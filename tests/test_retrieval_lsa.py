"""The encoder without a model: laws, learning, damage."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from encoder_stubs import TEXTS, check_laws
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.retrieval.encoders import EncoderError, find_encoder, load_encoder
from nanochat.retrieval.encoders.lsa import LsaEncoder
from nanochat.retrieval.encoders.svd import SparseRows, term_vectors


def write(path: Path, value) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="module")
def fitted() -> LsaEncoder:
    encoder = find_encoder("lsa")
    encoder.fit([f"{text} {place % 17} number{place % 40}" for place, text in enumerate(TEXTS * 30)])
    return encoder


def test_lsa_keeps_the_laws(fitted):
    check_laws(fitted, tolerance=1e-5)
    check_laws(LsaEncoder(), tolerance=1e-5)


def test_lsa_loaded_equals_fitted(fitted, tmp_path):
    fitted.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.describe() == fitted.describe() and loaded.fitted_rows == fitted.fitted_rows
    assert np.array_equal(loaded.encode_queries(TEXTS), fitted.encode_queries(TEXTS))
    assert b"kite" not in (tmp_path / "lsa.npz").read_bytes(), "words of the corpus are readable"


def test_lsa_learns_the_same_from_the_same_texts():
    prints = set()
    for _ in range(2):
        encoder = LsaEncoder()
        encoder.fit(TEXTS * 3)
        prints.add(encoder.describe()["fingerprint"])
    assert len(prints) == 1 and prints != {LsaEncoder().describe()["fingerprint"]}


def test_lsa_finds_words_it_has_never_seen(fitted):
    documents = fitted.encode_documents([*TEXTS, "zygomorphic flowers"])
    assert np.argmax(documents @ fitted.encode_queries(["zygomorphic"])[0]) == len(TEXTS)


def test_lsa_brings_words_of_one_topic_together():
    chance = random.Random(0)
    topics = [[f"topic{chance.random()}".replace(".", "x") for _ in range(4)] for _ in range(240)]
    encoder = LsaEncoder()
    encoder.fit([" ".join(chance.sample(topics[place % 240], 3)) for place in range(1_920)])
    first, other, stranger = encoder.encode_queries([topics[0][0], topics[0][1], topics[1][0]])
    assert first @ other > 0.4 > first @ stranger + 0.2, (first @ other, first @ stranger)


def test_lsa_learns_from_a_number_of_rows_that_depends_on_the_size_only():
    encoder = LsaEncoder()
    asked = [encoder.rows_to_fit(size) for size in (0, 1, 999, 1_000, 3_999, 4_000, 15_999, 16_000, 10**7)]
    assert asked == [0, 0, 0, 1_000, 1_000, 4_000, 4_000, 16_000, 16_000]


@pytest.mark.parametrize("texts", [[], [""], ["the"], ["kite"], ["kite", "kite"]])
def test_lsa_fits_on_next_to_nothing(texts):
    encoder = LsaEncoder()
    encoder.fit(texts)
    check_laws(encoder, tolerance=1e-5)


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "no json"])
def test_a_damaged_lsa_folder_is_one_sentence(fitted, tmp_path, damage):
    fitted.save(tmp_path)
    file = tmp_path / "lsa.npz"
    match damage:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:500])
        case "other":
            LsaEncoder().save(tmp_path)
            write(tmp_path / "encoder.json", fitted.describe())
        case "no json":
            (tmp_path / "encoder.json").write_text("{", encoding="utf-8")
    with pytest.raises(EncoderError):
        load_encoder(tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_lsa_takes_any_text(texts):
    encoder = LsaEncoder()
    encoder.fit(texts)
    vectors = encoder.encode_documents(texts)
    assert np.isfinite(vectors).all()
    assert np.abs(encoder.encode_documents(texts[::-1])[::-1] - vectors).max(initial=0) < 1e-5


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 60), st.integers(0, 10**6))
def test_sparse_products_are_dense_products(num_rows, num_columns, num_entries, seed):
    chance = np.random.default_rng(seed)
    places = np.unique(chance.integers(0, num_rows * num_columns, num_entries))
    rows, columns = np.divmod(chance.permutation(places), num_columns)
    values = chance.standard_normal(len(rows)).astype(np.float32)
    dense = np.zeros((num_rows, num_columns), np.float32)
    dense[rows, columns] = values
    sparse = SparseRows.of(rows, columns, values, num_rows, num_columns)
    other = chance.standard_normal((num_columns, 3)).astype(np.float32)
    assert np.allclose(sparse.times(other), dense @ other, atol=1e-5)
    assert np.allclose(sparse.transposed().transposed().times(other), dense @ other, atol=1e-5)
    assert term_vectors(sparse, 4).shape == (num_columns, 4)


def test_term_vectors_span_the_leading_directions():
    chance = np.random.default_rng(1)
    low_rank = chance.standard_normal((200, 5)) @ chance.standard_normal((5, 40))
    dense = (low_rank + 0.01 * chance.standard_normal((200, 40))).astype(np.float32)
    rows, columns = np.divmod(np.arange(dense.size), 40)
    found = term_vectors(SparseRows.of(rows, columns, dense.ravel(), 200, 40), 5)
    exact = np.linalg.svd(dense / np.linalg.norm(dense, axis=1, keepdims=True))[2][:5]
    angles = np.linalg.svd(np.linalg.qr(found)[0].T @ exact.T)[1]
    assert angles.min() > 0.999, angles
