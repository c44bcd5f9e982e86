"""Measuring retrieval: files of queries and judgements, the script from flags to report, hostile input."""

import gzip
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.errors import UserError
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.retrieval.judging.judgements import JudgementError, read_qrels, read_queries, supporting_judgements
from nanochat.retrieval.judging.rankings import Found
from nanochat.retrieval.judging.report import QueryRecord, group_records, render_page, snippet
from scripts.kb_eval import main

BIRDS = {"kite": "The red kite has a forked tail.", "owl": "The barn owl hunts at night over fields.",
         "crow": "A crow solves puzzles with tools.", "swift": "The swift sleeps while it flies at night."}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def base(tmp_path):
    documents = [Document(id=name, title=name.title(), content=text) for name, text in BIRDS.items()]
    KnowledgeBase.build(documents, tmp_path / "kb", "simple")
    return tmp_path


def flags(base, **more):
    given = {"knowledge_base": base / "kb", "queries": base / "queries.jsonl", "output": base / "report", **more}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def questions(base, *rows):
    return write(base / "queries.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


# files

def test_queries_as_jsonl_gzip_and_columns(tmp_path):
    rows = '{"id": 7, "question": "Who flies?", "supporting_ids": ["a", 2]}\n\n{"_id": "x", "text": "b"}\n'
    for path in (write(tmp_path / "q.jsonl", "\ufeff" + rows), tmp_path / "q.gz"):
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(rows.encode()))
        queries = read_queries(path)
        assert [(query.id, query.text) for query in queries] == [("7", "Who flies?"), ("x", "b")]
        assert supporting_judgements(queries) == {"7": {"a": 1, "2": 1}}
    columns = write(tmp_path / "q.tsv", "query-id\ttext\n1\tWho flies?\n2\ta\tb\n")
    assert [(query.id, query.text) for query in read_queries(columns)] == [("1", "Who flies?"), ("2", "a\tb")]
    assert len(read_queries(columns, limit=1)) == 1


@pytest.mark.parametrize("text", [
    "q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 -1\n",
    "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t-1\n",
    '{"query_id": "q1", "document_id": "d1"}\n{"qid": "q1", "docid": "d2", "relevance": 0}\n'
    '{"query-id": "q2", "corpus-id": "d1", "score": -1.0}\n',
])
def test_judgements_in_every_form_are_the_same(tmp_path, text):
    assert read_qrels(write(tmp_path / "qrels", text)) == {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": -1}}


def test_ids_with_blanks_are_kept_between_tabs(tmp_path):
    path = write(tmp_path / "qrels", "my query\t0\tnotes/a b.md#2\t3\n")
    assert read_qrels(path) == {"my query": {"notes/a b.md#2": 3}}


@pytest.mark.parametrize(("text", "problem"), [
    ("", "no queries"), ('{"id": "a"}\n', ":1: 'text' is missing"), ("{broken\n", ":1: not valid JSON"),
    ("one column\n", ":1: expected a query id"), ('{"id":"a","text":"b"}\n{"id":"a","text":"c"}\n', ":2: duplicate"),
    ('{"id": true, "text": "b"}\n', ":1: 'id' must hold"), ('{"id":"a","text":"b","supporting_ids":"c"}', ":1: 'supp"),
    ('{"id": "a", "text": "\\ud800"}', ":1: not valid JSON"), ("[" * 9 + "\n", ":1: expected"),
    ('{"text":' * 60_000, ":1: not valid JSON"), ("x" * 1_000_002, ":1: line is longer"),
])
def test_bad_queries_are_named_by_line(tmp_path, text, problem):
    with pytest.raises(JudgementError, match=re.escape(problem)) as caught:
        read_queries(write(tmp_path / "q", text))
    assert caught.value.hint


@pytest.mark.parametrize(("text", "problem"), [
    ("", "no judgements"), ("q1 d1\n", ":1: expected 3 or 4"), ("q1 0 d1 high\n", ":1: the grade must"),
    ("q1 0 d1 1\nq1 0 d1 2\n", ":2: grade 2"), ('{"query_id": "q"}\n', ":1: 'document_id' is missing"),
    ('{"query_id": "q", "document_id": "d", "grade": 0.5}\n', ":1: the grade must"), ("q\t\td\t1\n", ":1: expected 3"),
    ("q d 1e999\n", ":1: the grade must"), ("q d nan\n", ":1: the grade must"), ("q d " + "9" * 400, ":1: the grade"),
    ('{"query_id": "q", "document_id": "d", "grade": true}\n', ":1: the grade must"),
])
def test_bad_judgements_are_named_by_line(tmp_path, text, problem):
    with pytest.raises(JudgementError, match=re.escape(problem)):
        read_qrels(write(tmp_path / "qrels", text))


def test_unreadable_files(tmp_path):
    with pytest.raises(JudgementError, match="Queries not found"):
        read_queries(tmp_path / "none")
    with pytest.raises(JudgementError, match="cannot be read"):
        read_qrels(tmp_path)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"q 0 d 1\n" * 99)[:30])
    with pytest.raises(JudgementError, match="cannot be read"):
        read_qrels(tmp_path / "cut.gz")
    (tmp_path / "latin").write_bytes("q1\tcaf\u00e9\n".encode("latin-1"))
    with pytest.raises(JudgementError, match=":1: not UTF-8"):
        read_queries(tmp_path / "latin")


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "file"
    path.write_bytes(data)
    for read in (read_queries, read_qrels):
        try:
            assert read(path)
        except UserError as error:
            assert str(path) in error.problem


