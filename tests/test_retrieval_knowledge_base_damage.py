"""Knowledge bases under attack: damaged files, links, full disks, killed writers; a clear error, nothing lost."""

import json
import multiprocessing
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from knowledge_base_stubs import DOCUMENTS, build, files_of, first

from nanochat.errors import DocumentError, KnowledgeBaseError, KnowledgeBaseNotFound, UserError
from nanochat.retrieval import RETRIEVERS, Document, KnowledgeBase
from nanochat.retrieval.storage.manifest import decode_manifest, encode_manifest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def place(tmp_path):
    build(DOCUMENTS, tmp_path / "kb")
    return tmp_path / "kb"


@pytest.mark.parametrize("text", ["{", "", "[]", '{"format": "nanochat-knowledge-base", "format_version": 2}'])
def test_a_broken_manifest_is_damage(place, text):
    (place / "versions" / "000001.json").write_text(text)
    with pytest.raises(KnowledgeBaseError, match="is damaged: versions/000001.json"):
        KnowledgeBase.open(place)
    with pytest.raises(KnowledgeBaseError, match="is damaged: versions/000001.json"):
        KnowledgeBase.open(place, version=1)


@pytest.mark.parametrize("text", ["", "1\n", "000001 abc\n", "\xff" * 80, "000009 " + "0" * 64 + "\n"])
def test_a_broken_current_is_damage_and_a_rollback_repairs_it(place, text):
    (place / "CURRENT").write_text(text)
    with pytest.raises(KnowledgeBaseError, match="is damaged: (CURRENT|versions/000009)"):
        KnowledgeBase.open(place)
    KnowledgeBase.open(place, version=1).rollback(1)
    assert first(KnowledgeBase.open(place), "compost heap") == 7


def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path):
    kb = build(DOCUMENTS, tmp_path / "kb")
    file = {"bytes": 1, "sha256": ""}
    for key, value in (("files", {"../../secret": file}), ("folder", "../.."), ("folder", "/etc")):
        manifest = json.loads(json.dumps(kb.manifest))
        manifest["indexes"]["simple"][key] = value
        with pytest.raises(KnowledgeBaseError, match="versions/000001.json is incomplete"):
            decode_manifest(kb.path, "versions/000001.json", encode_manifest(manifest))


@pytest.mark.parametrize("what", ["parts", "indexes", "parts/*", "indexes/*", "parts/*/documents.jsonl", "indexes/*/*",
                                  "versions/*", "CURRENT"])  # fmt: skip
def test_links_out_of_the_folder_are_refused(tmp_path, what):
    build(DOCUMENTS, tmp_path / "kb")
    entry = sorted((tmp_path / "kb").glob(what))[0]
    shutil.move(entry, tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KnowledgeBaseError, match="is damaged"):
        KnowledgeBase.open(tmp_path / "kb").retriever()


