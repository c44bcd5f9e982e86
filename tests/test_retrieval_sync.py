"""Sync: after any change of files, crash or bad file, the knowledge base is the image of what can be read."""

import gzip
import json
import os
import random
import sys

import pytest
from knowledge_base_stubs import build, files_of

from nanochat.errors import ConfigError, DocumentError, KnowledgeBaseError
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.retrieval.readers import find_files, read_files
from nanochat.retrieval.writing.sync import documents_from


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("the red kite flies over the hill")
    (folder / "sub" / "b.md").write_text("# Lamp\n\nthe green lamp stands on the table")
    write_records(folder / "many.jsonl", {f"r{number}": f"record number {number} about trees" for number in range(5)})
    return folder


@pytest.fixture
def kb(tmp_path, folder):
    sources, skipped = {}, []
    kb = build(documents_from(folder, sources, skipped), tmp_path / "kb", sources=sources)
    assert not skipped and set(sources) == {"a.txt", "sub/b.md", "many.jsonl"}
    age(folder)
    return kb


def write_records(path, records):
    path.write_text("".join(json.dumps({"id": name, "content": text}) + "\n" for name, text in records.items()))


def age(folder):
    """Let all files be old enough for their times to be believed."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(10**18 + path.stat().st_mtime_ns % 10**9, path.stat().st_mtime_ns - 10**10))


def image_of(folder):
    """What a reader finds in the folder now: id -> document."""
    return {document.id: document for result in read_files(find_files(folder)) for document in result.documents}


def content_of(kb):
    return {document.id: document for document in kb.documents}


def counts(change):
    return change.added, change.updated, change.deleted, change.unchanged


def test_nothing_changed_is_no_version(kb, folder):
    assert counts(kb.sync(folder)) == (0, 0, 0, 7) and kb.version <= 2
    version = kb.version
    assert counts(kb.sync(folder)) == (0, 0, 0, 7) and kb.version == version


def test_only_what_changed_is_read(kb, folder, monkeypatch):
    kb.sync(folder)
    read = []
    monkeypatch.setattr("nanochat.retrieval.writing.sync.read_files",
                        lambda files, **rest: read.extend(file.relative for file in files) or read_files(files, **rest))
    (folder / "a.txt").write_text("the blue kite")
    (folder / "new.txt").write_text("a loom")
    os.utime(folder / "many.jsonl")
    assert counts(kb.sync(folder)) == (1, 1, 0, 6)
    assert read == ["a.txt", "new.txt"] and content_of(kb) == image_of(folder)


def test_records_are_compared_one_by_one(kb, folder):
    records = {f"r{number}": f"record number {number} about trees" for number in (0, 2, 3, 9)}
    records["r3"] = "another text"
    write_records(folder / "many.jsonl", records)
    assert counts(kb.sync(folder)) == (1, 1, 2, 4)
    assert content_of(kb) == image_of(folder)


def test_files_that_are_gone_take_their_documents_with_them(kb, folder):
    (folder / "many.jsonl").unlink()
    assert counts(kb.sync(folder)) == (0, 0, 5, 2)
    assert content_of(kb) == image_of(folder)


@pytest.mark.parametrize("names", [("many.jsonl", "zz.jsonl"), ("many.jsonl", "aa.jsonl")])
def test_a_record_that_moves_to_another_file_is_replaced_not_lost(kb, folder, names):
    write_records(folder / names[0], {"r0": "record number 0 about trees"})
    write_records(folder / names[1], {"r4": "record number 4 about trees"})
    change = kb.sync(folder)
    assert (change.updated, change.deleted) == (1, 3) and content_of(kb) == image_of(folder)


def test_a_bad_file_is_named_and_its_documents_stay(kb, folder):
    before = content_of(kb)
    (folder / "sub" / "b.md").write_bytes(b"\x00\x01\x02" * 100)
    (folder / "bad.pdf").write_bytes(b"%PDF-1.4 nonsense")
    (folder / "a.txt").write_text("the blue kite")
    change = kb.sync(folder)
    assert {line.partition(":")[0] for line in change.skipped} == {"sub/b.md", "bad.pdf"}
    assert content_of(kb) == {**before, "a.txt": image_of(folder)["a.txt"]}
    # a later sync tries again, and still knows whose the old documents are
    assert len(kb.sync(folder).skipped) == 2
    (folder / "sub" / "b.md").unlink()
    (folder / "bad.pdf").unlink()
    assert kb.sync(folder).deleted == 1
    assert content_of(kb) == image_of(folder)


def test_a_bad_line_keeps_the_old_records_of_its_file(kb, folder):
    with open(folder / "many.jsonl", "w") as file:
        file.write(json.dumps({"id": "r1", "content": "a new text"}) + "\n{broken\n")
    change = kb.sync(folder)
    assert (change.updated, change.deleted) == (1, 0) and "many.jsonl" in change.skipped[0]
    assert {f"r{number}" for number in range(5)} <= set(content_of(kb))


def test_an_id_of_another_file_is_skipped(kb, folder):
    write_records(folder / "more.jsonl", {"r1": "an impostor", "r77": "a newcomer"})
    change = kb.sync(folder)
    assert change.added == 1 and "the id 'r1' is used in many.jsonl" in change.skipped[0]
    assert content_of(kb)["r1"].content.startswith("record number 1")


def test_an_id_that_another_file_gives_up_is_taken_from_the_one_that_has_it(kb, folder):
    write_records(folder / "more.jsonl", {"r1": "an impostor", "r77": "a newcomer"})
    kb.sync(folder)
    write_records(folder / "many.jsonl", {"r0": "record number 0 about trees"})
    kb.sync(folder)
    assert kb.sync(folder).skipped == [] and content_of(kb) == image_of(folder)


def test_what_a_limited_build_did_not_read_comes_with_the_next_sync(tmp_path, folder):
    sources = {}
    kb = build(documents_from(folder, sources, [], limit=3), tmp_path / "kb", sources=sources)
    assert kb.num_documents == 3
    kb.sync(folder)
    assert content_of(kb) == image_of(folder)
    with pytest.raises(ConfigError, match="limit"):
        # what is not read would seem to be gone
        kb.sync(folder, read={"limit": 1})


def test_documents_that_came_otherwise_stay(kb, folder):
    kb.add([Document(id="mine", content="typed in by hand"),
            Document(id="odd", content="says it is of a file", metadata={"file": "not/known.txt"})])
    (folder / "a.txt").unlink()
    assert kb.sync(folder).deleted == 1
    assert set(content_of(kb)) == {*image_of(folder), "mine", "odd"}


def test_a_folder_that_is_not_mounted_deletes_nothing(kb, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    before = files_of(kb.path)
    with pytest.raises(KnowledgeBaseError, match="None of the 3 files"):
        kb.sync(tmp_path / "empty")
    with pytest.raises(DocumentError, match="file not found"):
        kb.sync(tmp_path / "nowhere")
    assert files_of(kb.path) == before


def test_deleted_by_id_stays_deleted_until_the_file_changes(kb, folder):
    kb.delete(["a.txt"])
    kb.sync(folder)
    assert "a.txt" not in content_of(kb)
    (folder / "a.txt").write_text("back again")
    kb.sync(folder)
    assert content_of(kb) == image_of(folder)


def test_a_file_that_changes_within_one_tick_of_the_clock_is_seen(kb, folder):
    (folder / "a.txt").write_text("one kite")
    now = (folder / "a.txt").stat().st_mtime_ns
    kb.sync(folder)
    (folder / "a.txt").write_text("two kite")
    os.utime(folder / "a.txt", ns=(now, now))
    kb.sync(folder)
    assert content_of(kb)["a.txt"].content == "two kite"


def test_no_path_of_this_machine_is_stored(kb, folder, tmp_path):
    kb.sync(folder)
    for path in kb.path.rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes(), path


@pytest.mark.parametrize("seed", range(3))
def test_after_any_changes_the_knowledge_base_is_the_image_of_the_folder(tmp_path, folder, kb, seed):
    rng = random.Random(seed)
    for step in range(6):
        for _ in range(rng.randrange(1, 4)):
            name = f"f{rng.randrange(4)}"
            kind = rng.choice(["text", "records", "packed", "remove"])
            for old in folder.glob(f"{name}.*"):
                old.unlink()
            records = {f"{name}-{rng.randrange(5)}": f"text {rng.randrange(3)}" for _ in range(4)}
            if kind == "text":
                (folder / f"{name}.txt").write_text(f"text {rng.randrange(3)}")
            elif kind == "records":
                write_records(folder / f"{name}.jsonl", records)
            elif kind == "packed":
                lines = "".join(json.dumps({"id": key, "content": text}) + "\n" for key, text in records.items())
                (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        if rng.random() < 0.5:
            age(folder)
        kb.sync([folder])
        assert content_of(kb) == image_of(folder), f"step {step}"
        assert kb.num_documents == len(image_of(folder))
    kb.verify()
    assert content_of(KnowledgeBase.open(kb.path)) == image_of(folder)


def test_a_skip_for_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4\n")
    (tmp_path / "b.txt").write_text("a red kite")
    skipped = []
    found = list(documents_from(tmp_path, {}, skipped, workers=0))
    assert [document.id for document in found] == ["b.txt"]
    assert len(skipped) == 1 and "No module named 'pypdf'" in skipped[0] and "pip install" in skipped[0]
