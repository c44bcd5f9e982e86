"""Answers held to the words of documents where a model was taught only such."""

import json
import re

import pytest
from engine_stubs import make_documents, make_model, make_tokenizer
from rag_finetune_stubs import make_place, tune

from nanochat.checkpoint_manager import save_checkpoint
from nanochat.common import run_main, write_jsonl
from nanochat.engine import Engine
from nanochat.rag.quoting import is_extractive, quoted_share
from nanochat.retrieval import Document, KnowledgeBase
from scripts import chat_cli, rag_eval

CONTENTS = {"a": "The fee is 12 crowns, paid in May.", "b": "The fee is 15 crowns."}


def asked(answers, supporting_ids):
    return {"question": "?", "answers": answers, "supporting_ids": supporting_ids}


def episode(answer, citations):
    documents = [{"id": id, "title": "", "content": content} for id, content in CONTENTS.items()]
    return {"messages": [
        {"role": "retrieval", "documents": documents},
        {"role": "user", "content": "?"}, {"role": "assistant", "content": answer, "citations": citations}]}


@pytest.mark.parametrize(
    ("questions", "episodes", "share"),
    [
        ([], [], None),
        ([asked([], ["a"]), asked(["12 crowns"], [])], [episode("Not known.", [])], None),
        ([asked(["12 crowns", "twelve"], ["a"]), asked(["15 crowns"], ["a", "b"])], [], 1.0),
        ([asked(["12 crowns"], ["a"]), asked(["5 crowns"], ["b"]), asked(["yes"], ["a"])], [], 1 / 3),
        ([asked(["12 Crowns"], ["a"]), asked(["12 crowns"], ["gone"])], [], 0.0),
        ([], [episode("12 crowns or 15 crowns", [0, 1]), episode("15 crowns", [1])], 1.0),
        ([asked(["12 crowns"], ["a"])], [episode("15 crowns", [0]), episode("12 crowns or 15 crowns", [0])], 1 / 3),
    ],
)
def test_an_answer_is_quoted_when_it_stands_in_what_it_rests_on(questions, episodes, share):
    found = quoted_share(questions, episodes, [Document(id=id, content=text) for id, text in CONTENTS.items()])
    assert found == share if share is None else found == pytest.approx(share)


@pytest.mark.parametrize(("given", "share", "chosen"), [
    (None, 1.0, True), (None, 0.95, True), (None, 0.94, False), (None, None, False), (True, 0.0, True),
    (False, 1.0, False)])
def test_the_flag_wins_over_what_was_taught(given, share, chosen):
    assert is_extractive(given, {"data": {"quoted_share": share}}) is chosen
    assert is_extractive(None, {}) is False, "a checkpoint that does not say it"


def test_a_checkpoint_says_how_many_of_its_answers_were_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    make_place(tmp_path)
    assert tune(tmp_path, "quoting", "--num_steps", 1)[1]["data"]["quoted_share"] == 1.0
    records = [json.loads(line) for line in (tmp_path / "queries_train.jsonl").read_text().splitlines()]
    write_jsonl(tmp_path / "own_words.jsonl", [
        one | {"answers": [f"surely {answer}" for answer in one["answers"]]} for one in records])
    flags = ["--questions", tmp_path / "own_words.jsonl", "--num_steps", 1]
    assert tune(tmp_path, "own_words", *flags)[1]["data"]["quoted_share"] == 0.0


def test_chat_and_evaluation_do_as_the_checkpoint_was_taught(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    KnowledgeBase.build([Document(**record) for record in make_documents(6)], tmp_path / "kb", "simple")
    write_jsonl(tmp_path / "questions.jsonl", [
        {"question": "Who founded Brelith Institute?", "answers": ["Mira"], "supporting_ids": ["d1"]}])
    made = []
    real = Engine.__init__
    monkeypatch.setattr(Engine, "__init__", lambda self, *args, **options: (
        real(self, *args, **options), made.append(self.extractive))[0])
    for share, flags, expected in ((1.0, [], True), (1.0, ["--extractive", "false"], False), (0.5, [], False),
                                   (0.5, ["--extractive", "true"], True)):
        save_checkpoint("rag", "tiny", 3, model=make_model("M,T"), tokenizer=make_tokenizer(),
                        meta={"data": {"quoted_share": share}})
        made.clear()
        where = ["--knowledge_base", str(tmp_path / "kb"), "--max_tokens", "8", *flags]
        assert run_main(chat_cli.main, [*where, "--question", "Who founded Brelith Institute?", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        contents = [document["content"] for document in record["documents"]]
        if expected and record["answer"]:
            assert any(re.search(rf"(?<!\w){re.escape(record['answer'])}(?!\w)", content) for content in contents)
        report = tmp_path / "report"
        assert run_main(rag_eval.main, [*where, "--questions", str(tmp_path / "questions.jsonl"), "--output",
                                        str(report), "--top_k", "2"]) == 0
        assert made == [expected, expected]
        assert json.loads((report / "results.json").read_text())["config"]["extractive"] is expected
        capsys.readouterr()
