"""Flag --hops of scripts.prepare_rag_dataset: questions of several hops beside the others."""

import json

import pytest
from synthesis_stubs import SITE, spec_documents

from nanochat.common import run_main
from nanochat.refrag.chain_file import read_chains
from nanochat.retrieval import KnowledgeBase, RetrievalManager
from scripts.prepare_rag_dataset import main


def write(path, documents):
    path.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")
    return str(path)


def ids_of(folder):
    return {document.id for document in KnowledgeBase.open(folder / "knowledge_base").documents}


def world(folder, *words):
    return run_main(main, ["--mode", "world", "--num_entities", "80", "--output", str(folder), *words])


def synthesize(documents, folder, *words):
    return run_main(main, ["--mode", "synthesize", "--documents", documents, "--output", str(folder), *words])


def test_a_world_of_several_hops_has_a_file_of_them_and_says_what_was_left_out(tmp_path, capsys):
    assert world(tmp_path / "one", "--hops", "3", "--retriever_type", "bm25") == 0
    printed = capsys.readouterr().out
    questions = read_chains(tmp_path / "one" / "queries_multihop.jsonl", ids_of(tmp_path / "one"))
    assert {question["hops"] for question in questions} == {2, 3} and len(questions) > 50
    assert f"queries_multihop.jsonl: {len(questions)} questions of several hops" in printed
    assert "  2 hops: " in printed and "find a later document by the question alone" in printed
    manager = RetrievalManager(knowledge_base_path=tmp_path / "one" / "knowledge_base")
    found = manager.retrieve_batch([question["question"] for question in questions], 10)
    for question, hits in zip(questions, found, strict=True):
        assert not {hit.id for hit in hits} & {step["document_id"] for step in question["steps"][1:]}
    # the same again, and in its place
    before = (tmp_path / "one" / "queries_multihop.jsonl").read_bytes()
    assert world(tmp_path / "one", "--hops", "3", "--retriever_type", "bm25") == 0
    assert (tmp_path / "one" / "queries_multihop.jsonl").read_bytes() == before
    assert world(tmp_path / "one") == 0
    assert not (tmp_path / "one" / "queries_multihop.jsonl").exists()


def test_an_excluded_world_shares_no_name_with_its_broken_questions(tmp_path, capsys):
    assert world(tmp_path / "one", "--hops", "2") == 0
    assert world(tmp_path / "two", "--hops", "2", "--exclude", str(tmp_path / "one")) == 0
    names = [set(json.loads((tmp_path / name / "names.json").read_text())) for name in ("one", "two")]
    assert not names[0] & names[1]
    for name, mine in zip(("one", "two"), names, strict=True):
        questions = read_chains(tmp_path / name / "queries_multihop.jsonl", ids_of(tmp_path / name))
        assert any(question["kind"] == "absent_entity" for question in questions)
        assert {question["steps"][0]["subject"] for question in questions} <= mine


def test_two_questions_about_the_users_documents_are_joined(tmp_path, capsys):
    documents = write(tmp_path / "specs.jsonl", spec_documents())
    assert synthesize(documents, tmp_path / "out", "--hops", "2", "--questions_per_document", "6") == 0
    printed = capsys.readouterr().out
    questions = read_chains(tmp_path / "out" / "queries_multihop_train.jsonl", ids_of(tmp_path / "out"))
    assert f"queries_multihop_train.jsonl: {len(questions):,} questions of two hops" in printed
    assert "Filters for two hops took:" in printed and "edit them before training" in printed
    assert any(question["question"].startswith("What is the Population of the Factory of")
               or question["question"].startswith("What is the population of the factory of") for question in questions)
    of_split = {question["supporting_ids"][0] for question in map(json.loads, (
        tmp_path / "out" / "queries_train.jsonl").read_text().splitlines()) if question["supporting_ids"]}
    assert {name for question in questions for name in question["supporting_ids"]} <= of_split
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics["settings"]["hops"] == 2 and "queries_multihop_train.jsonl" in statistics["files"]
    # its own files are replaced, edited ones are not
    assert synthesize(documents, tmp_path / "out", "--hops", "2", "--seed", "1") == 0
    path = tmp_path / "out" / "queries_multihop_train.jsonl"
    path.write_text(path.read_text() + "\n")
    assert synthesize(documents, tmp_path / "out", "--hops", "2") == 2
    assert "queries_multihop_train.jsonl was edited" in capsys.readouterr().err


def test_documents_without_links_give_no_file_and_one_line(tmp_path, capsys):
    documents = write(tmp_path / "site.jsonl", SITE)
    assert synthesize(documents, tmp_path / "out", "--hops", "2") == 0
    assert "No questions of two hops: " in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("queries_multihop*"))


@pytest.mark.parametrize(("words", "message"), [
    (["--mode", "world", "--hops", "5"], "--hops is 5, must lie in 1..4 with --mode world"),
    (["--mode", "world", "--hops", "0"], "--hops is 0, must lie in 1..4"),
    (["--mode", "synthesize", "--documents", "site.jsonl", "--hops", "3"], "--hops is 3, must lie in 1..2"),
    (["--mode", "world", "--questions_name", "queries_multihop.jsonl"], "--questions_name is"),
])  # fmt: skip
def test_numbers_of_hops_that_cannot_be_made_write_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "site.jsonl", SITE)
    assert run_main(main, [*words, "--output", "new"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and message in lines[0] and not (tmp_path / "new").exists()


def test_other_modes_say_that_hops_have_no_effect(tmp_path, capsys):
    assert run_main(main, ["--mode", "example", "--output", str(tmp_path / "e"), "--hops", "2"]) == 0
    assert "--hops has no effect with --mode example" in capsys.readouterr().out
