"""Knowledge bases: whole or not at all, verified when opened, other types on request."""

import json
import logging
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nanochat.errors import DocumentError, KnowledgeBaseError, KnowledgeBaseNotFound, MissingDependency, UserError
from nanochat.retrieval import RETRIEVERS, Document, KnowledgeBase
from nanochat.retrieval.simple import SimpleRetriever
from tasks.example_documents import example_documents

DOCUMENTS = [Document.from_dict(record) for record in example_documents()]
ROOT = Path(__file__).parents[1]


@pytest.fixture(params=RETRIEVERS)
def name(request):
    return request.param


@pytest.fixture
def place(tmp_path, name):
    KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", name)
    return tmp_path / "kb"


def first(knowledge_base, query, retriever_type=None):
    return knowledge_base.retriever(retriever_type).search([query], 1)[0][0].position


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_built_equals_opened(place, name):
    opened = KnowledgeBase.open(place)
    assert opened.documents == DOCUMENTS and opened.retriever_type == name
    assert first(opened, "sourdough starter") == 4
    opened.verify()


def test_the_same_documents_give_the_same_files(tmp_path):
    for folder in ("one", "two"):
        KnowledgeBase.build(DOCUMENTS, tmp_path / folder, "simple")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_building_again_replaces_everything(place, name):
    old = KnowledgeBase.open(place)
    new = KnowledgeBase.build(DOCUMENTS[:3], place, name)
    assert len(KnowledgeBase.open(place).documents) == 3 and new.fingerprint != old.fingerprint
    assert [path.name for path in place.parent.iterdir()] == ["kb"]


def test_another_type_is_built_once_and_said_so(place, name, caplog):
    for other in RETRIEVERS:
        assert first(KnowledgeBase.open(place), "bicycle service", other) == 5
    words = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(words) == len(RETRIEVERS) - 1 and "building it from its documents" in words[0]
    caplog.clear()
    again = KnowledgeBase.open(place)
    assert set(again.manifest["indexes"]) == set(RETRIEVERS) and again.retriever_type == name
    again.verify()
    for other in RETRIEVERS:
        again.retriever(other)
    assert not caplog.records


def _open_type(place, name):
    assert first(KnowledgeBase.open(place), "bicycle service", name) == 5


def test_processes_that_ask_at_once_build_it_together(tmp_path):
    KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "simple")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_open_type, args=(tmp_path / "kb", "bm25")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    KnowledgeBase.open(tmp_path / "kb").verify()


def test_a_build_waits_for_an_index_that_is_being_added_to_the_old_folder(tmp_path, monkeypatch):
    place, is_indexing, may_go_on = tmp_path / "kb", threading.Event(), threading.Event()
    old = KnowledgeBase.build(DOCUMENTS, place, "bm25")
    index = SimpleRetriever.index

    def slow_index(self, documents):
        is_indexing.set()
        assert may_go_on.wait(20)
        index(self, documents)

    monkeypatch.setattr(SimpleRetriever, "index", slow_index)
    adding = threading.Thread(target=old.retriever, args=("simple",))
    adding.start()
    assert is_indexing.wait(20)
    building = threading.Thread(target=KnowledgeBase.build, args=(DOCUMENTS[:3], place, "bm25"))
    building.start()
    building.join(0.5)
    assert len(KnowledgeBase.open(place).documents) == len(DOCUMENTS), "the folder was replaced too early"
    may_go_on.set()
    adding.join(20)
    building.join(20)
    new = KnowledgeBase.open(place)
    new.verify()
    assert len(new.documents) == 3 and list(new.manifest["indexes"]) == ["bm25"]


def test_a_folder_that_cannot_be_written_keeps_the_index_in_memory(place, name, caplog):
    other = next(kind for kind in RETRIEVERS if kind != name)
    # root may write anywhere: a folder in the place of the lock file stops everyone
    (place / ".lock").mkdir()
    before = files_of(place)
    assert first(KnowledgeBase.open(place), "compost heap", other) == 7
    assert "stays in memory" in caplog.text and files_of(place) == before


def test_an_index_of_other_settings_is_built_anew(place, name, caplog):
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["indexes"][name]["made_by"]["analysis"] = {"name": "of another day"}
    (place / "manifest.json").write_text(json.dumps(manifest))
    assert first(KnowledgeBase.open(place), "compost heap") == 7
    assert "no usable" in caplog.text
    KnowledgeBase.open(place).verify()


@pytest.mark.parametrize("where", ["nothing", "empty", "foreign", "file/kb"])
def test_a_missing_knowledge_base_names_the_command(tmp_path, where):
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text('{"name": "web app"}')
    (tmp_path / "file").write_text("")
    with pytest.raises(KnowledgeBaseNotFound, match="^Knowledge base not found: ") as caught:
        KnowledgeBase.open(tmp_path / where)
    assert "python -m nanochat.retrieval" in caught.value.hint


