"""What a crash, a power loss or a second writer leaves behind: the last committed version, and nothing lost."""

import os
import threading

import pytest
from knowledge_base_stubs import DOCUMENTS, build

from nanochat.errors import KnowledgeBaseError, UserError
from nanochat.retrieval import KnowledgeBase
from nanochat.retrieval.storage.manifest import encode_manifest
from nanochat.retrieval.storage.versions import read_log, read_version


@pytest.fixture
def place(tmp_path):
    build(DOCUMENTS[:3], tmp_path / "kb")
    return tmp_path / "kb"


def leave_uncommitted(place, version):
    """The file of a version that never became the current one: power went between the two writes."""
    manifest = {**read_version(place, version - 1), "version": version}
    (place / "versions" / f"{version:06}.json").write_bytes(encode_manifest(manifest))


def test_an_uncommitted_version_is_neither_opened_nor_taken_for_the_current_one(place):
    KnowledgeBase.open(place).add(DOCUMENTS[3:4])
    leave_uncommitted(place, 3)
    with pytest.raises(KnowledgeBaseError, match="has no version 3"):
        KnowledgeBase.open(place, 3)
    KnowledgeBase.open(place).prune(keep=1)
    assert KnowledgeBase.open(place).num_documents == 4


def test_a_change_that_changes_nothing_reports_the_current_version(place):
    leave_uncommitted(place, 2)
    assert KnowledgeBase.open(place).add(DOCUMENTS[:1]).version == 1


def test_without_current_no_version_is_thrown_away(place):
    knowledge_base = KnowledgeBase.open(place)
    knowledge_base.add(DOCUMENTS[3:4])
    (place / "CURRENT").unlink()
    index = next((place / "indexes" / "simple-000002").glob("*.npy"))
    data = index.read_bytes()
    index.unlink()
    index.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(KnowledgeBaseError, match="damaged"):
        KnowledgeBase.open(place, 2).rollback(2)
    KnowledgeBase.open(place, 1).rollback(1)
    assert KnowledgeBase.open(place).num_documents == 3


def test_a_line_of_the_log_that_was_cut_short_does_not_take_the_next_one_with_it(place):
    with open(place / "log.jsonl", "ab") as file:
        file.write(b'{"time": "20')
    KnowledgeBase.open(place).delete([DOCUMENTS[0].id])
    assert [line["action"] for line in read_log(place)] == ["build", "delete"]


def test_a_log_that_cannot_be_written_does_not_undo_a_commit(place, caplog):
    (place / "log.jsonl").unlink()
    (place / "log.jsonl").mkdir()
    assert KnowledgeBase.open(place).delete([DOCUMENTS[0].id]).version == 2
    assert KnowledgeBase.open(place).num_documents == 2 and "not its line in log.jsonl" in caplog.text


def test_a_builder_that_is_refused_leaves_the_lock_of_the_first_alone(tmp_path):
    started, go_on = threading.Event(), threading.Event()

    def slow():
        yield from DOCUMENTS[:2]
        started.set()
        go_on.wait(20)

    first = threading.Thread(target=lambda: build(slow(), tmp_path / "kb"))
    first.start()
    started.wait(20)
    for _ in range(2):
        with pytest.raises(UserError, match="is being written"):
            build(DOCUMENTS[4:5], tmp_path / "kb")
    go_on.set()
    first.join()
    assert [document.id for document in KnowledgeBase.open(tmp_path / "kb").documents] == [
        document.id for document in DOCUMENTS[:2]]


def test_everything_a_version_names_is_on_the_disk_before_its_name(place, monkeypatch):
    synced, calls = set(), []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        # files are synced under a temporary name: the inode stays
        synced.add(os.fstat(descriptor).st_ino)
        calls.append(("sync", os.fstat(descriptor).st_ino))
        real_sync(descriptor)

    def replace(source, target):
        if os.path.basename(target) == "CURRENT":
            calls.append(("current", frozenset(synced)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    old = {file.stat().st_ino for file in place.rglob("*") if file.is_file()}
    KnowledgeBase.open(place).add(DOCUMENTS[3:5])
    [(position, before)] = [(number, call[1]) for number, call in enumerate(calls) if call[0] == "current"]
    manifest = read_version(place, 2)
    names = [f"parts/{part['name']}" for part in manifest["parts"]] + ["versions/000002.json", "versions", "parts",
                                                                      "indexes", "CURRENT"]
    names += [f"parts/{part['name']}/{name}" for part in manifest["parts"] for name in part["files"]]
    names += [f"indexes/{record['folder']}/{name}" for record in manifest["indexes"].values()
              for name in record["files"]]
    missing = [name for name in names if os.stat(place / name).st_ino not in before | old]
    # the part of the first version was synced when that was written
    assert not [name for name in missing if not name.startswith(f"parts/{read_version(place, 1)['parts'][0]['name']}")]
    assert ("sync", place.stat().st_ino) in calls[position:]


def test_a_purge_goes_on_past_what_a_crash_left(place):
    knowledge_base = KnowledgeBase.open(place)
    leave_uncommitted(place, 2)
    knowledge_base.delete([DOCUMENTS[0].id], purge=True)
    assert [document.id for document in KnowledgeBase.open(place).documents] == [
        document.id for document in DOCUMENTS[1:3]]


def test_a_purge_that_would_fail_in_a_backup_changes_nothing_anywhere(place, tmp_path):
    knowledge_base = KnowledgeBase.open(place)
    build(DOCUMENTS[:1], tmp_path / "backup")
    with pytest.raises(KnowledgeBaseError, match="leave none in .*backup"):
        knowledge_base.delete([DOCUMENTS[0].id], purge=True, backups=[tmp_path / "backup"])
    assert KnowledgeBase.open(place).num_documents == 3


def test_without_a_place_for_the_proof_nothing_is_purged(place):
    (place / "log.jsonl").unlink()
    (place / "log.jsonl").mkdir()
    with pytest.raises(KnowledgeBaseError, match="proof cannot be written"):
        KnowledgeBase.open(place).delete([DOCUMENTS[0].id], purge=True)
    assert KnowledgeBase.open(place).num_documents == 3
