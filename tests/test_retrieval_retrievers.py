"""Laws of every retriever in the table. A new one is tested by adding it there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.errors import ConfigError, UserError
from nanochat.retrieval import RETRIEVERS, Document, make_retriever

TEXTS = [
    ("Return Policy", "Customers can return items within 30 days. Refunds take five days."),
    ("Shipping", "Free shipping on orders over $50. Standard shipping takes 3 to 5 days."),
    ("Accounts", "Click Sign Up to create an account and confirm your email."),
    ("Caf\u00e9 menu", "Coffee, tea and cr\u00eapes. Open on Sunday."),
    ("\u6771\u4eac", "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002"),
    ("", "Shipping of returned items is free; items arrive within days."),
]
DOCUMENTS = [Document(id=f"d{number}", title=title, content=content) for number, (title, content) in enumerate(TEXTS)]
QUERIES = ["return policy", "standard shipping of orders", "cafe crepe", "\u65e5\u672c", "days", "days days shipping"]


def built(name, documents=DOCUMENTS):
    retriever = make_retriever(name)
    retriever.index(documents)
    return retriever


def positions(hits):
    return [position for position, _ in hits]


@pytest.fixture(params=RETRIEVERS)
def name(request):
    return request.param


def test_the_right_document_comes_first(name):
    found = [hits[0].position for hits in built(name).search(QUERIES[:4], top_k=3)]
    assert found == [0, 1, 3, 4]


def test_hits_are_best_first_and_above_zero(name):
    for hits in built(name).search(QUERIES, top_k=10):
        scores = [score for _, score in hits]
        assert hits and scores == sorted(scores, reverse=True) and scores[-1] > 0
        assert all(type(position) is int and type(score) is float for position, score in hits)
        assert len(set(positions(hits))) == len(hits)


def test_equal_scores_keep_document_order(name):
    documents = [Document(id=str(i), content="red kite flies" if i % 3 else "a red kite") for i in range(60)]
    retriever = built(name, documents)
    short, long = [i for i in range(60) if i % 3 == 0], [i for i in range(60) if i % 3]
    for top_k in (1, 2, 20, 21, 59, 60, 100):
        assert positions(retriever.search(["kite red"], top_k)[0]) == (short + long)[:top_k]


def test_a_smaller_top_k_is_a_prefix(name):
    retriever = built(name)
    for query in QUERIES:
        all_hits = retriever.search([query], 10)[0]
        for top_k in (1, 2, 3):
            assert retriever.search([query], top_k)[0] == all_hits[:top_k]


def test_a_batch_equals_its_queries_one_by_one(name):
    retriever = built(name)
    assert retriever.search(QUERIES, 4) == [retriever.search([query], 4)[0] for query in QUERIES]
    assert retriever.search([], 4) == []


@pytest.mark.parametrize("query", ["", "   ", "?!", "the of and", "zebra quasar", "\x00", "\ud800", "\U0001f600"])
def test_queries_without_known_words_find_nothing(name, query):
    assert built(name).search([query], 5) == [[]]


def test_fewer_hits_rather_than_documents_without_a_shared_word(name):
    assert positions(built(name).search(["confirm email"], 5)[0]) == [2]
    assert len(built(name, DOCUMENTS[:1]).search(["return"], 5)[0]) == 1


def test_no_documents_give_no_hits(name):
    assert built(name, []).search(["return"], 5) == [[]]


def test_the_title_counts(name):
    assert positions(built(name).search(["policy"], 5)[0]) == [0]


def test_accents_case_and_forms_do_not_matter(name):
    retriever = built(name)
    expected = retriever.search(["crepes in a cafe"], 5)
    assert expected[0] and retriever.search(["CR\u00caPE, Cafe\u0301s"], 5) == expected


SYNTAX = ['title:"return', "shipping AND NOT free", "(return", "ret*", "days^9", "+days -days", "[a TO z]"]


@pytest.mark.parametrize("query", SYNTAX)
def test_query_syntax_is_only_text(name, query):
    plain = "".join(letter if letter.isalnum() else " " for letter in query)
    assert built(name).search([query], 5) == built(name).search([plain], 5)


def test_indexing_again_replaces_the_documents(name):
    retriever = built(name)
    retriever.search(QUERIES, 2)
    retriever.index([Document(id="new", content="a heron")])
    assert retriever.search(["heron", "return"], 5)[1] == [] and positions(retriever.search(["heron"], 5)[0]) == [0]


@pytest.mark.parametrize("documents", [DOCUMENTS, DOCUMENTS * 50, []], ids=["few", "many", "none"])
def test_loaded_equals_built(name, documents, tmp_path):
    retriever = built(name, documents)
    retriever.save(tmp_path)
    loaded = make_retriever(name)
    loaded.load(tmp_path)
    assert loaded.search(QUERIES, 40) == retriever.search(QUERIES, 40)
    assert loaded.describe() == retriever.describe()


def test_files_that_are_cut_are_refused(name, tmp_path):
    built(name).save(tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises((ValueError, OSError)):
        make_retriever(name).load(tmp_path)


@pytest.fixture(scope="module")
def everyone():
    return [built(name) for name in RETRIEVERS]


@settings(max_examples=60, deadline=None)
@given(query=st.text(st.characters(exclude_categories=()), max_size=80))
def test_any_text_is_a_query(everyone, query):
    for retriever in everyone:
        assert len(retriever.search([query + " return"], 3)[0]) >= 1


def test_a_very_long_query_works(name):
    query = " ".join(f"word{number}" for number in range(20_000)) + " confirm"
    assert positions(built(name).search([query], 5)[0]) == [2]


def test_unknown_types_suggest_the_nearest_and_planned_ones_say_so():
    with pytest.raises(ConfigError, match="Unknown retriever type 'bm52'") as caught:
        make_retriever("bm52")
    assert "bm25" in caught.value.hint
    for planned in ("dense", "hybrid"):
        with pytest.raises(UserError, match=f"'{planned}' is not built yet; use bm25 or simple"):
            make_retriever(planned)
