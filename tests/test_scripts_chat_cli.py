"""Journeys at the terminal: questions, commands, mistakes and ways out, with a tiny random model."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from engine_stubs import make_documents, make_model, make_tokenizer

from nanochat.checkpoint_manager import find_checkpoint, save_checkpoint
from nanochat.common import run_main
from nanochat.engine import ABSTAIN_TEXT, AnswerStream, Engine
from nanochat.engine.deciding import CITATION_THRESHOLD
from nanochat.evaluation.card import write_card
from nanochat.retrieval import Document, KnowledgeBase, RetrievalManager
from scripts import chat_cli

HOSTILE = {"id": "h1", "title": "Kestrel \x1b[31mred", "content": "A kestrel \x1b]0;owned\x07 hovers."}


@pytest.fixture
def knowledge_base(tmp_path, monkeypatch) -> Path:
    """A knowledge base, and a base folder with one hybrid checkpoint of its own."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    save_checkpoint("rag", "tiny", 3, model=make_model("M,T"), tokenizer=make_tokenizer(), meta={})
    documents = [Document(**record) for record in [*make_documents(6), HOSTILE]]
    KnowledgeBase.build(documents, tmp_path / "kb", "simple")
    KnowledgeBase.build(documents[:2], tmp_path / "other", "simple")
    return tmp_path / "kb"


