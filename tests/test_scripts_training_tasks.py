"""The conversations of --base_tasks: what cannot be read or gives nothing is said with the next command to type."""

import json

import pytest

from nanochat.common import write_jsonl
from nanochat.config import load_config
from nanochat.errors import UserError
from scripts.mid_train import MidTrainConfig
from scripts.rag_finetune import RagFinetuneConfig
from scripts.training_tasks import load_chats

NOTHING = {"data": [{"title": "T", "paragraphs": [{"context": "Ume.", "qas": []}]}]}


def config_of(config, *flags):
    return load_config(config, [*map(str, flags)], prog="test")


@pytest.mark.parametrize("config", [RagFinetuneConfig, MidTrainConfig])
@pytest.mark.parametrize(("spec", "words"), [
    ("Jsonl:{folder}/none.jsonl", ["File not found: ", "check the path; "]),
    ("Jsonl", ["The task Jsonl needs a file", "Jsonl:data/chats.jsonl; "]),
    ("Qa:{folder}", ["hint: "]), ("Jsonl:{folder}/empty.jsonl", ["is empty", '{{"messages"']),
    ("SmolTalk:{folder}/void", ["No conversations in", "hf download"]),
    ("Squad:{folder}/broken.json", ["not valid JSON"]),
])  # fmt: skip
def test_a_task_that_cannot_be_read_says_how_to_go_on(tmp_path, config, spec, words):
    (tmp_path / "void").mkdir()
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError) as caught:
        load_chats(config_of(config, "--base_tasks", spec.format(folder=tmp_path)), is_explicit=True)
    text = str(caught.value)
    assert all(word.format() in text for word in words), text
    assert caught.value.hint.endswith('; or train without conversations: --base_tasks ""') and text.count("\n") == 1


def test_a_task_that_gives_nothing_names_the_flags_of_its_script(tmp_path):
    (tmp_path / "none.json").write_text(json.dumps(NOTHING))
    for config, flags, hint in (
        (RagFinetuneConfig, ["--top_k", "30", "--task_samples", "5"], "--task_samples 50 --top_k 32 or train without"),
        (RagFinetuneConfig, ["--task_samples", "0"], "--top_k 8 or train without"),
        (MidTrainConfig, ["--task_samples", "5"], "--task_samples 50 or train without"),
    ):
        with pytest.raises(UserError, match="gives no conversation") as caught:
            load_chats(config_of(config, "--base_tasks", f"Squad:{tmp_path}/none.json", *flags), is_explicit=True)
        assert caught.value.hint.startswith(hint), caught.value.hint


def test_the_default_that_is_left_out_says_how_to_have_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "smoltalk").mkdir(parents=True)
    assert load_chats(config_of(RagFinetuneConfig), is_explicit=False) == []
    printed = capsys.readouterr().out
    assert printed.startswith("Going on without SmolTalk conversations") and printed.count("\n") == 1
    assert "to mix them in: " in printed and "--base_tasks" in printed.partition("to mix them in: ")[2]
    write_jsonl(tmp_path / "chats.jsonl", [{"messages": [{"role": "user", "content": "Hi"},
                                                         {"role": "assistant", "content": "Ho"}]}])
    assert len(load_chats(config_of(RagFinetuneConfig, "--base_tasks", "Jsonl:chats.jsonl"), is_explicit=True))
