"""`nanochat export`: a checkpoint becomes a folder, and what stands in the way is said in two lines."""

import json

import pytest
import torch
from interop_stubs import random_ids, randomise, tokenizer

from nanochat import interop
from nanochat.checkpoint_manager import load_model, save_checkpoint
from nanochat.common import run_main
from nanochat.model import LanguageModel, ModelConfig
from scripts import export


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A saved hybrid in a base folder of its own."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))

    def save(**overrides):
        shape = dict(block_pattern="M,T", vocab_size=336, n_embd=24, n_head=2, n_kv_head=2, mlp_hidden=16, d_state=6)
        model = LanguageModel(ModelConfig(**(shape | {"headdim": 12} | overrides))).eval()
        randomise(model)
        save_checkpoint("rag", "tiny", 3, model=model, tokenizer=tokenizer(), meta={})
        return model
    return save


@torch.no_grad()
def test_an_exported_checkpoint_loads_again_and_computes_the_same(checkpoint, tmp_path, capsys):
    model, folder = checkpoint(), tmp_path / "out"
    assert run_main(export.main, ["--to", "hf", str(folder), "--tag", "tiny", "--dtype", "float32"]) == 0
    printed = capsys.readouterr().out
    assert f"rag/tiny, step 3 -> {folder}" in printed and f"{model.num_parameters:,} parameters" in printed
    again = interop.load(str(folder))[0]
    assert torch.equal(again(random_ids(2, 9)), model(random_ids(2, 9)))
    assert {path.name for path in folder.iterdir()} >= {"config.json", "generation_config.json", "model.safetensors",
                                                        "tokenizer.json", "tokenizer_config.json", "README.md",
                                                        "chat_template.jinja"}


@torch.no_grad()
def test_an_export_can_be_a_source_and_be_exported_again(checkpoint, tmp_path):
    checkpoint()
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_main(export.main, ["--to", "hf", str(one), "--dtype", "bfloat16"]) == 0
    assert run_main(export.main, ["--to", "hf", str(two), "--source", f"hf:{one}", "--dtype", "bfloat16"]) == 0
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert json.loads((two / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_model(f"hf:{two}")[2]["tag"] == "two"
    assert str(tmp_path) not in (two / "README.md").read_text(), "a path of this machine in a published text"


@pytest.mark.parametrize(("argv", "words"), [
    ([], "--to is '', expected hf and a folder"),
    (["--to", "gguf", "out"], "--to is 'gguf out'"),
    (["--to", "hf"], "--to is 'hf'"),
    (["--to", "hf", "a", "b"], "--to is 'hf a b'"),
    (["--to", "hf", "out", "--dtype", "int4"], "--dtype"),
])
def test_a_wrong_flag_is_named(argv, words, capsys):
    assert run_main(export.main, argv) == 2
    assert words in capsys.readouterr().err


def test_a_folder_of_somebody_else_stays_as_it_is(checkpoint, tmp_path, capsys):
    checkpoint()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert run_main(export.main, ["--to", "hf", str(tmp_path / "out")]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("settings", "flag"), [
    ({"attention_conv": 3}, "--attention_conv 0"), ({"slot_scale": 0.5, "slot_ids": (1, 2, 3, 4)}, "--slot_scale 0"),
])
def test_what_nobody_publishes_is_refused_with_the_flag_that_helps(checkpoint, tmp_path, capsys, settings, flag):
    checkpoint(**settings)
    assert run_main(export.main, ["--to", "hf", str(tmp_path / "out")]) == 2
    assert flag in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
