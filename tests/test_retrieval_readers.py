"""Many files: what is found in folders, and that one bad file costs nothing but itself."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from reader_samples import docx, paragraph

from nanochat.errors import DocumentError
from nanochat.retrieval import read_documents
from nanochat.retrieval.readers import bulk, find_files, load_documents, read_files
from nanochat.retrieval.readers.worker import Limits, Worker


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def names(files):
    return [file.relative for file in files]


def test_folders_are_searched_and_sorted(tmp_path):
    write(tmp_path, {"b.txt": "b", "a/z.md": "z", "a/a.MD": "a", "c.txt.gz": "c", ".git/x.txt": "", ".hidden.txt": "",
                     "node_modules/x.js": "", "__pycache__/x.py": "", "photo.jpg": "x", "x.pdf.gz": "x"})
    files = find_files(tmp_path)
    assert names(files) == ["a/a.MD", "a/z.md", "b.txt", "c.txt.gz", "photo.jpg", "x.pdf.gz"]
    assert [file.kind for file in files] == [".md", ".md", ".txt", ".txt", "", ""]
    assert [file.relative for file in files if file.problem] == ["photo.jpg", "x.pdf.gz"]
    assert names(find_files([tmp_path / "b.txt", tmp_path / "a"])) == ["b.txt", "a.MD", "z.md"]
    assert names(find_files([tmp_path / "b.txt", tmp_path / "b.txt"])) == ["b.txt"]
    assert find_files([]) == []
    with pytest.raises(DocumentError, match="file not found"):
        find_files(tmp_path / "missing")


def test_knowledge_bases_and_links_out_of_the_folder_are_left_out(tmp_path):
    write(tmp_path, {"docs/a.txt": "a", "docs/kb/CURRENT": "1", "docs/kb/documents.txt": "x", "secret.txt": "s"})
    for name in ("versions", "parts"):
        (tmp_path / "docs/kb" / name).mkdir()
    docs = tmp_path / "docs"
    (docs / "out.txt").symlink_to(tmp_path / "secret.txt")
    (docs / "loop").symlink_to(docs)
    (docs / "gone.txt").symlink_to(docs / "nothing.txt")
    (docs / "same.txt").symlink_to(docs / "a.txt")
    os.mkfifo(docs / "pipe.txt")
    files = find_files(docs)
    assert names(files) == ["a.txt", "gone.txt", "pipe.txt", "same.txt"]
    assert [bool(file.problem) for file in files] == [False, True, True, False]
    assert [len(result.documents) for result in read_files(files)] == [1, 0, 0, 1]


def test_names_that_clash_or_cannot_be_written_are_problems(tmp_path):
    write(tmp_path, {"a/x.txt": "1", "b/x.txt": "2"})
    first, second = find_files([tmp_path / "a", tmp_path / "b"])
    assert not first.problem and "same relative name" in second.problem.problem
    path = os.path.join(os.fsencode(tmp_path / "a"), b"\xff.txt")
    with open(path, "wb") as file:
        file.write(b"x")
    file = find_files(tmp_path / "a")[1]
    assert "not UTF-8" in file.problem.problem
    file.relative.encode("utf-8")


GOOD = '{"id": "%s", "content": "words", "topic": "t"}\n'
MIXED = {
    "1.jsonl": GOOD % "a" + "{bad\n" + GOOD % "b" + GOOD % "a", "2.docx": docx(paragraph("words")), "3.txt": b"\x00",
    "4.docx": b"PK", "5.html": "<p>words", "6.jsonl": GOOD % "b", "7.pdf": b"%PDF-1.7", "8.md": "# words",
    "9.json": json.dumps([{"id": "c", "content": "x", "file": "mine"}]),
}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_one_bad_file_or_line_costs_only_itself(tmp_path, workers):
    pytest.importorskip("selectolax")
    pytest.importorskip("pypdf")
    files = find_files(write(tmp_path, MIXED))
    results = list(read_files(files, workers=workers))
    assert [result.file for result in results] == files
    ids = [[document.id for document in result.documents] for result in results]
    assert ids == [["a", "b"], ["2.docx"], [], [], ["5.html"], [], [], ["8.md"], ["c"]]
    assert [len(result.errors) for result in results] == [2, 0, 1, 1, 0, 1, 1, 0, 0]
    for result in results:
        assert all(str(result.file.path) in error.problem and error.hint for error in result.errors)
        assert all(document.metadata["file"] == result.file.relative for document in result.documents)
    assert results[-1].documents[0].metadata["record_file"] == "mine"
    assert "duplicate id 'b', first used in 1.jsonl" in results[5].errors[0].problem


def test_reading_stops_at_the_limit(tmp_path):
    files = find_files(write(tmp_path, MIXED))
    results = list(read_files(files, workers=1, limit=3))
    assert sum(len(result.documents) for result in results) == 3 and len(results) == 2


def test_small_text_files_start_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "Worker", None)
    files = find_files(write(tmp_path, {f"{number}.txt": "words" for number in range(20)}))
    assert sum(len(result.documents) for result in read_files(files)) == 20


def test_large_text_is_parsed_by_a_worker_with_the_same_result(tmp_path, monkeypatch):
    files = find_files(write(tmp_path, {"a.md": "# Head\n\n" + "words and \u4f60\n" * 300_000}))
    here, there = (list(read_files(files, workers=workers)) for workers in (0, 1))
    assert here[0].documents == there[0].documents and len(here[0].documents) > 2


def test_a_file_over_its_time_is_skipped_and_the_next_one_is_read(tmp_path):
    files = find_files(write(tmp_path, {"a.docx": docx(paragraph("words") * 60_000), "b.docx": docx(paragraph("x"))}))
    slow = Worker(Limits(timeout_s=0.02))
    assert "not read within 0.02 seconds" in slow.read(files[0]).errors[0].problem
    slow.limits = Limits()
    assert slow.read(files[1]).documents
    slow.stop()
    slow.clear()


def test_a_file_over_its_memory_is_skipped(tmp_path):
    bomb = docx(paragraph("word") * 150_000)
    files = find_files(write(tmp_path, {"a.docx": bomb, "b.docx": docx(paragraph("x"))}))
    first, second = read_files(files, workers=1, memory_mb=100)
    assert not first.documents and second.documents
    assert "needs more than 100 MB of memory" in first.errors[0].problem


CRASHES = {
    "import os, sys; sys.stdin.readline(); os.kill(os.getpid(), 11)": "its parser failed (signal 11)",
    "import sys; sys.stdin.readline(); raise KeyError('deep inside')": "its parser failed (KeyError: 'deep inside')",
    "raise SystemExit(3)": "its parser failed (exit code 3)",
    "import sys; sys.stdin.readline(); print('not json')": "its parser failed",
}


@pytest.mark.parametrize("program", CRASHES)
def test_a_parser_that_falls_over_is_an_error_of_the_file(tmp_path, program):
    [file] = find_files(write(tmp_path, {"a.docx": docx(paragraph("x"))}))
    worker = Worker(Limits(), [sys.executable, "-c", program])
    for _ in range(2):
        result = worker.read(file)
        assert not result.documents and CRASHES[program] in result.errors[0].problem
    assert worker.process is None


def test_a_reader_left_early_leaves_no_process(tmp_path):
    files = find_files(write(tmp_path, {f"{number}.docx": docx(paragraph("x")) for number in range(6)}))
    results = read_files(files, workers=2)
    assert next(results).documents
    before = [thread for thread in threading.enumerate() if thread.name.startswith("reader")]
    assert before
    results.close()
    deadline = time.monotonic() + 10
    while any(thread.is_alive() for thread in before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.is_alive() for thread in before)


def test_workers_need_no_main_guard_in_the_calling_program(tmp_path):
    pytest.importorskip("selectolax")
    write(tmp_path, {"docs/a.html": "<p>words"})
    program = "from nanochat.retrieval import read_documents\nprint(len(read_documents('docs')))\n"
    (tmp_path / "main.py").write_text(program)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


def test_missing_packages_are_named_per_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
    monkeypatch.setitem(sys.modules, "selectolax", None)
    files = find_files(write(tmp_path, {"a.html": "<p>words", "b.txt": "words"}))
    first, second = read_files(files, workers=0)
    assert "selectolax" in first.errors[0].problem and "pip install" in first.errors[0].hint
    assert second.documents


def test_read_documents_is_strict_with_one_file_only(tmp_path):
    write(tmp_path, MIXED)
    with pytest.raises(DocumentError, match="1.jsonl:2: not valid JSON"):
        read_documents(tmp_path / "1.jsonl")
    lines: list[str] = []
    found = read_documents([tmp_path / "1.jsonl", tmp_path / "8.md"], progress=lines.append)
    assert [document.id for document in found] == ["a", "b", "8.md"]
    assert len(lines) == 2 and all(line.startswith("skipped ") for line in lines)
    with pytest.raises(DocumentError, match="1.jsonl:2: not valid JSON"):
        read_documents([tmp_path / "1.jsonl", tmp_path / "8.md"], strict=True)
    assert len(read_documents(tmp_path / "1.jsonl", strict=False)) == 2
    documents, errors = load_documents([tmp_path / "1.jsonl"], strict=False)
    assert [document.metadata["file"] for document in documents] == ["1.jsonl"] * 2 and len(errors) == 2
    with pytest.raises(DocumentError, match="1.jsonl:2: not valid JSON"):
        load_documents(tmp_path / "1.jsonl")
    with pytest.raises(DocumentError, match="holds no documents"):
        read_documents(write(tmp_path / "none", {"x.jpg": "x"}))


def test_an_endless_line_costs_only_itself(tmp_path):
    long = '{"id": "x", "content": "' + "x" * 40_000_000 + '"}\n'
    [result] = read_files(find_files(write(tmp_path, {"a.jsonl": GOOD % "a" + long + GOOD % "b"})))
    assert [document.id for document in result.documents] == ["a", "b"]
    [error] = result.errors
    assert "a.jsonl:2: line is longer than 16,000,000 bytes" in error.problem
