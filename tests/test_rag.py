"""Your own check of an installation: pytest tests/test_rag.py. Example documents in, the right ones out again."""

import json

import pytest

from nanochat.retrieval import RETRIEVERS, RetrievalManager
from scripts.prepare_rag_dataset import main


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The folder that `python -m scripts.prepare_rag_dataset --mode example` writes."""
    folder = tmp_path_factory.mktemp("rag") / "rag_examples"
    assert main(["--mode", "example", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(params=RETRIEVERS)
def manager(request, examples):
    return RetrievalManager(retriever_type=request.param, knowledge_base_path=examples / "knowledge_base")


def test_return_policy_is_found(manager):
    assert manager.retrieve("return policy", top_k=3)[0].title == "Return Policy"


def test_every_example_question_finds_its_document(examples, manager):
    lines = (examples / "queries_train.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    found = manager.retrieve_batch([question["question"] for question in questions], top_k=3)
    missed = [
        question["question"]
        for question, documents in zip(questions, found)
        if question["supporting_ids"][0] not in [document.id for document in documents]
    ]
    assert not missed


def test_answers_stand_in_the_documents_that_are_shown(examples, manager):
    first = json.loads((examples / "queries_train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    shown = [document.to_dict() for document in manager.retrieve(first["question"], top_k=3)]
    assert any(first["answers"][0] in document["content"] for document in shown)