def chat(monkeypatch, lines: list[str], *flags: object) -> int:
    """Run the script with these lines piped in."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return run_main(chat_cli.main, [str(flag) for flag in ("--max_tokens", 8, *flags)])


def test_questions_are_answered_with_their_sources(knowledge_base, monkeypatch, capsys):
    lines = ["", "Who founded Brelith Institute?", "   ", "When does the Torvik ferry leave?", "quit", "never read"]
    assert chat(monkeypatch, lines, "--knowledge_base", knowledge_base, "--top_k", 2) == 0
    output = capsys.readouterr().out
    assert output.count("Assistant: ") == 2 and "You: Who founded Brelith Institute?" in output
    assert "(d1)" in output and "Title " in output and "never read" not in output
    assert "7 documents, simple" in output


def test_one_question_for_scripts(knowledge_base, monkeypatch, capsys):
    flags = ["--knowledge_base", knowledge_base, "--question", "Who founded Brelith Institute?"]
    assert chat(monkeypatch, ["not read"], *flags) == 0
    first = capsys.readouterr().out
    assert "Assistant:" not in first and "You:" not in first and "(d1)" in first
    assert chat(monkeypatch, [], *flags) == 0
    assert capsys.readouterr().out == first, "the same question got another answer"


def test_a_question_without_any_document_is_an_abstention(knowledge_base, monkeypatch, capsys):
    assert chat(monkeypatch, [], "--knowledge_base", knowledge_base, "--question", "zyzzyva?") == 0
    assert capsys.readouterr().out == f"{ABSTAIN_TEXT}\n  note: no document was found for this question\n"


def test_one_answer_as_json(knowledge_base, monkeypatch, capsys):
    asked = ["--knowledge_base", knowledge_base, "--json", "--question"]
    assert chat(monkeypatch, [], *asked, "Who founded Brelith Institute?", "--answer_threshold", 0) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["answer_threshold"] == 0 and 0 <= record["answer_probability"] <= 1 and not record["abstained"]
    for citation in record["citations"]:
        document = record["documents"][citation["number"] - 1]
        assert document["number"] == citation["number"] and document["id"] == citation["id"]
        if citation["start"] is not None:
            assert document["content"][citation["start"] : citation["end"]] == citation["passage"]
    assert chat(monkeypatch, [], *asked, "zyzzyva?") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["abstained"] and record["answer_probability"] is None
    assert record["citations"] == record["closest"] == []
    assert record["notes"] == ["no document was found for this question"]
    assert chat(monkeypatch, [], *asked, "kestrel hovers") == 0
    output = capsys.readouterr().out
    assert "\\u001b" in output and "\x1b" not in output


def test_the_threshold_comes_from_the_flag_or_the_card(knowledge_base, monkeypatch, capsys):
    asked = ["--knowledge_base", knowledge_base, "--question", "Who founded Brelith Institute?", "--json"]

    def threshold(*flags):
        assert chat(monkeypatch, [], *asked, *flags) == 0
        captured = capsys.readouterr()
        record = json.loads(captured.out)
        return record["answer_threshold"], record["abstained"], captured.err

    assert threshold()[0] is None and threshold()[2] == ""
    assert threshold("--answer_threshold", 1) == (1.0, True, "")
    folder = find_checkpoint("rag", "tiny")
    fingerprint = RetrievalManager(None, knowledge_base).knowledge_base.fingerprint
    of_kb = {"knowledge_base": {"fingerprint": fingerprint}}
    write_card(folder, {"answer_threshold": 1.0, "settings": {"second_look": True}, **of_kb})
    assert threshold() == (1.0, True, "")
    value, _, error = threshold("--second_look", "false")
    assert value is None and "the card's answer_threshold was not chosen without a second look" in error
    assert error.endswith("rag_eval --suite quick --source rag --tag tiny --second_look false\n")
    write_card(folder, {"answer_threshold": 1.0, **of_kb})  # a card from before there were second looks
    assert threshold("--second_look", "false") == (1.0, True, "")
    assert threshold()[0] is None and "was not chosen with a second look" in threshold()[2]
    write_card(folder, {"answer_threshold": 1.0, "settings": {"second_look": True}, **of_kb})
    assert threshold("--answer_threshold", 0)[:2] == (0.0, False)
    assert threshold("--answer_threshold", "none")[0] is None
    write_card(folder, {"answer_threshold": None, "knowledge_base": {"fingerprint": "of another"}})
    value, _, error = threshold()
    assert value is None and error.startswith("Note: the card of this checkpoint is stale, the knowledge base is not")


def test_the_citation_threshold_is_that_of_every_answer(knowledge_base, monkeypatch, capsys):
    made = []
    real = Engine.__init__
    monkeypatch.setattr(Engine, "__init__", lambda self, *args, **options: (real(self, *args, **options),
                                                                            made.append(self.citation_threshold))[0])
    for flags in ([], ["--citation_threshold", 0]):
        assert chat(monkeypatch, [], "--knowledge_base", knowledge_base, "--question", "Who founded it?", *flags) == 0
    assert made == [CITATION_THRESHOLD, 0.0]


def test_slash_kb_tells_a_stale_card_and_sources_the_probability(knowledge_base, monkeypatch, capsys):
    other = knowledge_base.parent / "other"
    fingerprint = RetrievalManager(None, knowledge_base).knowledge_base.fingerprint
    write_card(find_checkpoint("rag", "tiny"),
               {"answer_threshold": 0.25, "settings": {"second_look": True},
                "knowledge_base": {"fingerprint": fingerprint}})
    lines = ["Brelith Institute?", "/sources", f"/kb {other}"]
    assert chat(monkeypatch, lines, "--knowledge_base", knowledge_base) == 0
    captured = capsys.readouterr()
    assert re.search(r"probability of an answer 0\.\d{3}, threshold 0\.250", captured.out)
    assert captured.err.count("\n") == 1 and "the card of this checkpoint is stale" in captured.err


def test_commands(knowledge_base, monkeypatch, capsys):
    other = knowledge_base.parent / "other"
    lines = ["/help", "/sources", "/kb", "/top_k 1", "Brelith Institute?", "/sources", f"/kb {other}", "/sources"]
    assert chat(monkeypatch, lines, "--knowledge_base", knowledge_base) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    parts = captured.out.split("You: ")[1:]
    assert "/top_k N" in parts[0] and "no documents were shown" in parts[1]
    assert f"7 documents, simple, {knowledge_base}" in parts[2] and "1 documents per question" in parts[3]
    assert parts[5].count("[1] Title") == 1 and "founded by Mira Solheim" in parts[5] and "[2]" not in parts[5]
    assert f"2 documents, simple, {other}" in parts[6] and "no documents were shown" in parts[7]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/kb nowhere", "Knowledge base not found"),
        ("/top_k 0", "/top_k needs a number"),
        ("/top_k", "/top_k needs a number"),
        ("/nonsense", "Unknown command: /nonsense"),
        ("ferry " * 400, "The question is too long"),
    ],
)
def test_a_mistake_is_told_and_the_conversation_goes_on(knowledge_base, monkeypatch, capsys, line, problem):
    assert chat(monkeypatch, [line, "Brelith Institute?"], "--knowledge_base", knowledge_base) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"Error: {problem}") and captured.err.count("\n") == 2
    assert captured.out.count("Assistant: ") == 1 and "(d1)" in captured.out


def test_control_characters_of_documents_never_reach_the_terminal(knowledge_base, monkeypatch, capsys):
    assert chat(monkeypatch, ["kestrel hovers", "/sources"], "--knowledge_base", knowledge_base) == 0
    output = capsys.readouterr().out
    assert "Kestrel [31mred" in output and "\x1b" not in output and "\x07" not in output


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "Error: Knowledge base not found: --knowledge_base was not given"),
        (["--knowledge_base", "nowhere"], "Error: Knowledge base not found: nowhere"),
        (["--knowledge_base", "{kb}", "--source", "refrag"], "Error: Checkpoint not found: source refrag"),
        (["--knowledge_base", "{kb}", "--tag", "large"], "Error: Checkpoint not found: source rag, tag large"),
        (["--knowledge_base", "{kb}", "--tag", "plain"], "Error: RAG requires Mamba or hybrid models"),
        (["--knowledge_base", "{kb}", "--top_k", "0"], "Error: --top_k must be at least 1"),
        (["--knowledge_base", "{kb}", "--device", "gpu"], "Error: Device 'gpu' is not known"),
        (["--knowledge_base", "{kb}", "--question", " "], "Error: --question is empty"),
        (["--knowledge_base", "{kb}", "--json"], "Error: --json prints one answer and needs a question"),
        (["--knowledge_base", "{kb}", "--answer_threshold", "2"], "Error: --answer_threshold must lie between 0 and 1"),
        (["--knowledge_base", "{kb}", "--citation_threshold", "2"],
         "Error: --citation_threshold must lie between 0 and 1"),
        (["--knowledge_base", "{kb}", "--answer_threshold", "high"], "Error: Bad value for --answer_threshold: 'high'"),
        (["--knowledgebase", "{kb}"], "Error: Unknown flag --knowledgebase"),
    ],
)
def test_what_cannot_work_is_said_in_two_lines(knowledge_base, monkeypatch, capsys, flags, problem):
    save_checkpoint("rag", "plain", 1, model=make_model("T"), tokenizer=make_tokenizer(), meta={})
    assert chat(monkeypatch, [], "--tag", "tiny", *[flag.format(kb=knowledge_base) for flag in flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(problem) and captured.err.count("\n") == 2 and "Traceback" not in captured.err


def test_ctrl_c_stops_an_answer_and_not_the_conversation(knowledge_base, monkeypatch, capsys):
    whole = AnswerStream.__next__
    pressed = []

    def press_once(stream):
        piece = whole(stream)
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        return piece

    monkeypatch.setattr(AnswerStream, "__next__", press_once)
    assert chat(monkeypatch, ["Torvik ferry?", "Brelith Institute?"], "--knowledge_base", knowledge_base) == 0
    output = capsys.readouterr().out
    assert "(stopped)" in output and output.index("(stopped)") < output.index("Assistant: ")


def test_piped_bytes_that_are_no_utf8_and_a_narrow_console(knowledge_base):
    finished = subprocess.run(
        [sys.executable, "-m", "scripts.chat_cli", "--knowledge_base", str(knowledge_base), "--max_tokens", "4"],
        input=b"caf\xe9 \xff ferry?\nGr\xc3\xb6\xc3\x9fe of Brelith?\n", capture_output=True, timeout=120,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert finished.returncode == 0 and finished.stderr == b"", finished.stderr.decode()
    assert finished.stdout.count(b"Assistant: ") == 2
