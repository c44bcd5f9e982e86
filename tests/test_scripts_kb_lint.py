"""The journey of scripts.kb_lint through its main: table, report, exit codes, repairs, mistakes."""

import json

import pytest

from nanochat.common import run_main
from nanochat.retrieval import KnowledgeBase, read_documents
from nanochat.retrieval.document import Document
from scripts.kb_lint import main

GOOD = "The return policy allows customers to send back unused goods within thirty days of the purchase date. " * 3


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def good(tmp_path):
    return write(tmp_path / "good.jsonl", {"id": "a", "title": "Returns", "content": GOOD})


@pytest.fixture
def bad(tmp_path):
    return write(tmp_path / "bad.jsonl",
                 {"id": "a", "title": "", "content": f"# Returns\n\n{GOOD}\u200b Mail jane@acme-tools.com "},
                 {"id": "b", "title": "Returns", "content": f"# Returns\n{GOOD} Mail jane@acme-tools.com"},
                 {"id": "c", "title": "Document1", "content": "<p>How may one of us return the goods?</p>"},
                 {"id": "d"})


def test_good_documents_pass_strictly(good, capsys):
    assert main(["--documents", good, "--strict", "true"]) == 0
    printed = capsys.readouterr().out
    assert "1 documents, 51 words" in printed and "checks found nothing" in printed


def test_findings_are_printed_and_reported(bad, tmp_path, capsys):
    write(tmp_path / "questions.jsonl", {"id": "q", "question": "How may one of us return the goods?"})
    words = ["--documents", bad, "--questions", str(tmp_path / "questions.jsonl"), "--report", str(tmp_path / "out")]
    assert main(words) == 0 and main([*words, "--strict"]) == 2
    printed = capsys.readouterr().out
    for name in ("unreadable", "email", "no_title", "unclear_title", "control_characters", "markup",
                 "evaluation_question"):
        assert f"  {name} " in printed, name
    assert "bad.jsonl:4: 'content' is missing or empty" in printed and "jane@" not in printed
    record = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert record["documents"] == 3 and record["worst"] == "error"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "unclear_title" in page and "jane@" not in page


def test_repairs_are_written_and_what_is_left_is_said(bad, tmp_path, capsys):
    output = tmp_path / "fixed.jsonl"
    assert main(["--documents", bad, "--fix", "true", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    fixed = read_documents(output)
    assert [document.id for document in fixed] == ["a", "c"] and fixed[0].title == "Returns"
    assert "\u200b" not in fixed[0].content and not fixed[0].content.endswith(" ")
    assert "2 documents; 1 control characters removed" in printed and "Left: 0 errors, 3 warnings" in printed
    assert main(["--documents", str(output), "--skip", "email", "unclear_title", "markup", "--strict"]) == 0
    assert run_main(main, ["--documents", bad, "--fix", "true", "--output", str(output)]) == 2
    assert "Refusing to replace" in capsys.readouterr().err


def test_a_folder_and_a_knowledge_base(good, bad, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "policy.md").write_text(f"# Policy\n\n{GOOD}", encoding="utf-8")
    assert main(["--documents", str(tmp_path / "notes"), good]) == 0
    assert "2 documents" in capsys.readouterr().out
    documents = [Document(id=name, title=name * 3, content=f"{name} {GOOD}") for name in "xyz"]
    KnowledgeBase.build(documents, tmp_path / "kb", chunk_words=20)
    assert main(["--knowledge_base", str(tmp_path / "kb"), "--limit", "6"]) == 0
    assert "6 documents" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    ([], "give --documents or --knowledge_base"),
    (["--documents", "a.jsonl", "--knowledge_base", "kb"], "not both"),
    (["--documents", "none.jsonl"], "none.jsonl: file not found"),
    (["--documents", "empty.jsonl"], "empty.jsonl: holds no documents"),
    (["--documents", "empty.jsonl", "--fix"], "--fix needs --output"),
    (["--documents", "empty.jsonl", "--fix", "--output", "."], "--fix needs --output"),
    (["--knowledge_base", "kb", "--fix", "--output", "x.jsonl"], "--fix is for --documents"),
    (["--documents", "empty.jsonl", "--skip", "emial"], "--skip emial: no such check"),
    (["--documents", "empty.jsonl", "--questions", "no.jsonl"], "Queries not found: no.jsonl"),
    (["--documents", "full.jsonl", "--report", "."], "Refusing to replace ."),
])  # fmt: skip
def test_mistakes_are_two_lines_and_exit_2(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    write(tmp_path / "full.jsonl", {"id": "a", "title": "Returns", "content": GOOD})
    assert run_main(main, words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and message in lines[0] and lines[1].startswith("  hint: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "full.jsonl"]
