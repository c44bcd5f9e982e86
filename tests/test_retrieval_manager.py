"""The front door: the calls that the guide prints, the cache, and the command that builds a knowledge base."""

import gzip
import json
import shutil
import threading

import pytest
from knowledge_base_stubs import DOCUMENTS, SETTINGS

from nanochat.common import run_main
from nanochat.errors import ConfigError, KnowledgeBaseError, KnowledgeBaseNotFound
from nanochat.retrieval import RETRIEVERS, Document, KnowledgeBase, RetrievalManager
from nanochat.retrieval.__main__ import main
from tasks.example_documents import example_documents, example_questions


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manager") / "kb"
    KnowledgeBase.build(DOCUMENTS, folder, "bm25")
    return folder


@pytest.fixture
def count_searches(monkeypatch):
    """(manager) -> list that grows by the queries of every search that reaches the retriever."""

    def watch(manager):
        asked = []
        search = manager._retriever.search
        watched = lambda queries, top_k: asked.append(list(queries)) or search(queries, top_k)  # noqa: E731
        monkeypatch.setattr(manager._retriever, "search", watched)
        return asked

    return watch


def test_the_lines_of_the_guide_work(place):
    manager = RetrievalManager(retriever_type="simple", knowledge_base_path=str(place))
    results = manager.retrieve("return policy", top_k=3)
    assert [f"Score: {doc.score:.3f} - {doc.title}" for doc in results][0].endswith("- Return Policy")
    assert {"id", "title", "content", "score"} <= results[0].to_dict().keys()


def test_the_knowledge_base_knows_its_type(place):
    manager = RetrievalManager(knowledge_base_path=place)
    assert manager.retriever_type == manager.knowledge_base.retriever_type == "bm25"


@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_batch_equals_single_queries_and_finds_the_source(place, name):
    manager = RetrievalManager(name, place, cache_size=0, settings=SETTINGS.get(name))
    questions = example_questions()
    batch = manager.retrieve_batch([question["question"] for question in questions], top_k=3)
    assert batch == [manager.retrieve(question["question"], top_k=3) for question in questions]
    found = [question["supporting_ids"][0] in [doc.id for doc in row] for question, row in zip(questions, batch)]
    assert sum(found) / len(found) >= 0.95


def test_the_cache_answers_repeated_queries_and_forgets_the_oldest(place, count_searches):
    manager = RetrievalManager("simple", place, cache_size=2)
    asked = count_searches(manager)
    manager.retrieve_batch(["compost", "library", "compost"])
    assert asked == [["compost", "library"]]
    manager.retrieve("compost").clear()
    assert manager.retrieve("compost") and len(asked) == 1
    manager.retrieve("compost", top_k=1)
    manager.retrieve("library")
    assert asked[1:] == [["compost"], ["library"]]


def test_more_queries_than_the_cache_holds_all_get_answers(place):
    manager = RetrievalManager("simple", place, cache_size=1)
    assert all(manager.retrieve_batch(["compost", "library", "drone", "compost"]))


def test_wrong_calls_are_explained(place, tmp_path):
    with pytest.raises(KnowledgeBaseNotFound, match="Knowledge base not found"):
        RetrievalManager("simple", tmp_path / "none")
    with pytest.raises(ConfigError, match="knowledge_base_path"):
        RetrievalManager("simple")
    for query in (None, 5, ["return policy"]):
        with pytest.raises(ConfigError, match="A query must be text"):
            RetrievalManager(knowledge_base_path=place).retrieve(query)
    with pytest.raises(ConfigError, match="top_k must be at least 1"):
        RetrievalManager("simple", place).retrieve("x", top_k=0)
    with pytest.raises(ConfigError, match="neighbours is -1"):
        RetrievalManager("simple", place).retrieve("x", neighbours=-1)
    with pytest.raises(ConfigError, match="Unknown retriever type 'dens'"):
        RetrievalManager("dens", place)
    with pytest.raises(ConfigError, match="bm25 has no setting 'model'"):
        RetrievalManager("bm25", place, settings={"model": "lsa"})
    with pytest.raises(KnowledgeBaseError, match="has no version 99"):
        RetrievalManager("simple", place, version=99)
    with pytest.raises(KnowledgeBaseError, match="No reranker in"):
        RetrievalManager("simple", place, rerank=tmp_path / "none")


@pytest.fixture
def documents_file(tmp_path):
    path = tmp_path / "docs.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in example_documents()).encode()))
    return path


@pytest.mark.parametrize("name", ["simple", "bm25"])
def test_the_build_command_says_what_it_made_and_how_to_go_on(tmp_path, documents_file, name, capsys):
    output = tmp_path / "kb"
    words = ["--documents", str(documents_file), "--output", str(output), "--type", name]
    assert run_main(main, [*words, "--limit", "4", "--model", "m"]) == 0
    printed = capsys.readouterr().out
    assert f"Wrote {output}: 4 documents" in printed and "--model m has no effect" in printed
    assert f"Next: python -m scripts.rag_finetune --knowledge_base {output}" in printed
    assert RetrievalManager(knowledge_base_path=output).retrieve("museum", 1)[0].id == "example_004"


