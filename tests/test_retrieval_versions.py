"""Versions of a knowledge base: changes against a plain model, readers and writers at once, rollback, prune, backup."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from knowledge_base_stubs import DOCUMENTS, build, files_of, found_ids

from nanochat.errors import ConfigError, DocumentError, KnowledgeBaseError
from nanochat.retrieval import RETRIEVERS, Document, KnowledgeBase
from nanochat.retrieval.retrievers.simple import SimpleRetriever
from nanochat.retrieval.storage.locking import write_lock
from nanochat.retrieval.writing.writer import PART_DOCUMENTS, merge_tail

ROOT = Path(__file__).parents[1]
WORDS = "kite lamp pump loom drum boat tree moss fern gate".split()


def made(number, rng):
    text = " ".join(rng.choices(WORDS, k=12))
    return Document(id=f"d{number}", title=rng.choice(WORDS), content=f"{text}. {text} again.", metadata={"n": number})


@pytest.mark.parametrize("chunk_words", [0, 6])
@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_changes_equals_a_build_of_what_is_left(tmp_path, seed, chunk_words):
    rng = random.Random(seed)
    model = {f"d{number}": made(number, rng) for number in range(4)}
    kb = build(model.values(), tmp_path / "kb", chunk_words=chunk_words)
    history = {1: dict(model)}
    for step in range(12):
        action = rng.choice(["add", "update", "delete", "compact", "rollback"])
        if action == "add":
            new = [made(rng.randrange(100, 999) * 1000 + step, rng) for _ in range(rng.randrange(1, 4))]
            new = list({document.id: document for document in new}.values())
            assert kb.add(new).added == len(new)
            model |= {document.id: document for document in new}
        elif action == "update":
            old = rng.sample(sorted(model), min(2, len(model)))
            new = [made(int(name[1:]), rng) for name in old]
            change = kb.update(new)
            assert change.updated + change.unchanged == len(new) and not change.added
            for document in new:
                if model[document.id] != document:
                    # what is updated comes last
                    del model[document.id]
                    model[document.id] = document
        elif action == "delete" and len(model) > 1:
            gone = rng.sample(sorted(model), rng.randrange(1, min(3, len(model))))
            assert kb.delete(gone).deleted == len(gone)
            model = {name: document for name, document in model.items() if name not in gone}
        elif action == "compact":
            kb.compact()
        elif action == "rollback":
            version = rng.choice(sorted(history))
            kb.rollback(version)
            model = dict(history[version])
        history[kb.version] = dict(model)
    kb.verify()
    fresh = build(model.values(), tmp_path / "fresh", chunk_words=chunk_words)
    assert kb.documents == fresh.documents and kb.fingerprint == fresh.fingerprint
    assert kb.num_documents == len(model) == fresh.num_documents
    assert all(kb.document(name) == document for name, document in model.items())
    kb.compact()
    for query in WORDS:
        assert kb.search([query], 20) == fresh.search([query], 20)
    for version, content in history.items():
        opened = KnowledgeBase.open(tmp_path / "kb", version)
        assert opened.num_documents == len(content)
        assert {document.id: document for document in opened.snapshot.table.whole_documents} == content


@pytest.mark.parametrize("name", RETRIEVERS)
def test_at_once_equals_in_many_additions(tmp_path, name):
    rng = random.Random(name)
    documents = [made(number, rng) for number in range(40)]
    at_once = build(documents, tmp_path / "one", name)
    pieces = build(documents[:8], tmp_path / "many", name)
    for start in range(8, 40, 4):
        pieces.add(documents[start : start + 4])
    assert pieces.documents == documents and pieces.fingerprint == at_once.fingerprint
    for query in WORDS:
        one, many = (kb.search([query], 10)[0] for kb in (at_once, pieces))
        assert [hit.id for hit in one] == [hit.id for hit in many]
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in many], rel=1e-4)
    assert len(pieces.manifest["parts"]) <= 4
    pieces.verify()


@pytest.mark.parametrize("name", RETRIEVERS)
def test_what_is_deleted_or_replaced_is_found_no_more(tmp_path, name):
    kb = build(DOCUMENTS, tmp_path / "kb", name)
    assert "example_005" in found_ids(kb, "sourdough starter", 1)
    kb.delete(["example_005"])
    assert "example_005" not in found_ids(kb, "sourdough starter", 10)
    kb.add([DOCUMENTS[4]])
    assert found_ids(kb, "sourdough starter", 1) == ["example_005"]
    kb.update([Document(id="example_005", content="zebras graze in the savanna")])
    assert found_ids(kb, "zebras savanna", 1) == ["example_005"]
    assert all("sourdough" not in document.content for document in kb.search(["sourdough"], 10)[0])
    assert KnowledgeBase.open(kb.path, version=1).documents == DOCUMENTS


def test_a_reader_keeps_its_version_and_refresh_moves_on(tmp_path):
    reader = build(DOCUMENTS[:5], tmp_path / "kb")
    writer = KnowledgeBase.open(tmp_path / "kb")
    writer.add(DOCUMENTS[5:])
    writer.delete(["example_002"])
    assert reader.documents == DOCUMENTS[:5] and reader.version == 1
    assert reader.refresh() and reader.version == 3 and not reader.refresh()
    assert reader.documents == writer.documents


def test_wrong_changes_name_the_document_and_change_nothing(tmp_path):
    kb = build(DOCUMENTS[:5], tmp_path / "kb", chunk_words=20)
    before = files_of(kb.path)
    with pytest.raises(DocumentError, match="'example_001' is in the knowledge base already") as caught:
        kb.add([DOCUMENTS[6], Document(id="example_001", content="other")])
    assert "kb update" in caught.value.hint
    with pytest.raises(DocumentError, match="duplicate id 'x'"):
        kb.update([Document(id="x", content="one"), Document(id="x", content="two")])
    with pytest.raises(KnowledgeBaseError, match="no document 'nobody', 'example_001#2'") as caught:
        kb.delete(["example_001", "nobody", "example_001#2"])
    with pytest.raises(KnowledgeBaseError, match="no document 'example_001#2'") as caught:
        kb.delete(["example_001#2"])
    assert "name its document, 'example_001'" in caught.value.hint
    with pytest.raises(KnowledgeBaseError, match="needs at least one document"):
        kb.delete([document.id for document in DOCUMENTS[:5]])
    with pytest.raises(DocumentError, match="passage 'example_001#1' of document 'example_001'"):
        kb.add([Document(id="example_001#1", content="a clash")])
    with pytest.raises(DocumentError, match="passage 'x#2' of document 'x'"):
        kb.add([Document(id="x#2", content="first"), Document(id="x", content="A longer text. " * 30)])
    with pytest.raises(KnowledgeBaseError, match=r"no version 7 \(there are: 1\)"):
        kb.rollback(7)
    with pytest.raises(ConfigError, match="keep is 0"):
        kb.prune(0)
    assert files_of(kb.path) == before and kb.version == 1
    assert kb.add(DOCUMENTS[:5]).unchanged == 5 and kb.version == 1


def test_a_passage_clash_with_an_older_document_is_seen(tmp_path):
    kb = build([Document(id="x#2", content="first")], tmp_path / "kb", chunk_words=20)
    with pytest.raises(DocumentError, match="passage 'x#2' of document 'x'"):
        kb.add([Document(id="x", content="A longer text. " * 30)])


def test_a_second_writer_is_told_who_writes(tmp_path):
    kb = build(DOCUMENTS, tmp_path / "kb")
    with write_lock(kb.path, "add"):
        with pytest.raises(KnowledgeBaseError, match=r"is being written by process \d+ \(kb add, since \d") as caught:
            kb.delete(["example_001"])
        assert caught.value.hint.startswith("wait")
        assert KnowledgeBase.open(kb.path).documents == DOCUMENTS, "reading must go on"
    assert kb.delete(["example_001"]).version == 2
    (kb.path / ".lock").write_text("left by a writer that died")
    assert kb.delete(["example_002"]).version == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_copy_of_a_process_that_wrote_does_not_go_on_holding_the_lock(tmp_path):
    kb = build(DOCUMENTS, tmp_path / "kb")
    with write_lock(kb.path, "add"):
        child = os.fork()
        if not child:
            # such as a worker of a data loader: it never wrote, and lives on
            time.sleep(30)
            os._exit(0)
    try:
        assert kb.delete(["example_001"]).version == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_adding_an_index_waits_for_a_writer_and_a_writer_does_not_wait_for_it(tmp_path, monkeypatch):
    kb, is_writing, may_go_on = build(DOCUMENTS, tmp_path / "kb", "bm25"), threading.Event(), threading.Event()
    write = SimpleRetriever.write

    def slow_write(self, *rest):
        is_writing.set()
        assert may_go_on.wait(20)
        write(self, *rest)

    monkeypatch.setattr(SimpleRetriever, "write", slow_write)
    adding = threading.Thread(target=kb.retriever, args=("simple",))
    adding.start()
    assert is_writing.wait(20)
    with pytest.raises(KnowledgeBaseError, match="is being written by process .*kb index"):
        build(DOCUMENTS[:3], tmp_path / "kb", "bm25")
    waiting = threading.Thread(target=KnowledgeBase.open(kb.path).retriever, args=("simple",))
    waiting.start()
    may_go_on.set()
    adding.join(20)
    waiting.join(20)
    again = KnowledgeBase.open(kb.path)
    assert set(again.manifest["indexes"]) == {"bm25", "simple"} and again.version == kb.version == 2
    again.verify()


READER = """
import sys
from nanochat.retrieval import KnowledgeBase
kb = KnowledgeBase.open(sys.argv[1], int(sys.argv[2]))
print("open", flush=True)
sys.stdin.readline()
print([document.id for document in kb.search(["sourdough starter"], 1)[0]], len(kb.documents), flush=True)
"""


def test_prune_leaves_what_another_process_reads(tmp_path):
    kb = build(DOCUMENTS, tmp_path / "kb", "bm25")
    for number in range(3):
        kb.delete([f"example_00{number + 1}"])
    reader = subprocess.Popen([sys.executable, "-c", READER, kb.path, "2"], cwd=ROOT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert reader.stdout.readline() == "open\n"
    pruned = kb.prune()
    assert (pruned.removed, pruned.in_use) == ([1, 3], [2])
    assert [info.is_in_use for info in kb.versions()] == [True, True]
    # the reader opens its index only now
    printed, _ = reader.communicate("go\n")
    assert printed == "['example_005'] 9\n" and reader.returncode == 0
    assert kb.prune().removed == [2]
    with pytest.raises(KnowledgeBaseError, match="no version 2"):
        KnowledgeBase.open(kb.path, 2)
    kb.verify()


def test_pruning_keeps_as_many_as_asked_and_rollback_goes_to_any_of_them(tmp_path):
    kb = build(DOCUMENTS, tmp_path / "kb")
    for document in DOCUMENTS[:5]:
        kb.delete([document.id])
    assert kb.prune(keep=3).removed == [1, 2, 3]
    assert [(info.version, info.num_documents, info.action) for info in kb.versions()] == [
        (4, 7, "delete"), (5, 6, "delete"), (6, 5, "delete")]
    assert all(info.time for info in kb.versions())
    change = kb.rollback(4)
    assert (change.version, kb.version, kb.num_documents) == (7, 7, 7)
    kb.add([DOCUMENTS[0]])
    kb.verify()


def test_deletions_are_left_out_when_they_are_many(tmp_path):
    kb = build(DOCUMENTS, tmp_path / "kb", "bm25")
    kb.delete([document.id for document in DOCUMENTS[:4]])
    assert kb.stats()["num_deleted_rows"] == 4
    kb.add([Document(id="new", content="a red kite")])
    assert kb.stats()["num_deleted_rows"] == 0 and kb.documents[-1].id == "new"
    assert found_ids(kb, "red kite", 1) == ["new"] and kb.documents[:-1] == DOCUMENTS[4:]


def test_small_parts_are_merged_as_they_come_and_full_ones_never():
    sizes: list[int] = []
    copied = 0
    for _ in range(1000):
        sizes.append(1)
        start = merge_tail(sizes)
        copied += sum(sizes[start:])
        sizes = [*sizes[:start], *([sum(sizes[start:])] if start < len(sizes) else [])]
    assert sum(sizes) == 1000 and len(sizes) <= 10 and copied <= 10 * 1000
    assert merge_tail([]) == 0 and merge_tail([5]) == 1
    assert merge_tail([PART_DOCUMENTS, PART_DOCUMENTS]) == 2
