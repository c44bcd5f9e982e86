"""Where a training begins and goes on: the batch of another device, other text, other adapters, merged ones."""

import json
import shutil

import pytest
import torch

from nanochat.checkpoint_manager import find_checkpoint, load_model, save_checkpoint
from nanochat.common import run_main, write_jsonl
from nanochat.config import load_config
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer
from nanochat.training.lora import LoraSettings, add_adapters, is_adapted
from scripts import base_eval, base_train, mid_train
from scripts.depth_dial import follow_batch
from scripts.text_fingerprint import fingerprint, say_other_text
from scripts.training_start import find_start

BASE = ["--depth", "1", "--num_tokens", str(64 * 4000), "--sequence_len", "64", "--device", "cpu", "--practice_share",
        "0", "--warmup_steps", "0", "--eval_every", "0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Text, a tokenizer and the base folder."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    write_jsonl(tmp_path / "text.jsonl", [{"content": f"number {i} of the text " * 40} for i in range(30)])
    Tokenizer.train([f"number {i} of the text" for i in range(30)], 400).save(tmp_path / "base" / "tokenizer")
    return tmp_path


def run(capsys, main, *argv) -> str:
    capsys.readouterr()
    code = run_main(main, [*map(str, argv)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refused(capsys, main, *argv) -> str:
    capsys.readouterr()
    assert run_main(main, [*map(str, argv)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and "\n  hint: " in error and error.count("\n") == 2, error
    return error


def settings(tag: str) -> dict:
    return json.loads((find_checkpoint("base", tag) / "meta.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("flags", [BASE, ["--device", "cpu", "--practice_share", "0", "--eval_every", "0"]], ids=len)
def test_a_run_with_a_depth_goes_on_with_its_own_batch_and_horizon(folder, capsys, monkeypatch, flags):
    argv = ["--input", folder / "text.jsonl", "--tag", "dial"]
    run(capsys, base_train.main, *argv, *BASE, "--num_steps", 1)
    first = settings("dial")["config"]
    assert (first["device_batch_size"], first["grad_accum_steps"]) == (4, 1)
    # a device that takes fewer rows at once, and would be given smaller micro-batches
    monkeypatch.setattr("nanochat.training.shape.MAX_ROWS_CPU", 2)
    run(capsys, base_train.main, *argv, *flags, "--num_steps", 2, "--resume")
    then = settings("dial")["config"]
    names = ("depth", "device_batch_size", "grad_accum_steps", "matrix_lr", "embedding_lr", "scalar_lr", "n_embd")
    assert {name: then[name] for name in names} == {name: first[name] for name in names} and then["num_steps"] == 2
    # the steps too, where nobody gave them
    printed = run(capsys, base_train.main, *argv, *(BASE if flags is BASE else flags), "--resume")
    assert "base/dial is already at step 2 of 2" in printed


@pytest.mark.parametrize(("flags", "world", "expected"), [
    ([], 2, (6, 4, 50)),  # the same two processes
    ([], 1, (6, 8, 50)), ([], 4, (6, 2, 50)), ([], 48, (1, 1, 50)), ([], 16, (3, 1, 50)),
    (["--device_batch_size", "3"], 2, (3, 8, 50)), (["--grad_accum_steps", "2"], 2, (12, 2, 50)),
    (["--device_batch_size", "3", "--grad_accum_steps", "5"], 2, (3, 5, 50)),
    (["--num_steps", "70"], 2, (6, 4, 70)),
    (["--num_tokens", "9000"], 2, (6, 4, 1000)),  # another horizon: steps are counted anew
    (["--depth", "3"], 2, (8, 1, 1000)),  # of another model: refused later
])
def test_the_rows_of_a_step_stay_the_same_for_any_number_of_processes(monkeypatch, flags, world, expected):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    before = {"depth": 2, "device_batch_size": 6, "grad_accum_steps": 4, "num_steps": 50, "num_tokens": 0,
              "tokens_per_parameter": 20.0}
    config = load_config(base_train.BaseTrainConfig, flags, prog="scripts.base_train")
    config = follow_batch(config, before, 2)
    assert (config.device_batch_size, config.grad_accum_steps, config.num_steps) == expected
    unchanged = load_config(base_train.BaseTrainConfig, flags, prog="scripts.base_train")
    assert follow_batch(unchanged, {}, 2) is unchanged and follow_batch(unchanged, {"depth": 0}, 2) is unchanged


def test_a_run_that_goes_on_over_other_text_says_so(folder, capsys):
    argv = ["--tag", "text", *BASE]
    run(capsys, base_train.main, *argv, "--input", folder / "text.jsonl", "--num_steps", 1)
    assert settings("text")["processes"] == 1 and settings("text")["text"][0]["bytes"] > 1000
    shutil.copy(folder / "text.jsonl", folder / "moved.jsonl")
    moved = run(capsys, base_train.main, *argv, "--input", folder / "moved.jsonl", "--num_steps", 2, "--resume")
    assert "Warning: the text" not in moved
    lines = (folder / "text.jsonl").read_text(encoding="utf-8")
    (folder / "text.jsonl").write_text(lines.replace("number 7", "member 7"), encoding="utf-8")
    changed = run(capsys, base_train.main, *argv, "--input", folder / "text.jsonl", "--num_steps", 3, "--resume")
    assert "Warning: the text is not the one this run was begun with" in changed and "--tag NAME" in changed


def test_a_fingerprint_sees_every_size_and_pieces_of_large_files(tmp_path, capsys):
    file = tmp_path / "a.txt"
    seen = set()
    long = "a" * 3_000_000
    for text in ("", "a", "b", long, long[1:] + "b", long[:1_400_000] + "b" * 70_000 + long[1_470_000:]):
        file.write_text(text, encoding="utf-8")
        seen.add(str(fingerprint(f"{file}:2")))
    assert len(seen) == 6
    say_other_text(None, fingerprint(str(file)))
    say_other_text(fingerprint(str(file)), fingerprint("", f"{file}:3"))
    assert not capsys.readouterr().out
    say_other_text([], fingerprint(str(file)))
    assert f"none -> {file} (3,000,000 bytes)" in capsys.readouterr().out


MID = ["--device", "cpu", "--stages", "recall", "--max_seq_len", "160", "--device_batch_size", "2", "--warmup_steps",
       "0", "--eval_every", "0", "--stop_at_gate", "false"]


@pytest.fixture
def base(folder):
    """A base checkpoint to start from."""
    tokenizer = Tokenizer.load(folder / "base" / "tokenizer")
    model = LanguageModel(ModelConfig(block_pattern="M,T", vocab_size=tokenizer.vocab_size, sequence_len=160, n_embd=16,
                                      n_head=2, n_kv_head=1, mlp_hidden=16, d_state=4, headdim=16))
    save_checkpoint("base", "lora", 1, model=model, tokenizer=tokenizer, meta={})
    return model, tokenizer


def test_adapters_other_than_those_a_run_was_begun_with_are_refused(base, capsys):
    argv = [*MID, "--tag", "lora", "--num_steps", 2, "--lora_rank", 2, "--lora_alpha", 8]
    run(capsys, mid_train.main, *argv, "--num_steps", 1)
    for flag, value, then in (("lora_alpha", "16", "8.0"), ("lora_train_embeddings", "true", "False"),
                              ("lora_rank", "4", "2")):
        error = refused(capsys, mid_train.main, *argv, "--resume", f"--{flag}", value)
        assert f"but mid/lora was begun with {then}" in error and f"--{flag} is" in error
    run(capsys, mid_train.main, *argv, "--resume")
    assert any("lora_b" in name for name, _ in load_model("mid", "cpu", "train", "lora")[0].named_parameters())


@pytest.mark.parametrize(("whole", "told"), [("false", True), ("true", False)])
def test_the_rate_of_the_last_norm_has_an_effect_when_it_learns(base, capsys, whole, told):
    argv = [*MID, "--source_tag", "lora", "--num_steps", 1, "--lora_rank", 2, "--lora_train_embeddings", whole]
    printed = run(capsys, mid_train.main, *argv, "--tag", "one", "--scalar_lr", 0.5, "--matrix_lr", 0.5)
    assert ("--scalar_lr has no effect with --lora_rank" in printed) == told
    assert "--matrix_lr has no effect with --lora_rank" in printed
    run(capsys, mid_train.main, *argv, "--tag", "two", "--scalar_lr", 0.1)
    norms = [load_model("mid", "cpu", "eval", tag)[0].norm.weight for tag in ("one", "two")]
    assert torch.equal(*norms) == told


@pytest.mark.parametrize("rank", [0, 3])
def test_a_run_that_starts_from_adapters_starts_from_the_merged_model(base, rank):
    model, tokenizer = base
    add_adapters(model, LoraSettings(rank=2, alpha=4.0, row_ids=(0, 1)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    save_checkpoint("base", "lora", 2, model=model, tokenizer=tokenizer, meta={})
    flags = ["--tag", "lora", "--lora_rank", str(rank)]
    config = load_config(mid_train.MidTrainConfig, flags, prog="scripts.mid_train")
    start = find_start(config, "mid", torch.device("cpu"))
    ids = torch.arange(40).reshape(2, 20)
    assert (start.model(ids) - model(ids)).abs().max() < 1e-5
    assert is_adapted(start.model) == (rank > 0)
    mixer = start.model.layers[0].mixer
    assert mixer.out_proj.weight.requires_grad == (rank == 0) and start.model.training
    if rank:
        assert mixer.in_proj.rank == 3 and not mixer.in_proj.lora_b.any(), "the old adapters are still there"


@pytest.mark.parametrize(("flags", "problem"), [
    (["--context", "160"], "--context is 160, but 160 tokens are read at once, as many as the model was made for"),
    (["--context", "999"], "--context is 999"),
    (["--row_len", "8", "--context", "8"], "--context is 8, but 8 tokens are read at once: nothing new would be read"),
    (["--source", "hf:some/model", "--tag", "x"], "--tag is x, but hf:some/model is a published model"),
    (["--source", "hf:some/model", "--step", "3"], "--step is 3, but hf:some/model is a published model"),
])
def test_base_eval_refuses_what_it_could_only_ignore_or_fail_at(base, folder, capsys, flags, problem):
    argv = ["--device", "cpu", "--probes", "", "--input", folder / "text.jsonl", *flags]
    assert problem in refused(capsys, base_eval.main, *argv)
