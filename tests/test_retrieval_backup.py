"""Backups are knowledge bases themselves; the log, settings that stay, filters and neighbours of a knowledge base."""

import json
import random

import pytest
from knowledge_base_stubs import DOCUMENTS, SETTINGS, build, found_ids

from nanochat.errors import KnowledgeBaseError
from nanochat.retrieval import RETRIEVERS, Document, KnowledgeBase

WORDS = "kite lamp pump loom drum boat tree moss fern gate".split()


def made(number, rng):
    return Document(id=f"d{number}", content=" ".join(rng.choices(WORDS, k=8)), metadata={"n": number})


def test_filters_apply_to_every_search(tmp_path):
    rng = random.Random(1)
    kb = build([made(number, rng) for number in range(60)], tmp_path / "kb", "bm25")
    kb.delete([f"d{number}" for number in range(0, 60, 7)])
    for word in WORDS:
        everything = kb.search([word], 60)[0]
        some = kb.search([word], 60, filters={"n": {"<": 30}})[0]
        assert some == [hit for hit in everything if hit.metadata["n"] < 30]
    assert kb.allowed("n<30") is kb.allowed("n<30")


def test_neighbours_are_those_of_the_same_document(tmp_path):
    text = " ".join(f"Sentence number {number} of the text." for number in range(12))
    documents = [Document(id=name, content=text) for name in "ab"]
    kb = build(documents, tmp_path / "kb", chunk_words=12)
    assert [passage.id for passage in kb.neighbours("b#1")] == ["b#1", "b#2"]
    assert [passage.id for passage in kb.neighbours("a#3", before=2, after=0)] == ["a#1", "a#2", "a#3"]
    assert kb.neighbours("nobody") == [] and kb.document("a") == documents[0]
    assert all(text[p.metadata["start"] : p.metadata["end"]] == p.content for p in kb.documents)


@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_backup_is_a_knowledge_base_of_its_own(tmp_path, name):
    kb = build(DOCUMENTS, tmp_path / "kb", name)
    kb.delete(["example_001"])
    kb.backup(tmp_path / "copy")
    kb.backup(tmp_path / "copy")
    copy = KnowledgeBase.open(tmp_path / "copy")
    copy.verify()
    assert copy.documents == kb.documents and found_ids(copy, "compost heap", 1) == ["example_008"]
    inodes = [{file.stat().st_ino for file in place.rglob("*")} for place in (copy.path, kb.path)]
    assert not inodes[0] & inodes[1], "a backup must not share files"
    assert copy.add([DOCUMENTS[0]]).version == kb.version + 1
    with pytest.raises(KnowledgeBaseError, match="one is inside the other"):
        kb.backup(kb.path / "encoders")
    file = next((kb.path / "parts").glob("p-*/documents.jsonl"))
    file.write_bytes(file.read_bytes().replace(b"compost", b"Compost"))
    with pytest.raises(KnowledgeBaseError, match="is damaged: .*documents.jsonl"):
        kb.backup(tmp_path / "copy")
    KnowledgeBase.open(tmp_path / "copy").verify()


def test_every_write_leaves_a_line_in_the_log(tmp_path):
    kb = build(DOCUMENTS[:5], tmp_path / "kb")
    kb.add(DOCUMENTS[5:])
    kb.delete(["example_001"])
    kb.prune()
    lines = [json.loads(line) for line in (kb.path / "log.jsonl").read_text().splitlines()]
    assert [line["action"] for line in lines] == ["build", "add", "delete", "prune"]
    assert [line["version"] for line in lines] == [1, 2, 3, 3]
    assert lines[1]["added"] == len(DOCUMENTS) - 5 and lines[2]["deleted"] == 1


def test_settings_of_a_type_are_kept_for_later_writes(tmp_path):
    kb = build(DOCUMENTS[:5], tmp_path / "kb", "dense")
    kb.add(DOCUMENTS[5:])
    assert kb.manifest["indexes"]["dense"]["settings"] == SETTINGS["dense"]
    kb.compact()
    assert KnowledgeBase.open(kb.path).retriever().describe()["encoder"]["encoder"] == "lsa"