# the script

def test_journey_with_supporting_ids(base, capsys):
    questions(base, {"id": "1", "question": "Which bird has a forked tail?", "supporting_ids": ["kite"]},
              {"id": "2", "question": "Who hunts at night?", "supporting_ids": ["owl", "swift"]},
              {"id": "3", "question": "Zeppelin", "supporting_ids": ["crow", "gone"]},
              {"id": "4", "question": "Not judged", "supporting_ids": []})
    assert main(flags(base)) == 0
    printed = capsys.readouterr().out
    assert "1 queries without a relevant document" in printed and "1 of 5 judged documents are not in" in printed
    results = json.loads((base / "report" / "results.json").read_text())
    assert results["metrics"]["ndcg@10"]["mean"]["value"] == pytest.approx(2 / 3)
    assert results["groups"] == {"not found": 1, "all found": 2} and results["queries"]["num"] == 3
    rows = [json.loads(line) for line in (base / "report" / "queries.jsonl").read_text().splitlines()]
    assert rows[0]["id"] == "3" and rows[0]["expected"][1] == {"id": "gone", "grade": 1, "place": None}
    page = (base / "report" / "report.html").read_text()
    assert "not found: 1" in page and "Zeppelin" in page and "<mark>forked</mark>" in page


def test_two_retrievers_are_compared(base, capsys):
    questions(base, *({"id": name, "text": text, "supporting_ids": [name]} for name, text in BIRDS.items()))
    write(base / "qrels", "".join(f"{name} 0 {name} 2\n" for name in BIRDS) + "elsewhere 0 kite 1\n")
    assert main(flags(base, qrels=base / "qrels", compare="bm25", k=1, seed=3)) == 0
    printed = capsys.readouterr().out
    assert "simple beside bm25, top 1" in printed and "1 judged queries are not in" in printed
    results = json.loads((base / "report" / "results.json").read_text())
    recall = results["metrics"]["recall@1"]
    assert recall["mean"]["value"] == recall["compared"]["value"] == 1 and recall["p"] == 1
    assert results["compared"]["retriever_type"] == "bm25" and "recall@100" in results["metrics"]


def test_two_versions_are_compared(base):
    KnowledgeBase.open(base / "kb").delete(["owl"])
    questions(base, {"id": "1", "text": "barn owl", "supporting_ids": ["owl"]},
              {"id": "2", "text": "forked tail", "supporting_ids": ["kite"]})
    assert main(flags(base, compare_version=1)) == 0
    results = json.loads((base / "report" / "results.json").read_text())
    assert results["metrics"]["recall@10"]["difference"]["value"] == -0.5
    assert results["knowledge_base"]["version"] == 2 and results["compared"]["version"] == 1
    assert results["groups"] == {"worse than version 1": 1, "all found": 1}