@pytest.mark.parametrize("what", ["parts", "indexes", "versions", "work", ".lock", "log.jsonl"])
def test_a_writer_follows_no_link(tmp_path, what):
    build(DOCUMENTS[:5], tmp_path / "kb")
    shutil.rmtree(tmp_path / "kb" / what, ignore_errors=True)
    (tmp_path / "kb" / what).unlink(missing_ok=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear all")
    (tmp_path / "kb" / what).symlink_to(tmp_path / "mine")
    with pytest.raises(KnowledgeBaseError, match=f"{what} is a link"):
        build(DOCUMENTS, tmp_path / "kb")
    assert files_of(tmp_path / "mine") == {Path("letter.txt"): b"dear all"}


@pytest.mark.parametrize("name", RETRIEVERS)
def test_every_damaged_file_is_named(tmp_path, name):
    place = build(DOCUMENTS, tmp_path / "kb", name).path
    needed = [path for path in place.rglob("*") if path.is_file() and not path.name.endswith((".lock", "log.jsonl"))]
    for file in sorted(needed):
        content = file.read_bytes()
        flipped = content[:-1] + bytes([content[-1] ^ 1]) if content else b"x"
        for damage in (content[:-1] if content else b"x", flipped, None):
            file.unlink()
            if damage is not None:
                file.write_bytes(damage)
            with pytest.raises(KnowledgeBaseError, match=f"is damaged: .*{file.name}|not found") as caught:
                KnowledgeBase.open(place).retriever()
            assert caught.value.hint.startswith(("build it again", "go back: nanochat kb rollback 1 "))
            file.write_bytes(content)
    KnowledgeBase.open(place).verify()


def test_damage_names_the_version_before(place):
    KnowledgeBase.open(place).delete(["example_003"])
    (place / "parts" / KnowledgeBase.open(place).manifest["deleted"]["name"]).write_bytes(b"")
    with pytest.raises(KnowledgeBaseError) as caught:
        KnowledgeBase.open(place)
    assert caught.value.hint.startswith(f"go back: nanochat kb rollback 1 --knowledge_base {place}; or build it again")
    KnowledgeBase.open(place, version=1).rollback(1)
    assert KnowledgeBase.open(place).documents == DOCUMENTS


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(KnowledgeBaseError, match="Refusing to replace .*thesis.txt"):
        build(DOCUMENTS, tmp_path)
    with pytest.raises(KnowledgeBaseError, match="it is a file"):
        build(DOCUMENTS, tmp_path / "thesis.txt")
    assert files_of(tmp_path) == {Path("thesis.txt"): b"three years of work"}


@pytest.mark.parametrize("bad", [
    [], [DOCUMENTS[0], DOCUMENTS[0]], [Document(id="a", content=" ")],
    [Document(id="a", content="x", metadata={"n": {1, 2}})],
    [Document(id="a", content="half \ud83d")], [Document(id="a", content="x", metadata={"n": float("nan")})],
])  # fmt: skip
def test_documents_that_could_not_be_read_again_are_refused(place, bad):
    before = files_of(place)
    with pytest.raises((KnowledgeBaseError, DocumentError)):
        build(bad, place)
    assert files_of(place) == before


def test_an_unwritable_place_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        build(DOCUMENTS, tmp_path / "file" / "kb")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_disk_that_is_full_changes_nothing(tmp_path, name):
    place = build(DOCUMENTS, tmp_path / "kb", name).path
    before = files_of(place)
    more = [Document(id=f"m{number}", content="many words of a longer text " * 40) for number in range(50)]
    writer = multiprocessing.get_context("fork").Process(target=_write_on_a_full_disk, args=(place, name, more))
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    assert files_of(place) == before
    KnowledgeBase.open(place).verify()
    assert KnowledgeBase.open(place).add(more).added == 50


def _write_on_a_full_disk(place, name, more):
    for limit in (0, 100, 3_000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for write in (lambda: KnowledgeBase.open(place).add(more), lambda: build([*DOCUMENTS, *more], place, name)):
            try:
                write()
            except UserError as error:
                assert error.problem.startswith("Cannot write"), error
            else:
                raise AssertionError(f"written with at most {limit} bytes a file")


def test_an_interrupted_build_is_called_that_and_the_same_command_goes_on(tmp_path):
    place = tmp_path / "kb"
    (place / "parts" / "p-0").mkdir(parents=True)
    (place / ".lock").write_text('{"pid": 1}')
    with pytest.raises(KnowledgeBaseNotFound, match="an interrupted build is in its place") as caught:
        KnowledgeBase.open(place)
    assert caught.value.hint == "run the same build command again"
    assert build(DOCUMENTS, place).documents == DOCUMENTS
    assert not (place / "parts" / "p-0").exists()


@pytest.mark.parametrize("folder", ["parts", "work", "versions"])
def test_foreign_folders_with_our_names_are_not_touched(tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "engine.txt").write_text("V8")
    with pytest.raises(KnowledgeBaseError, match=f"Refusing to replace .*{folder}"):
        build(DOCUMENTS, tmp_path)
    assert files_of(tmp_path) == {Path(folder, "engine.txt"): b"V8"}


BUILDER = """
import sys
from nanochat.retrieval import Document, KnowledgeBase
from tasks.example_documents import example_documents
documents = [Document.from_dict(record) for record in example_documents()]
settings = {"model": "lsa"} if sys.argv[2] in ("dense", "hybrid") else None
KnowledgeBase.build(documents, sys.argv[1], sys.argv[2], settings=settings)
print("ready", flush=True)
while True:
    for count in (5, 10):
        KnowledgeBase.build(documents[:count], sys.argv[1], sys.argv[2], settings=settings).prune()
"""


@pytest.mark.parametrize("name", RETRIEVERS)
def test_kill_9_leaves_the_old_or_the_new_one(tmp_path, name):
    place, rng = tmp_path / "kb", random.Random(name)
    for _ in range(1):
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
    build(DOCUMENTS, place, name)


def test_the_hint_for_a_damaged_index_keeps_the_type(tmp_path):
    path = tmp_path / "kb"
    build([Document(id="a", title="Kite", content="A red kite.")], path, "bm25")
    for file in (path / "indexes").glob("bm25-*/*"):
        file.write_bytes(b"")
    with pytest.raises(KnowledgeBaseError) as caught:
        KnowledgeBase.open(path).retriever()
    assert caught.value.hint.endswith(f"--output {path} --type bm25")
