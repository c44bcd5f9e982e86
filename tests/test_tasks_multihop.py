"""Published questions of several hops: what the authors wrote, with steps where they say what each hop is about."""

import gzip
import json

import pytest

from nanochat.errors import ConfigError, DocumentError
from nanochat.refrag.planning import steps_of
from tasks.multihop import MULTIHOP, read_multihop

CORPUS = [
    {"id": "p1", "title": "Get Low (song)", "content": "Get Low is a single by Dillon Francis.", "rk": True},
    {"id": "p2", "title": "Dillon Francis", "content": "Dillon Francis was born on October 5, 1987."},
    {"id": "p3", "title": "", "content": "A fact without a title."},
]
COMPOSITIONAL = {
    "id": "q1", "question": "When was the performer of Get Low born?", "answers": ["October 5, 1987"], "hops": 2,
    "supporting_ids": ["p1", "p2"], "type": "compositional",
    "evidences": [["Get Low", "performer", "Dillon Francis"], ["Dillon Francis", "date of birth", "October 5, 1987"]],
}


def write(folder, *questions, corpus=CORPUS, split="dev", end=""):
    folder.mkdir(exist_ok=True)
    for name, rows in (("corpus", corpus), (split, questions)):
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / f"{name}.jsonl{end}").write_bytes(gzip.compress(data) if end else data)
    return folder


def test_triples_become_steps_that_begin_with_the_question(tmp_path):
    found = read_multihop(write(tmp_path / "2wikimultihop", COMPOSITIONAL))
    (question,) = found.questions
    assert question["steps"] == [
        {"query": COMPOSITIONAL["question"], "subject": "Get Low", "answer": "Dillon Francis", "document_id": "p1"},
        {"query": "What is the date of birth of Dillon Francis?", "subject": "Dillon Francis",
         "answer": "October 5, 1987", "document_id": "p2"}]
    assert question["kind"] == "compositional" and question["evidences"] == COMPOSITIONAL["evidences"]
    assert found.name == "2wikimultihop" and [document["id"] for document in found.documents] == ["p1", "p2", "p3"]
    assert steps_of(question) == question["steps"]


@pytest.mark.parametrize(("evidences", "queries"), [
    # names that differ from the titles: as many triples as documents stand in the same order
    ([["Zu tief", "performer", "Dillon Francis"], ["D. Francis", "mother", "Somebody"]],
     [COMPOSITIONAL["question"], "Who is the mother of D. Francis?"]),
    # two facts of one document are found by one search
    ([["Get Low", "performer", "a"], ["Dillon Francis", "date of birth", "b"], ["Dillon Francis", "spouse", "c"]],
     [COMPOSITIONAL["question"], "What is the date of birth of Dillon Francis?"]),
    ([["Get Low", "performer", "a"], ["Somebody", "date of birth", "b"], ["Somebody", "spouse", "c"]], None),
    ([["Get Low", "performer"], ["Dillon Francis", "spouse", "c"]], None), ([], None), (None, None),
])
def test_steps_only_where_triples_and_documents_match(tmp_path, evidences, queries):
    record = {**COMPOSITIONAL, "evidences": evidences}
    (question,) = read_multihop(write(tmp_path / "set", record), name="2wikimultihop").questions
    assert [step["query"] for step in question["steps"]] == queries if queries else "steps" not in question


@pytest.mark.parametrize("name", MULTIHOP)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_every_set_keeps_what_its_authors_wrote(tmp_path, name, end):
    plain = {"id": "q2", "question": "Is it so?", "answers": ["yes"], "supporting_ids": ["p3"], "hops": 3,
             "decomposition": ["How?", "Is #1 so?"], "choices": ["yes", "no"]}
    found = read_multihop(write(tmp_path / name, plain, split="test", end=end), "test")
    (question,) = found.questions
    assert question.items() >= plain.items() and question["kind"] == "multihop" and "steps" not in question


@pytest.mark.parametrize(("change", "message"), [
    ({"question": " "}, "'question' is missing"), ({"answers": "yes"}, "'answers' must be a list"),
    ({"supporting_ids": ["p9"]}, "'p9' is not in the corpus"), ({"hops": "two"}, "'hops' is 'two'"),
])
def test_bad_questions_are_refused_with_their_line(tmp_path, change, message):
    folder = write(tmp_path / "hotpotqa", COMPOSITIONAL, COMPOSITIONAL | change)
    with pytest.raises(DocumentError, match=message) as refused:
        read_multihop(folder)
    assert str(refused.value).startswith(f"{folder / 'dev.jsonl'}:2: ")


def test_missing_files_and_unknown_sets_are_refused(tmp_path):
    folder = write(tmp_path / "musique", COMPOSITIONAL)
    with pytest.raises(ConfigError, match="Unknown set 'musique'"):
        read_multihop(folder)
    with pytest.raises(DocumentError, match="File not found: .*train.jsonl"):
        read_multihop(folder, "train", name="hotpotqa")
    with pytest.raises(DocumentError, match="corpus.jsonl:1: 'id' or 'content' is missing"):
        read_multihop(write(tmp_path / "qasc", COMPOSITIONAL, corpus=[{"title": "x"}]))
    with pytest.raises(DocumentError, match="No questions in"):
        read_multihop(write(tmp_path / "strategyqa"))