def test_passages_count_as_their_document_unless_passages_are_judged(tmp_path):
    text = " ".join(f"Sentence {number} is about {word}." for number, word in enumerate(["kites"] * 6 + ["owls"] * 6))
    documents = [Document(id="long", content=text), Document(id="short", content="Kites are rare.")]
    KnowledgeBase.build(documents, tmp_path / "kb", "bm25", chunk_words=12)
    questions(tmp_path, {"id": "1", "text": "owls", "supporting_ids": ["long"]})
    assert main(flags(tmp_path)) == 0
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["knowledge_base"]["ranked"] == "documents"
    assert results["metrics"]["recall@10"]["mean"]["value"] == 1
    found = json.loads((tmp_path / "report" / "queries.jsonl").read_text())["found"]
    assert [item["id"] for item in found] == ["long"]
    write(tmp_path / "qrels", "1 0 long#1 1\n")
    assert main(flags(tmp_path, qrels=tmp_path / "qrels")) == 0
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["knowledge_base"]["ranked"] == "passages"
    assert results["metrics"]["recall@10"]["mean"]["value"] == 0


@pytest.mark.parametrize(("change", "problem"), [
    ({"knowledge_base": ""}, "Knowledge base not found"), ({"queries": ""}, "Queries not found"),
    ({"k": 0}, "--k must be"), ({"max_queries": 0}, "--max_queries must"), ({"compare": "bm26"}, "Unknown retriever"),
    ({"compare": "bm25", "compare_version": 1}, "exclude each other"), ({"qrels": "nowhere"}, "Judgements not found"),
    ({"version": 99}, "has no version 99"),
])
def test_settings_that_cannot_work(base, change, problem):
    questions(base, {"id": "1", "text": "kite", "supporting_ids": ["kite"]})
    with pytest.raises(UserError, match=problem) as caught:
        main(flags(base, **change))
    assert caught.value.hint


def test_judgements_of_other_queries_or_documents_are_refused(base):
    questions(base, {"id": "1", "text": "kite"})
    with pytest.raises(UserError, match="None of the 1 queries"):
        main(flags(base))
    write(base / "qrels", "1 0 elsewhere 1\n")
    with pytest.raises(UserError, match="None of the 1 judged documents"):
        main(flags(base, qrels=base / "qrels"))


# the page

class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.opened, self.attributes = set(), []

    def handle_starttag(self, tag, attrs):
        self.opened.add(tag)
        self.attributes += attrs


@given(st.text(max_size=200), st.text(max_size=60))
@settings(max_examples=80, deadline=None)
def test_snippets_hold_nothing_but_marks(text, query):
    tags = Tags()
    tags.feed(snippet(text + "<script>" + query, query, 50))
    assert tags.opened <= {"mark"}


def test_texts_from_outside_stay_text_on_the_page():
    evil = '"><script>alert(1)</script><img src=x onerror=y>'
    record = QueryRecord(id=evil, text=evil, grades={evil: 1, "x": 1}, found=[Found(evil, 0, 1.0)],
                         scores={"ndcg@10": 0.5}, other_found=[], other_scores={"ndcg@10": 0.7})
    document = Document(id=evil, title=evil, content=evil * 9)
    groups = group_records([record], "ndcg@10", 10, evil)
    page = render_page(evil, [evil], [[evil, evil], [evil, evil]], groups, metric="ndcg@10", other=evil,
                       passage=lambda row: document, document=lambda name: document if name == evil else None)
    tags = Tags()
    tags.feed(page)
    assert not tags.opened & {"script", "img"} and not any(name.startswith("on") for name, _ in tags.attributes)


def test_groups_put_failures_first():
    def record(name, place, value):
        found = [Found("a", 0, 9.0) for _ in range(place - 1)] + ([Found("x", 1, 1.0)] if place else [])
        return QueryRecord(id=name, text=name, grades={"x": 1}, found=found, scores={"ndcg@10": value})

    groups = group_records([record("fine", 1, 1.0), record("late", 30, 0.0), record("none", 0, 0.0)], "ndcg@10", 10)
    assert [(name, group[0].id) for name, group in groups.items()] == [
        ("not found", "none"), ("first found after place 10", "late"), ("all found", "fine")]


def test_the_snippet_is_where_the_words_are():
    text = "filler " * 5000 + "a red kite with a forked tail & more " + "kite " * 20000
    found = snippet(text, "forked tails of red kites", 60)
    assert found.startswith("... ") and found.endswith(" ...")
    assert "<mark>red</mark> <mark>kite</mark>" in found and "<mark>forked</mark> <mark>tail</mark> &amp;" in found
    assert snippet("", "kite") == "" and snippet("no match", "kite") == "no match"