def test_a_newer_format_asks_for_an_update(place):
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(KnowledgeBaseError, match="format version 99"):
        KnowledgeBase.open(place)


@pytest.mark.parametrize("text", [
    "{", "", '{"format": "nanochat-knowledge-base"}',
    '{"format": "nanochat-knowledge-base", "version": 1, "indexes": []}',
])  # fmt: skip
def test_a_broken_manifest_is_damage(place, text):
    (place / "manifest.json").write_text(text)
    with pytest.raises(KnowledgeBaseError, match="is damaged: manifest.json|not found"):
        KnowledgeBase.open(place)


def test_a_manifest_cannot_lead_out_of_its_folder(place, name):
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["indexes"][name]["files"]["../../secret"] = {"bytes": 1, "sha256": ""}
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(KnowledgeBaseError, match="manifest.json is incomplete"):
        KnowledgeBase.open(place)


def test_every_damaged_file_is_named(place):
    for file in sorted(path for path in place.rglob("*") if path.is_file() and path.name != "manifest.json"):
        content = file.read_bytes()
        flipped = content[:-1] + bytes([content[-1] ^ 1]) if content else b"x"
        for damage in (content[:-1] if content else b"x", flipped, None):
            file.unlink()
            if damage is not None:
                file.write_bytes(damage)
            with pytest.raises(KnowledgeBaseError, match=f"is damaged: .*{file.name}") as caught:
                knowledge_base = KnowledgeBase.open(place)
                knowledge_base.retriever()
            assert "build it again" in caught.value.hint
            file.write_bytes(content)
    KnowledgeBase.open(place).verify()


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(KnowledgeBaseError, match="Refusing to replace .*thesis.txt"):
        KnowledgeBase.build(DOCUMENTS, tmp_path)
    with pytest.raises(KnowledgeBaseError, match="it is a file"):
        KnowledgeBase.build(DOCUMENTS, tmp_path / "thesis.txt")
    assert files_of(tmp_path) == {Path("thesis.txt"): b"three years of work"}


@pytest.mark.parametrize("bad", [
    [], [DOCUMENTS[0], DOCUMENTS[0]], [Document(id="a", content=" ")],
    [Document(id="a", content="x", metadata={"n": {1, 2}})],
    [Document(id="a", content="half \ud83d")], [Document(id="a", content="x", metadata={"n": float("nan")})],
])  # fmt: skip
def test_documents_that_could_not_be_read_again_are_refused(place, bad):
    before = files_of(place)
    with pytest.raises((KnowledgeBaseError, DocumentError)):
        KnowledgeBase.build(bad, place)
    assert files_of(place) == before


def test_an_unwritable_place_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        KnowledgeBase.build(DOCUMENTS, tmp_path / "file" / "kb")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_types_that_are_not_there_leave_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="not built yet"):
        KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "dense")
    assert not list(tmp_path.iterdir())


def test_bm25_without_its_package_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tantivy", None)
    with pytest.raises(MissingDependency, match="No module named 'tantivy'") as caught:
        KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "bm25")
    assert "pip install tantivy" in caught.value.hint and not list(tmp_path.iterdir())
    assert first(KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "simple"), "lighthouse") == 9


def test_an_interrupted_swap_is_put_right(place):
    aside = place.parent / f".{place.name}.abc.old"
    aside.mkdir()
    shutil.move(place, aside / place.name)
    assert KnowledgeBase.open(place).documents == DOCUMENTS


BUILDER = """
import sys
from nanochat.retrieval import Document, KnowledgeBase
from tasks.example_documents import example_documents
documents = [Document.from_dict(record) for record in example_documents()]
KnowledgeBase.build(documents, sys.argv[1], sys.argv[2])
print("ready", flush=True)
while True:
    for count in (5, 10):
        KnowledgeBase.build(documents[:count], sys.argv[1], sys.argv[2])
"""


def test_kill_9_leaves_the_old_or_the_new_one(place, name):
    rng = random.Random(name)
    for _ in range(4):
        builder = subprocess.Popen([sys.executable, "-c", BUILDER, place, name], stdout=subprocess.PIPE, cwd=ROOT)
        builder.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        builder.send_signal(signal.SIGKILL)
        builder.wait()
        builder.stdout.close()
        knowledge_base = KnowledgeBase.open(place)
        knowledge_base.verify()
        assert len(knowledge_base.documents) in (5, 10)
        assert first(knowledge_base, "sourdough starter") == 4
    KnowledgeBase.build(DOCUMENTS, place, name)


def test_the_hint_for_a_damaged_index_keeps_the_type(tmp_path):
    path = tmp_path / "kb"
    KnowledgeBase.build([Document(id="a", title="Kite", content="A red kite.")], path, "bm25")
    for file in (path / "indexes" / "bm25").iterdir():
        file.write_bytes(b"")
    with pytest.raises(KnowledgeBaseError) as caught:
        KnowledgeBase.open(path).retriever()
    assert caught.value.hint.endswith(f"--output {path} --type bm25")
