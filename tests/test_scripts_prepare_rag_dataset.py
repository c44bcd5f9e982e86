"""The journey of scripts.prepare_rag_dataset through its main: example, build, validate."""

import json

import pytest

from nanochat.common import run_main
from nanochat.errors import KnowledgeBaseNotFound
from nanochat.retrieval import RETRIEVERS, KnowledgeBase, RetrievalManager, read_documents
from scripts.prepare_rag_dataset import main
from tasks.example_documents import example_documents, example_questions


def test_every_answer_stands_in_its_document():
    contents = {record["id"]: record["content"] for record in example_documents()}
    asked = [question["supporting_ids"][0] for question in example_questions()]
    for question in example_questions():
        assert all(answer in contents[question["supporting_ids"][0]] for answer in question["answers"]), question
    assert len(contents) == 10 and all(asked.count(name) >= 3 for name in contents)


@pytest.mark.parametrize("name", RETRIEVERS)
def test_example_writes_documents_questions_and_knowledge_base(tmp_path, name, capsys):
    output = tmp_path / "rag_examples"
    for _ in range(2):
        assert run_main(main, ["--mode", "example", "--output", str(output), "--retriever_type", name]) == 0
    names = sorted(path.name for path in output.iterdir())
    assert names == ["documents.jsonl", "knowledge_base", "queries_train.jsonl"]
    documents = read_documents(output / "documents.jsonl")
    questions = [json.loads(line) for line in (output / "queries_train.jsonl").read_text().splitlines()]
    assert len(documents) == 10 and {"id", "question", "answers", "supporting_ids"} <= questions[0].keys()
    manager = RetrievalManager(knowledge_base_path=output / "knowledge_base")
    assert manager.retriever_type == name and manager.knowledge_base.documents == documents
    assert "Next: python -m scripts.rag_finetune" in capsys.readouterr().out


def test_example_does_not_replace_documents_of_the_user(tmp_path, capsys):
    (tmp_path / "documents.jsonl").write_text('{"id": "mine", "content": "my words"}\n')
    assert run_main(main, ["--mode", "example", "--output", str(tmp_path)]) == 2
    assert "Refusing to replace" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["documents.jsonl"]


def test_build_and_validate(tmp_path, capsys):
    assert main(["--mode", "example", "--output", str(tmp_path)]) == 0
    file, output = str(tmp_path / "documents.jsonl"), str(tmp_path / "kb")
    assert main(["--mode", "build", "--documents", file, "--output", output, "--retriever_type", "bm25"]) == 0
    assert main(["--mode", "validate", "--documents", file, "--output", output]) == 0
    printed = capsys.readouterr().out
    assert "10 documents, indexes: bm25; all files as written" in printed
    next((tmp_path / "kb" / "parts").glob("*/documents.jsonl")).write_text("")
    assert run_main(main, ["--mode", "validate", "--output", output]) == 2
    assert "is damaged" in capsys.readouterr().err


def test_validate_counts_what_deserves_a_look_and_lists_errors(tmp_path, capsys):
    long = "word " * 2001
    records = [
        {"id": "a", "title": "Same", "content": long}, {"id": "b", "title": "same ", "content": long},
        {"id": "c", "content": "short"}, {"id": "a", "content": "twice"}, {"id": "d"},
    ]  # fmt: skip
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + "{\n")
    assert run_main(main, ["--mode", "validate", "--documents", str(file)]) == 2
    printed = capsys.readouterr()
    assert "3 documents, 4,003 words (least 1, median 2,001, most 2,001)" in printed.out
    rows = {words[1]: words[2] for line in printed.out.splitlines() if len(words := line.split()) > 3}
    found = {name: rows.get(name) for name in ("unreadable", "too_long", "no_title", "duplicate", "repeated_title")}
    assert found == {"unreadable": "3", "too_long": "2", "no_title": "1", "duplicate": "1", "repeated_title": "1"}
    for place in (":4: duplicate id 'a', first used in line 1", ":5: 'content' is missing", ":6: not valid JSON"):
        assert f"{file}{place}" in printed.err


@pytest.mark.parametrize(("words", "message"), [
    (["--mode", "example"], "--output is missing"),
    (["--mode", "build", "--output", "x"], "--documents is missing"),
    (["--mode", "validate"], "--documents is missing"),
    (["--mode", "validate", "--documents", "none.jsonl"], "none.jsonl: file not found"),
    (["--mode", "exampel"], "Bad value for --mode"),
])  # fmt: skip
def test_mistakes_are_two_lines_and_exit_2(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run_main(main, words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and message in lines[0] and not list(tmp_path.iterdir())


def test_an_empty_file_is_an_error(tmp_path, capsys):
    (tmp_path / "docs.jsonl").write_text("")
    assert run_main(main, ["--mode", "validate", "--documents", str(tmp_path / "docs.jsonl")]) == 2
    problem, hint = capsys.readouterr().err.splitlines()
    assert "holds no documents" in problem and hint.strip() != "hint:"


def test_a_near_miss_of_the_knowledge_base_is_named(tmp_path):
    assert main(["--mode", "example", "--output", str(tmp_path)]) == 0
    with pytest.raises(KnowledgeBaseNotFound, match="has no file CURRENT") as caught:
        KnowledgeBase.open(tmp_path)
    assert caught.value.hint == f"it is inside: --knowledge_base {tmp_path / 'knowledge_base'}"
    with pytest.raises(KnowledgeBaseNotFound, match="it is a file") as caught:
        KnowledgeBase.open(tmp_path / "documents.jsonl")
    assert f"--documents {tmp_path / 'documents.jsonl'} --output" in caught.value.hint
