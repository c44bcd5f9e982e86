"""Knowledge bases: built equals opened, other types on request, places where there is none."""

import json
import logging
import multiprocessing
import shutil
import sys

import pytest
from knowledge_base_stubs import DOCUMENTS, build, change_manifest, files_of, first

from nanochat.errors import ConfigError, DocumentError, KnowledgeBaseError, KnowledgeBaseNotFound, MissingDependency
from nanochat.retrieval import RETRIEVERS, Document, KnowledgeBase
from nanochat.retrieval.base import COMPONENTS
from tasks.example_documents import example_documents


@pytest.fixture(params=RETRIEVERS)
def name(request):
    return request.param


@pytest.fixture
def place(tmp_path, name):
    build(DOCUMENTS, tmp_path / "kb", name)
    return tmp_path / "kb"


def test_built_equals_opened(place, name):
    opened = KnowledgeBase.open(place)
    assert opened.documents == DOCUMENTS and opened.retriever_type == name
    assert first(opened, "sourdough starter") == 4
    opened.verify()


def test_the_same_documents_give_the_same_files(tmp_path):
    for folder in ("one", "two"):
        build(DOCUMENTS, tmp_path / folder)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_building_again_replaces_everything(place, name):
    old = KnowledgeBase.open(place)
    new = build(DOCUMENTS[:3], place, name)
    assert len(KnowledgeBase.open(place).documents) == 3 and new.fingerprint != old.fingerprint
    assert [path.name for path in place.parent.iterdir()] == ["kb"]
    assert old.documents == DOCUMENTS and first(old, "sourdough starter") == 4
    assert KnowledgeBase.open(place, version=1).documents == DOCUMENTS


def test_another_type_is_built_once_and_said_so(place, name, caplog):
    for other in RETRIEVERS:
        assert first(KnowledgeBase.open(place), "bicycle service", other) == 5
    stored = {kind for kind in RETRIEVERS if kind not in COMPONENTS}
    words = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(words) == len(stored - set(COMPONENTS.get(name, [name]))), words
    assert "building it from its documents" in words[0]
    caplog.clear()
    again = KnowledgeBase.open(place)
    assert set(again.manifest["indexes"]) == stored and again.retriever_type == name
    again.verify()
    for other in RETRIEVERS:
        again.retriever(other)
    assert not caplog.records


def _open_type(place, name):
    assert first(KnowledgeBase.open(place), "bicycle service", name) == 5


def test_processes_that_ask_at_once_build_it_together(tmp_path):
    build(DOCUMENTS, tmp_path / "kb")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_open_type, args=(tmp_path / "kb", "bm25")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert KnowledgeBase.open(tmp_path / "kb").version == 2
    KnowledgeBase.open(tmp_path / "kb").verify()


def test_a_folder_that_cannot_be_written_keeps_the_index_in_memory(place, name, caplog):
    other = {"simple": "bm25"}.get(name, "simple")
    # root may write anywhere: a folder in the place of the lock file stops everyone
    (place / ".lock").unlink()
    (place / ".lock").mkdir()
    before = files_of(place)
    assert first(KnowledgeBase.open(place), "compost heap", other) == 7
    assert "stays in memory" in caplog.text and files_of(place) == before


@pytest.mark.parametrize("name", ["simple", "bm25"])
def test_an_index_of_other_settings_is_built_anew(tmp_path, name, caplog):
    place = build(DOCUMENTS, tmp_path / "kb", name).path
    change_manifest(place, lambda manifest: manifest["indexes"][name]["made_by"].update(analysis={"name": "older"}))
    assert first(KnowledgeBase.open(place), "compost heap") == 7
    assert "no usable" in caplog.text
    KnowledgeBase.open(place).verify()


def test_settings_that_a_type_does_not_have_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="simple has no setting 'model'"):
        KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "simple", settings={"model": "lsa"})
    with pytest.raises(ConfigError, match="no setting 'modell'; it has: model"):
        KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "dense", settings={"modell": "lsa"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["nothing", "empty", "foreign", "file/kb"])
