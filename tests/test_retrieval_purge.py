"""Purge: no byte of a document is left in any version, index or backup, and the log can prove it."""

import hashlib
import json

import pytest
from knowledge_base_stubs import DOCUMENTS, build, files_of, found_ids

from nanochat.errors import ConfigError, KnowledgeBaseError
from nanochat.retrieval import RETRIEVERS, Document, KnowledgeBase
from nanochat.retrieval.writing.scanning import scan

SECRET = Document(
    id="patient-7", title="Findings", source="ward",
    content="The quixotic patient of room seven suffers from zymurgical hiccups.\n\nShe says \"since Ávila\". " * 3,
)


def traces(folder, words):
    """The files that hold any of the words."""
    return [path for path in folder.rglob("*") if path.is_file() and any(
        word.encode() in path.read_bytes() for word in words)]


@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_purged_document_leaves_no_byte(tmp_path, name):
    kb = build([*DOCUMENTS[:5], SECRET, *DOCUMENTS[5:]], tmp_path / "kb", name)
    kb.delete(["example_001"])
    kb.backup(tmp_path / "copy")
    kb.update([Document(id="patient-7", content="A second text about quixotic hiccups, longer than the first one.")])
    assert traces(kb.path, ["quixotic"]) and traces(tmp_path / "copy", ["quixotic"])
    change = kb.delete(["patient-7"], purge=True, backups=[tmp_path / "copy"])
    assert change.deleted == 1 and not change.skipped
    for place in (kb.path, tmp_path / "copy"):
        assert not traces(place, ["quixotic", "zymurg", "patient-7", "hiccup", "vila"])
        left = KnowledgeBase.open(place)
        left.verify()
        assert left.documents == DOCUMENTS[1:] and found_ids(left, "compost heap", 1) == ["example_008"]
        line = json.loads((place / "log.jsonl").read_text().splitlines()[-1])
        assert line["occurrences"] == 0 and line["bytes_scanned"] > 1000 and line["versions_dropped"]
        assert line["purged_ids_sha256"] == [hashlib.sha256(b"patient-7").hexdigest()]
    assert hashlib.sha256(SECRET.content.encode()).hexdigest() in line["purged_texts_sha256"]
    assert [info.version for info in kb.versions()] == [kb.version]


def test_passages_of_a_cut_document_are_looked_for_too(tmp_path):
    kb = build([*DOCUMENTS, SECRET], tmp_path / "kb", "dense", chunk_words=12)
    passages = [passage.content for passage in kb.documents if passage.metadata.get("parent") == "patient-7"]
    assert len(passages) > 2 and any("texts.jsonl" in where for where in scan(kb.path, ["patient-7"], passages).found)
    kb.delete(["patient-7"], purge=True)
    assert not traces(kb.path, ["quixotic", "patient-7"])


def test_versions_without_the_document_stay(tmp_path):
    kb = build(DOCUMENTS[:5], tmp_path / "kb")
    kb.add([SECRET])
    kb.delete(["patient-7"])
    assert kb.delete(["patient-7"], purge=True).deleted == 0
    assert [info.version for info in kb.versions()] == [1, 4] and not traces(kb.path, ["quixotic"])
    kb.rollback(1)
    assert kb.documents == DOCUMENTS[:5]


def test_text_that_another_document_holds_is_reported_and_stays(tmp_path):
    kb = build([*DOCUMENTS, SECRET, Document(id="twin", content=f"Copy: {SECRET.content}")], tmp_path / "kb", "dense")
    change = kb.delete(["patient-7"], purge=True)
    assert change.skipped == ["document 'twin' holds the same text, and stays"]
    assert kb.document("twin") and not kb.document("patient-7")


def test_what_cannot_be_purged_changes_nothing(tmp_path):
    kb = build([*DOCUMENTS, SECRET], tmp_path / "kb")
    other = KnowledgeBase.open(kb.path)
    before = files_of(kb.path)
    with pytest.raises(KnowledgeBaseError, match="Version 1 of .* is open in another program"):
        kb.delete(["patient-7"], purge=True)
    other.snapshot.close()
    with pytest.raises(KnowledgeBaseError, match="has a document 'patient-8'"):
        kb.delete(["patient-7", "patient-8"], purge=True)
    with pytest.raises(KnowledgeBaseError, match="no id was given"):
        kb.delete([], purge=True)
    with pytest.raises(KnowledgeBaseError, match="needs at least one document"):
        kb.delete([document.id for document in kb.documents], purge=True)
    with pytest.raises(KnowledgeBaseError, match="not found"):
        kb.delete(["patient-7"], purge=True, backups=[tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="backups were given without purge"):
        kb.delete(["patient-7"], backups=[tmp_path / "copy"])
    assert files_of(kb.path) == before
    assert kb.delete(["patient-7"], purge=True).deleted == 1


def test_a_purge_that_was_killed_after_its_new_version_is_finished_by_the_same_command(tmp_path, monkeypatch):
    kb = build([*DOCUMENTS, SECRET], tmp_path / "kb")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nanochat.retrieval.writing.purge.drop_versions", killed)
        kb.delete(["patient-7"], purge=True)
    assert KnowledgeBase.open(kb.path).documents == DOCUMENTS and traces(kb.path, ["quixotic"])
    kb.delete(["patient-7"], purge=True)
    assert not traces(kb.path, ["quixotic"])


def test_a_scan_finds_texts_in_every_form(tmp_path):
    text = "A line with \"quotes\"\nand ünïcode, and enough of it."
    (tmp_path / "raw.bin").write_bytes(b"xx" + text.encode())
    (tmp_path / "json").write_text(json.dumps(text, ensure_ascii=False))
    (tmp_path / "ascii.json").write_text(json.dumps(text))
    (tmp_path / "documents.jsonl").write_text(json.dumps({"id": "a", "content": "x"}) + "\n")
    (tmp_path / "empty").write_text("")
    proof = scan(tmp_path, ["a"], [text, "short"])
    assert sorted(place.partition(",")[0] for place in proof.found) == [
        "ascii.json", "documents.jsonl", "json", "raw.bin"]
    assert proof.files == 5 and not proof.shared
