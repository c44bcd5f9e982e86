"""Filters: both forms say the same, comparisons mean what they say, and rows are those of a plain evaluation."""

import datetime
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.errors import ConfigError
from nanochat.retrieval.document import Document
from nanochat.retrieval.filters import OPERATORS, Condition, parse_filters, passes, rows_matching
from nanochat.retrieval.table import Part, Table, merge_parts, write_part


@pytest.fixture(scope="module", autouse=True)
def unsynced():
    """Waiting for the disk is most of the time of small writes, and no test pulls the plug."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def doc(identifier="a", source="", **metadata):
    return Document(id=identifier, content="some words", source=source, metadata=metadata)


def table_of(folder, *blocks, spans=None):
    return Table([Part.open(folder / record.name, record) for record in
                  (write_part(folder, block, spans) for block in blocks)])


@pytest.mark.parametrize(("text", "mapping"), [
    ("source=handbook", {"source": "handbook"}),
    ("source==handbook", {"source": {"==": "handbook"}}),
    (" date >= 2024-01-01 ", {"date": {">=": "2024-01-01"}}),
    ("date>=2024-01-01", {"date": {">=": datetime.date(2024, 1, 1)}}),
    ("tags=a| b", {"tags": ["a", "b"]}),
    ("lang!=de|fr", {"lang": {"!=": ["de", "fr"]}}),
    ("topic~=ship*", {"topic": {"~=": "ship*"}}),
    ('title of it="a|b"', {"title of it": "a|b"}),
    ('note=""', {"note": ""}),
    ("year=2024", {"year": 2024}),
    ("share<0.5", {"share": {"<": 0.5}}),
    ("public=true", {"public": True}),
    ("url=https://x.org/?a=b&c>d", {"url": "https://x.org/?a=b&c>d"}),
])  # fmt: skip
def test_text_and_mapping_say_the_same(text, mapping):
    assert parse_filters(text) == parse_filters([text]) == parse_filters(mapping)
    assert parse_filters(parse_filters(mapping)) == parse_filters(mapping)
    assert hash(parse_filters(text)) == hash(parse_filters(mapping))


def test_several_conditions_are_kept_in_order():
    assert parse_filters({"date": {">=": "2024", "<": "2025"}, "lang": "de"}) == (
        Condition("date", ">=", ("2024",)), Condition("date", "<", ("2025",)), Condition("lang", "=", ("de",)),
    )  # fmt: skip
    assert parse_filters(None) == parse_filters([]) == parse_filters({}) == ()


@pytest.mark.parametrize("bad", [
    "", "handbook", "=x", " =x", " " * 100_000, "a!b=c",
    "lang=", "lang=a|", "lang!", 3, [3], [None], {3: "x"}, {"lang": {"like": "x"}}, {"lang": []},
    {"lang": None}, 3.5, {"lang": {"=": {"deep": 1}}}, {"share": float("nan")}, {"share": float("inf")}, [["lang=de"]],
])  # fmt: skip
def test_what_is_no_filter_is_refused_with_an_example(bad):
    with pytest.raises(ConfigError, match="^Filter") as caught:
        parse_filters(bad)
    assert caught.value.hint


@pytest.mark.parametrize(("text", "metadata", "expected"), [
    ("n=5", {"n": 5}, True), ("n=5", {"n": 5.0}, True), ("n=5.0", {"n": 5}, True), ("n=5", {"n": "5"}, True),
    ("n=7", {"n": "007"}, False), ("n=007", {"n": "007"}, True), ("n=5", {"n": "5.0"}, False),
    ("n>9", {"n": 10}, True), ("n>9", {"n": "10"}, True), ("n<9", {"n": "10"}, False), ("n>=9", {"n": "text"}, True),
    ("n>=1e3", {"n": 2000}, True), ("n<nan", {"n": 1}, False), ("n=true", {"n": 1}, False), ("n=1", {"n": True}, False),
    ("n>0", {"n": True}, False), ("n=True", {"n": True}, True), ("n!=true", {"n": False}, True),
    ("d>=2024-01-01", {"d": "2024-05-01"}, True), ("d<2025", {"d": "2024-05-01"}, True),
    ("d<2024", {"d": "2024-05-01"}, False), ("d>=2024", {"d": "2024"}, True),
    ("d>2024", {"d": 2025}, True), ("d>a", {"d": 2025}, False),
    ("t=a", {"t": ["a", "b"]}, True), ("t=c", {"t": ["a", "b"]}, False), ("t!=a", {"t": ["a", "b"]}, False),
    ("t!=c", {"t": ["a", "b"]}, True), ("t=c|b", {"t": ["a", "b"]}, True), ("t!=c|b", {"t": ["a", "b"]}, False),
    ("t>5", {"t": [1, 9]}, True), ("t=a", {"t": []}, False), ("t=a", {"t": [None, {"x": 1}, "a"]}, True),
    ("k=a", {}, False), ("k!=a", {}, True), ("k<a", {}, False), ("k~=*", {}, False), ("k=a", {"k": None}, False),
    ("k!=a", {"k": None}, True), ("k=a", {"k": {"a": 1}}, False), ("k=a", {"k": "A"}, False),
    ("k~=ship*", {"k": "shipping"}, True), ("k~=ship", {"k": "shipping"}, False), ("k~=?at", {"k": "cat"}, True),
    ("k~=20*", {"k": 2024}, True), ("k~=a.c", {"k": "abc"}, False), ("k~=tr*", {"k": True}, True),
    ("k=1" + "0" * 299, {"k": 10**299}, True), ("k<1" + "0" * 5000, {"k": 1}, False), ("k=9007199254740993",
     {"k": 9007199254740992}, False),
])  # fmt: skip
def test_comparisons(text, metadata, expected):
    assert passes(doc(**metadata), text) is expected


def test_an_unknown_key_names_those_there_are(tmp_path):
    table = table_of(tmp_path, [doc(source="s", lang="de", headings=[[0, 1, "H"]], pages=[0])])
    assert table.fields.keys == ["lang", "source"]
    with pytest.raises(ConfigError, match="'langg'.*there are: lang, source") as caught:
        rows_matching(table, "langg!=de")
    assert caught.value.hint == "did you mean 'lang'?"
    with pytest.raises(ConfigError, match="or any other metadata"):
        rows_matching(table_of(tmp_path, [doc()]), "lang=de")
    assert rows_matching(table, None).tolist() == [True]


def test_the_users_own_headings_and_pages_are_metadata(tmp_path):
    table = table_of(tmp_path, [doc(headings=["news", "sport"], pages="10-12")])
    assert rows_matching(table, ["headings=news", "pages=10-12"]).tolist() == [True]


def test_very_long_values_are_compared_too(tmp_path):
    long = "x" * 5000
    table = table_of(tmp_path, [doc("a", note=long), doc("b", note=long + "y"), doc("c", note="x"), doc("d")])
    merged = merge_parts(tmp_path, table.parts)
    for each in (table, Table([Part.open(tmp_path / merged.name, merged)])):
        assert rows_matching(each, {"note": long}).tolist() == [True, False, False, False]
        assert rows_matching(each, "note!=x").tolist() == [True, True, False, True]
        assert each.fields.values("note") == ["x"]


VALUES = st.one_of(st.sampled_from(["a", "b", "2024-01-01", "10", "9", "true"]), st.integers(-3, 12), st.booleans(),
                   st.floats(-3, 12, allow_nan=False), st.none())
METADATA = st.dictionaries(st.sampled_from(["k", "tags", "date", "source"]), VALUES | st.lists(VALUES, max_size=3)
                           | st.dictionaries(st.just("x"), VALUES, max_size=1), max_size=3)
BLOCKS = st.lists(st.lists(st.tuples(METADATA, st.sampled_from(["", "s", "9"])), min_size=1, max_size=4), max_size=3)
WANTED = st.sampled_from(["a", "b", "2024", "10", "9.0", "true", "s", "*", "?"])
CONDITIONS = st.lists(st.builds(Condition, st.sampled_from(["k", "tags", "date", "source"]), st.sampled_from(OPERATORS),
                                st.lists(WANTED, min_size=1, max_size=2).map(tuple)), min_size=1, max_size=2)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BLOCKS, CONDITIONS, st.booleans())
def test_rows_are_those_whose_document_passes(tmp_path_factory, blocks, conditions, are_merged):
    folder = tmp_path_factory.mktemp("table")
    everything = {key: "zz" for key in ("k", "tags", "date")}
    documents = [[replace(doc(f"{number}-{place}", source), metadata=metadata)
                  for place, (metadata, source) in enumerate(block)] for number, block in enumerate(blocks)]
    documents.append([doc("last", "zz", **everything)])
    table = table_of(folder, *documents, spans=lambda document: [(0, 4), (5, 10)])
    if are_merged:
        record = merge_parts(folder, table.parts)
        table = Table([Part.open(folder / record.name, record)])
    found = rows_matching(table, conditions)
    assert found.dtype == bool and found.shape == (table.num_rows,)
    wholes = [document for block in documents for document in block]
    assert found.tolist() == list(np.repeat([passes(document, conditions) for document in wholes], 2))
