"""What the chat advises can be typed: every command that it prints is run, at the smallest size."""

import importlib
import io
import json
import re
import shlex

import pytest
from engine_stubs import make_model, make_tokenizer

from nanochat.checkpoint_manager import find_checkpoint, save_checkpoint
from nanochat.common import run_main, write_jsonl
from nanochat.evaluation.card import read_card, write_card
from nanochat.retrieval import Document, KnowledgeBase
from scripts import chat_cli

# what makes a command small; it changes nothing that the command says
SMALLER = {"scripts.rag_eval": ["--max_questions", "2", "--max_tokens", "4", "--device", "cpu"]}
TOWNS = "Alda Brun Cers Dorn Elst Furn Gars Hald".split()
TEXT = "{0} is a town in the north. The mayor of {0} is {0}son. Its market opened in {1} and has {2} stalls."


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to type in, with documents, and a base folder that holds one checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    save_checkpoint("rag", "tiny", 3, model=make_model("M,T"), tokenizer=make_tokenizer(), meta={})
    write_jsonl(tmp_path / "my_documents.jsonl", [
        {"id": f"d{n}", "title": town, "content": TEXT.format(town, 1900 + n, 12 + n)} for n, town in enumerate(TOWNS)])
    return tmp_path


def run(command, *more):
    """Run what was printed: "python -m MODULE FLAGS"."""
    python, flag, module, *argv = shlex.split(command)
    assert (python, flag) == ("python", "-m"), command
    module = f"{module}.__main__" if module == "nanochat.retrieval" else module
    return run_main(importlib.import_module(module).main, [*argv, *SMALLER.get(module, []), *more])


def chat(monkeypatch, capsys, *flags, lines=()):
    """What the chat printed to (standard output, standard error), after whatever was printed before."""
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    run_main(chat_cli.main, ["--max_tokens", "4", *map(str, flags)])
    captured = capsys.readouterr()
    return captured.out, captured.err


def advice(text, start):
    """The commands behind some words of a line."""
    (line,) = [line for line in text.splitlines() if start in line]
    return line.partition(start)[2].split(" && ")


def card(knowledge_base, **weights):
    return {"knowledge_base": {"fingerprint": knowledge_base.fingerprint, "was_asked": True}, "checkpoint": weights}


def test_from_no_knowledge_base_to_an_answer(folder, monkeypatch, capsys):
    _, error = chat(monkeypatch, capsys)
    (command,) = advice(error, "hint: build it: ")
    assert run(command) == 0 and (folder / "data" / "my_kb" / "CURRENT").exists()
    (following,) = advice(capsys.readouterr().out, "Next: ")
    assert "scripts.rag_finetune --knowledge_base data/my_kb" in following
    output, error = chat(monkeypatch, capsys, "--knowledge_base", "data/my_kb", "--question", "Who is mayor of Alda?")
    assert error == "" and "(d0)" in output
    # in the middle of a conversation, too
    _, error = chat(monkeypatch, capsys, "--knowledge_base", "data/my_kb", lines=["/kb data/other_kb"])
    (command,) = advice(error, "hint: build it: ")
    assert run(command) == 0
    output, error = chat(monkeypatch, capsys, "--knowledge_base", "data/my_kb", lines=["/kb data/other_kb"])
    assert error == "" and "8 documents, simple, data/other_kb" in output


def test_a_card_that_is_stale_is_made_again_with_what_is_printed(folder, monkeypatch, capsys):
    other = KnowledgeBase.build([Document(id="x", title="X", content="X.")], folder / "other", "simple")
    KnowledgeBase.build([Document.from_dict(json.loads(line)) for line in open("my_documents.jsonl")],
                        folder / "my kb", "simple")
    place = find_checkpoint("rag", "tiny")
    write_card(place, card(other))
    asked = ("--knowledge_base", "my kb", "--question", "Who is mayor of Alda?")
    _, error = chat(monkeypatch, capsys, *asked)
    assert error.startswith("Note: the card of this checkpoint is stale, the knowledge base is not the one")
    commands = advice(error, "measure again: ")
    assert len(commands) == 2
    for command in commands:
        assert run(command) == 0, command
    made = read_card(place)
    assert made["knowledge_base"]["was_asked"] and made["knowledge_base"]["path"] == str(folder / "my kb")
    assert chat(monkeypatch, capsys, *asked)[1] == ""
    # other weights make it stale again, and its threshold is left out
    write_card(place, made | {"checkpoint": {"weights": "other"}, "answer_threshold": 1.0})
    output, error = chat(monkeypatch, capsys, *asked, "--json")
    assert "stale, the weights were changed" in error and json.loads(output)["answer_threshold"] is None
    for command in advice(error, "measure again: "):
        assert run(command) == 0, command
    assert chat(monkeypatch, capsys, *asked)[1] == ""


def test_of_a_knowledge_base_too_small_for_a_test_the_questions_of_training_are_asked(folder, monkeypatch, capsys):
    other = KnowledgeBase.build([Document(id="x", title="X", content="X.")], folder / "other", "simple")
    KnowledgeBase.build([Document(id="a", title="Returns", content="The return period is 30 days.")], folder / "one",
                        "simple")
    write_card(find_checkpoint("rag", "tiny"), card(other))
    asked = ("--knowledge_base", "one", "--question", "What is the return period?")
    first, second = advice(chat(monkeypatch, capsys, *asked)[1], "measure again: ")
    assert run(first) == 0 and run(second) == 2
    error = capsys.readouterr().err
    assert "queries_test.jsonl: too few documents had questions to keep some for a test" in error
    (flags,) = re.findall(r"(--questions \S+)", advice(error, "hint: ")[0])
    assert run(second, *flags.split()) == 0
    assert chat(monkeypatch, capsys, *asked)[1] == ""


def test_a_missing_checkpoint_is_advised_by_a_command_that_parses(folder, monkeypatch, capsys):
    run("python -m nanochat.retrieval --documents my_documents.jsonl --output data/my_kb")
    for flags in (("--tag", "large"), ("--source", "refrag"), ("--source", "mid"), ("--source", "base")):
        _, error = chat(monkeypatch, capsys, "--knowledge_base", "data/my_kb", *flags)
        (command,) = advice(error, "make it: " if "large" in flags else "make one: ")
        with pytest.raises(SystemExit) as ended:
            run(command, "--help")
        assert ended.value.code == 0 and "usage: " in capsys.readouterr().out, command