@pytest.mark.parametrize(("words", "message"), [
    ([], "--documents is missing"),
    (["--documents", "{docs}"], "--output is missing"),
    (["--documents", "{folder}/none.jsonl", "--output", "{folder}/kb"], "none.jsonl: file not found"),
    (["--documents", "{docs}", "--output", "{docs}/kb"], "Cannot write"),
    (["--documents", "{docs}", "--output", "{folder}"], "Refusing to replace"),
    (["--documents", "{docs}", "--output", "{folder}/kb", "--type", "bm52"], "Bad value for --type"),
    (["--documents", "{docs}", "--output", "{folder}/kb", "--limit", "-1"], "--limit is -1"),
    (["--document", "{docs}"], "Unknown flag --document"),
])  # fmt: skip
def test_build_mistakes_are_two_lines_and_exit_2(tmp_path, documents_file, words, message, capsys):
    words = [word.format(docs=documents_file, folder=tmp_path) for word in words]
    assert run_main(main, words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and message in lines[0] and lines[1].startswith("  hint: ")
    assert [path.name for path in tmp_path.iterdir()] == ["docs.jsonl.gz"]


def test_a_result_evicted_by_another_thread_during_the_search_is_not_lost(tmp_path, monkeypatch):
    words = ["kite", "lamp", "pump", "loom"]
    documents = [Document(id=word, title="", content=f"a {word} stands here") for word in words]
    KnowledgeBase.build(documents, tmp_path / "kb", "simple")
    manager = RetrievalManager("simple", tmp_path / "kb", cache_size=2)
    manager.retrieve("kite", top_k=1)
    search = manager._retriever.search

    def search_while_others_do(queries, top_k):
        monkeypatch.setattr(manager._retriever, "search", search)
        # what another thread does in the meantime: it fills the cache, and "kite" leaves it
        manager.retrieve_batch(["pump", "loom"], top_k)
        return search(queries, top_k)

    monkeypatch.setattr(manager._retriever, "search", search_while_others_do)
    found = manager.retrieve_batch(["kite", "lamp"], top_k=1)
    assert [row[0].id for row in found] == ["kite", "lamp"]


def test_the_cache_counts_and_belongs_to_one_version(tmp_path):
    kb = KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "simple")
    manager = RetrievalManager("simple", tmp_path / "kb")
    assert manager.retrieve("sourdough starter")[0].id == "example_005"
    manager.retrieve_batch(["sourdough starter", "compost", "compost"])
    assert manager.cache_info() == (1, 3, 2)
    kb.delete(["example_005"])
    assert manager.retrieve("sourdough starter")[0].id == "example_005", "the open version stays as it is"
    assert manager.refresh() and not manager.refresh()
    assert "example_005" not in [document.id for document in manager.retrieve("sourdough starter")]
    old = RetrievalManager("simple", tmp_path / "kb", version=1)
    assert old.retrieve("sourdough starter")[0].id == "example_005"


def test_a_folder_removed_and_built_anew_is_seen_although_its_version_has_the_same_number(tmp_path):
    KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "simple")
    manager = RetrievalManager("simple", tmp_path / "kb")
    assert manager.retrieve("sourdough starter")[0].id == "example_005"
    shutil.rmtree(tmp_path / "kb")
    KnowledgeBase.build([Document(id="new", content="a sourdough starter from the baker")], tmp_path / "kb", "simple")
    assert manager.refresh() and not manager.refresh()
    assert [document.id for document in manager.retrieve("sourdough starter")] == ["new"], "not from the cache"


def test_filters_are_part_of_the_question(tmp_path):
    documents = [Document(id=f"d{number}", content="a red kite", metadata={"n": number}) for number in range(9)]
    KnowledgeBase.build(documents, tmp_path / "kb", "simple")
    manager = RetrievalManager(knowledge_base_path=tmp_path / "kb")
    assert len(manager.retrieve("kite", 9)) == 9
    for filters in ("n>=6", {"n": {">=": 6}}, ["n>=6", "n<99"]):
        assert [document.id for document in manager.retrieve("kite", 9, filters=filters)] == ["d6", "d7", "d8"]
    assert manager.cache_info().size == 3, "equal conditions in two forms are one question"


def test_neighbours_surround_a_passage(tmp_path):
    text = " ".join(f"Sentence {number} speaks of {word} things." for number, word in enumerate(
        ["plain", "odd", "zebra", "quiet", "tall", "grey"]))
    documents = [Document(id="a", content=text), Document(id="b", content="A short text.")]
    KnowledgeBase.build(documents, tmp_path / "kb", "simple", chunk_words=5)
    manager = RetrievalManager(knowledge_base_path=tmp_path / "kb")
    [alone] = manager.retrieve("zebra", 1)
    around = manager.retrieve("zebra", 1, neighbours=1)
    number = int(alone.id.removeprefix("a#"))
    assert [document.id for document in around] == [f"a#{number + step}" for step in (-1, 0, 1)]
    assert around[1] == alone and {document.score for document in around} == {alone.score}
    wide = manager.retrieve("things", 6, neighbours=5)
    assert len({document.id for document in wide}) == len(wide) == len(manager.knowledge_base.neighbours("a#1", 9, 9))


def test_threads_search_while_the_knowledge_base_moves_on(tmp_path):
    documents = [Document(id=f"d{number}", content=f"a kite of version {number}") for number in range(40)]
    kb = KnowledgeBase.build(documents[:10], tmp_path / "kb", "bm25")
    manager = RetrievalManager(knowledge_base_path=tmp_path / "kb", cache_size=4)
    stop, errors = threading.Event(), []

    def ask():
        while not stop.is_set():
            found = [document.id for document in manager.retrieve(f"kite version {len(errors)}", 40)]
            if not found or len(found) != len(set(found)) or "d3" not in found:
                errors.append(found)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10, 25):
        kb.add([documents[number]])
        if number % 2:
            kb.delete([documents[number].id])
        manager.refresh()
        kb.prune()
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not errors
