"""Modes world, questions and build --chunk_words of scripts.prepare_rag_dataset, through its main."""

import json

import pytest

from nanochat.common import run_main
from nanochat.evaluation import read_questions
from nanochat.rag import questions as rag_questions
from nanochat.retrieval import KnowledgeBase, RetrievalManager, read_documents
from scripts.prepare_rag_dataset import CONFIG, MODES, SETTINGS, main

WORLD = ["--mode", "world", "--num_entities", "30", "--output"]


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != "log.jsonl"}


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world with its knowledge base."""
    folder = tmp_path_factory.mktemp("worlds") / "one"
    assert main([*WORLD, str(folder), "--seed", "1"]) == 0
    return folder


def test_every_mode_has_settings_and_every_setting_a_mode():
    used = {name for names in SETTINGS.values() for name in names}
    assert list(MODES) == list(SETTINGS)
    assert used | {"mode", "output"} == set(CONFIG.__dataclass_fields__)


def test_a_world_is_complete_and_its_questions_fit(world, capsys):
    assert sorted(path.name for path in world.iterdir()) == [
        "documents.jsonl", "knowledge_base", "names.json", "queries_train.jsonl"]
    documents = read_documents(world / "documents.jsonl")
    assert RetrievalManager(knowledge_base_path=world / "knowledge_base").knowledge_base.documents == documents
    ids = {document.id for document in documents}
    assert len(documents) == 30 and len(rag_questions.read_questions(world / "queries_train.jsonl", ids)) == 60
    assert len(read_questions(world / "queries_train.jsonl")[0]) == 60
    KnowledgeBase.open(world / "knowledge_base").verify()


def test_the_same_seed_writes_the_same_bytes(world, tmp_path):
    assert main([*WORLD, str(tmp_path / "again"), "--seed", "1"]) == 0
    assert main([*WORLD, str(tmp_path / "other"), "--seed", "2"]) == 0
    assert files_of(tmp_path / "again") == files_of(world)
    # a world that is there is replaced
    assert main([*WORLD, str(tmp_path / "other"), "--seed", "1"]) == 0
    assert files_of(tmp_path / "other") == files_of(world)


def test_an_excluded_world_shares_no_name(world, tmp_path, capsys):
    options = ["--seed", "1", "--exclude", str(world), "--questions_name", "queries_test.jsonl", "--retriever_type",
               "bm25", "--questions_per_entity", "1"]
    assert main([*WORLD, str(tmp_path / "two"), *options]) == 0
    printed = capsys.readouterr().out
    assert f"none of them in {world}" in printed and "Next: python -m scripts.rag_eval" in printed
    names = [set(json.loads((folder / "names.json").read_text())) for folder in (world, tmp_path / "two")]
    assert not names[0] & names[1] and len(names[1]) >= 30
    assert KnowledgeBase.open(tmp_path / "two" / "knowledge_base").retriever_type == "bm25"
    assert len(lines_of(tmp_path / "two" / "queries_test.jsonl")) == 30
    third = [*WORLD, str(tmp_path / "three"), "--exclude", str(world), str(tmp_path / "two")]
    assert main(third) == 0
    assert not (names[0] | names[1]) & set(json.loads((tmp_path / "three" / "names.json").read_text()))


def test_a_world_replaces_nothing_of_the_user(world, tmp_path, capsys):
    (tmp_path / "documents.jsonl").write_text("mine")
    assert run_main(main, [*WORLD, str(tmp_path)]) == 2
    assert "it is not a world of this command" in capsys.readouterr().err
    assert files_of(tmp_path) == {path.relative_to(tmp_path): b"mine" for path in [tmp_path / "documents.jsonl"]}
    (tmp_path / "notes.txt").write_text("mine")
    assert run_main(main, [*WORLD, str(tmp_path)]) == 2
    assert "it holds notes.txt" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "message"), [
    (["--num_entities", "0"], "--num_entities is 0"),
    (["--questions_per_entity", "0"], "--questions_per_entity is 0"),
    (["--questions_name", "../q.jsonl"], "--questions_name is '../q.jsonl'"),
    (["--questions_name", "documents.jsonl"], "--questions_name is"),
    (["--exclude", "nowhere"], "World not found: nowhere/names.json"),
    (["--exclude", "."], "names.json: not a list of names"),
])  # fmt: skip
def test_mistakes_in_worlds_write_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.json").write_text("{}")
    assert run_main(main, [*WORLD, "new", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and message in lines[0] and not (tmp_path / "new").exists()


def test_settings_of_another_mode_are_said_to_have_no_effect(tmp_path, capsys):
    assert main([*WORLD, str(tmp_path / "new"), "--limit", "3", "--chunk_words=0"]) == 0
    printed = capsys.readouterr().out
    assert "--limit has no effect with --mode world" in printed and "--chunk_words has no effect" in printed
    assert printed.count("has no effect") == 2


def test_questions_about_a_knowledge_base_are_split_by_document(world, tmp_path, capsys):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    words = ["--mode", "questions", "--documents", str(world / "knowledge_base"), "--output", str(train)]
    assert main([*words, "--test_output", str(test), "--test_share", "0.3"]) == 0
    assert f"Next: python -m scripts.rag_eval --knowledge_base {world / 'knowledge_base'}" in capsys.readouterr().out
    asked = [{question["supporting_ids"][0] for question in lines_of(path)} for path in (train, test)]
    assert not asked[0] & asked[1] and 0.8 * 30 <= len(asked[0] | asked[1]) <= 30 and len(asked[1]) < len(asked[0])
    ids = {document.id for document in read_documents(world / "documents.jsonl")}
    assert len(rag_questions.read_questions(train, ids)) + len(read_questions(test)[0]) > 40
    both = lines_of(train) + lines_of(test)
    assert main(words) == 0
    assert sorted(map(str, lines_of(train))) == sorted(map(str, both))
    assert main([*words, "--questions_per_document", "1", "--limit", "20", "--seed", "9"]) == 0
    assert len(lines_of(train)) <= 20


def test_questions_about_passages_name_passages(tmp_path, capsys):
    sentences = [f"In {1700 + 7 * place} the mill of Torvik{place} sold lamps." for place in range(30)]
    document = {"id": "book", "title": "Mills", "content": " ".join(sentences)}
    (tmp_path / "docs.jsonl").write_text(json.dumps(document) + "\n")
    build = ["--mode", "build", "--documents", str(tmp_path / "docs.jsonl"), "--output", str(tmp_path / "kb")]
    assert main([*build, "--chunk_words", "20"]) == 0
    assert "1 documents -> " in capsys.readouterr().out
    words = ["--mode", "questions", "--documents", str(tmp_path / "kb"), "--output", str(tmp_path / "train.jsonl")]
    assert main([*words, "--test_output", str(tmp_path / "test.jsonl")]) == 0
    # one document only: its passages are divided
    for name in ("train", "test"):
        questions = lines_of(tmp_path / f"{name}.jsonl")
        assert questions and all(question["supporting_ids"][0].startswith("book#") for question in questions)


@pytest.mark.parametrize(("words", "message"), [
    ([], "--documents is missing"),
    (["--documents", "docs.jsonl"], "--output is missing"),
    (["--documents", "none.jsonl", "--output", "q.jsonl"], "none.jsonl: file not found"),
    (["--documents", "docs.jsonl", "--output", "q.txt"], "questions are written into a .jsonl file"),
    (["--documents", "docs.jsonl", "--output", "mine.jsonl"], "Refusing to replace mine.jsonl"),
    (["--documents", "docs.jsonl", "--output", "q.jsonl", "--test_output", "q.jsonl"], "are both q.jsonl"),
    (["--documents", "docs.jsonl", "--output", "q.jsonl", "--test_output", "t.jsonl", "--test_share", "1"], "is 1.0"),
    (["--documents", "docs.jsonl", "--output", "q.jsonl", "--questions_per_document", "0"], "must be above zero"),
    (["--documents", "docs.jsonl", "--output", "q.jsonl"], "Too few questions: 0 from 1 documents"),
])  # fmt: skip
def test_mistakes_in_questions_write_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.jsonl").write_text('{"id": "a", "content": "nothing to ask"}\n')
    (tmp_path / "mine.jsonl").write_text('{"question": "What is a \\"kind\\": \\"cloze\\"?"}\n')
    assert run_main(main, ["--mode", "questions", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and message in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs.jsonl", "mine.jsonl"]