def test_a_missing_knowledge_base_names_the_command(tmp_path, where):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text('{"name": "web app"}')
    (tmp_path / "file").write_text("")
    with pytest.raises(KnowledgeBaseNotFound, match="^Knowledge base not found: ") as caught:
        KnowledgeBase.open(tmp_path / where)
    assert "python -m nanochat.retrieval" in caught.value.hint


def test_a_folder_with_a_knowledge_base_in_it_says_where(tmp_path):
    build(DOCUMENTS, tmp_path / "data" / "knowledge_base")
    with pytest.raises(KnowledgeBaseNotFound) as caught:
        KnowledgeBase.open(tmp_path / "data")
    assert caught.value.hint == f"it is inside: --knowledge_base {tmp_path / 'data' / 'knowledge_base'}"


def test_a_newer_format_asks_for_an_update(place):
    change_manifest(place, lambda manifest: manifest.update(format_version=99))
    with pytest.raises(KnowledgeBaseError, match="format version 99"):
        KnowledgeBase.open(place)


def test_the_first_format_names_the_command_that_builds_it_again(tmp_path):
    place = tmp_path / "kb"
    (place / "indexes" / "bm25").mkdir(parents=True)
    (place / "indexes" / "bm25" / "x").write_text("old")
    old = {"format": "nanochat-knowledge-base", "version": 1, "retriever_type": "bm25"}
    (place / "manifest.json").write_text(json.dumps(old))
    (place / "documents.jsonl").write_text("\n".join(json.dumps(record) for record in example_documents()))
    with pytest.raises(KnowledgeBaseError, match="has the old format 1") as caught:
        KnowledgeBase.open(place)
    documents = place / "documents.jsonl"
    assert f"--documents {documents} --output {place} --type bm25" in caught.value.hint
    with pytest.raises(DocumentError):
        build([DOCUMENTS[0], DOCUMENTS[0]], place)
    assert sorted(path.name for path in place.iterdir()) == ["documents.jsonl", "indexes", "manifest.json"]

    def streamed():
        with open(documents) as file:
            yield from (Document.from_dict(json.loads(line)) for line in file)

    assert build(streamed(), place).documents == DOCUMENTS
    assert not documents.exists() and not (place / "manifest.json").exists()
    assert [path.name for path in (place / "indexes").iterdir()] == ["simple-000001"]


def test_bm25_without_its_package_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tantivy", None)
    with pytest.raises(MissingDependency, match="No module named 'tantivy'") as caught:
        build(DOCUMENTS, tmp_path / "kb", "bm25")
    assert "pip install tantivy" in caught.value.hint and not list(tmp_path.iterdir())
    assert first(build(DOCUMENTS, tmp_path / "kb"), "lighthouse") == 9


def test_a_moved_knowledge_base_works_and_names_no_place(place, name):
    shutil.move(place, place.parent / "moved")
    kb = KnowledgeBase.open(place.parent / "moved")
    assert first(kb, "compost heap") == 7
    kb.add([Document(id="new", content="a red kite")])
    for path in kb.path.rglob("*"):
        assert not path.is_file() or str(place.parent).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("wrong", [{"fusion": "sum"}, {"alpha": 7}])
def test_settings_that_no_search_could_use_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ConfigError):
        KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "hybrid", settings={"model": "lsa", **wrong})
    assert not (tmp_path / "kb").exists()


def test_settings_asked_for_go_before_those_it_was_built_with_and_leave_the_others(tmp_path):
    settings = {"model": "lsa", "fusion": "rrf"}
    kb = KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "hybrid", settings=settings)
    retriever = kb.retriever("hybrid", {"alpha": 0.9})
    assert retriever.describe()["fusion"] == "rrf" and retriever.alpha == 0.9
    assert retriever.dense is kb.retriever("hybrid").dense, "loaded once"
