"""What clumsy users type: each mistake is named at once, with what to type next, and before the long work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.checkpoint_manager import find_checkpoint, save_checkpoint
from nanochat.common import check_output, run_main, write_jsonl
from nanochat.errors import ConfigError, UserError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer, check_vocab_size
from scripts import base_eval, base_train, export, mid_train, tok_train
from scripts.text_input import read_documents

SMALL = ["--n_embd", "32", "--n_head", "2", "--n_kv_head", "1", "--mlp_hidden", "32", "--d_state", "8", "--headdim",
         "16", "--sequence_len", "64", "--device", "cpu", "--device_batch_size", "2", "--eval_every", "0",
         "--practice_share", "0", "--block_pattern", "M,T", "--validation_share", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, a tokenizer, an empty file of each kind, a file where a folder could be, a folder where a file could."""
    folder = tmp_path_factory.mktemp("clumsy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        write_jsonl(folder / "text.jsonl", [{"text": f"number {i} of the clumsy ones " * 30} for i in range(30)])
        Tokenizer.train(read_documents(str(folder / "text.jsonl")), 400).save(folder / "base" / "tokenizer")
        (folder / "folder").mkdir()
        (folder / "folder" / "part.jsonl").write_text('{"text": "x"}\n', encoding="utf-8")
        for name in ("empty.txt", "empty.jsonl", "file"):
            (folder / name).write_text("", encoding="utf-8")
        (folder / "latin.txt").write_bytes("caf\u00e9\n".encode("latin1"))
        yield folder


def run(capsys, main, *argv):
    capsys.readouterr()
    code = run_main(main, [*map(str, argv)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refused(capsys, main, *argv):
    """The two lines of an error; nothing else was printed before it."""
    capsys.readouterr()
    assert run_main(main, [*map(str, argv)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("Error: ") and printed.err.count("\n") == 2, printed.err
    return printed


INPUTS = [
    ("empty.txt", "No text in {folder}/empty.txt: the file is empty", "every line is one document"),
    ("empty.jsonl", "No text in {folder}/empty.jsonl: the file is empty", "each line needs content or text"),
    ("folder", "{folder}/folder is a folder, not a file", "name the files in it: --input {folder}/folder/part.jsonl"),
    ("none.txt", "File not found: {folder}/none.txt", "--input"),
    ("latin.txt", "{folder}/latin.txt:1: not UTF-8", "iconv -f latin1 -t utf-8"),
]


@pytest.mark.parametrize(("name", "problem", "hint"), INPUTS)
@pytest.mark.parametrize("main", [tok_train.main, base_train.main, base_eval.main], ids=["tok", "base", "eval"])
def test_a_wrong_input_is_named_with_what_to_do_about_this_one(folder, capsys, main, name, problem, hint):
    error = refused(capsys, main, "--input", folder / name).err
    assert error.startswith(f"Error: {problem}".format(folder=folder)), error
    assert hint.format(folder=folder) in error.split("hint: ")[1], error


@pytest.mark.parametrize(("flags", "problem"), [
    (["--vocab_size", "100"], "vocab_size 100 is too small"),
    (["--vocab_size", "99999999999"], "vocab_size 99999999999 is too large"),
    (["--output", "{folder}/file"], "Cannot write {folder}/file: {folder}/file is a file, not a folder"),
    (["--output", "{folder}/file/tok"], "Cannot write {folder}/file/tok: {folder}/file is a file, not a folder"),
    (["--output", "{folder}/tok/tokenizer.json"], "--output {folder}/tok/tokenizer.json names a file"),
    (["--input", "{folder}/text.jsonl,{folder}/none.jsonl"], "File not found: {folder}/none.jsonl"),
    (["--input", " ,"], "--input is missing"),
])
def test_tok_train_looks_at_its_settings_before_it_reads(folder, capsys, monkeypatch, flags, problem):
    def read(path):
        raise AssertionError(f"{path} was read first")

    monkeypatch.setattr(tok_train, "read_records", read)
    error = refused(capsys, tok_train.main, "--input", folder / "text.jsonl", *(f.format(folder=folder) for f in flags))
    assert error.err.startswith(f"Error: {problem}".format(folder=folder)) and not error.out, error


def test_a_tokenizer_file_is_hinted_to_be_its_folder(folder, capsys):
    for name, instead in (("tok/tokenizer.json", "tok"), ("tok.json", "tok")):
        error = refused(capsys, tok_train.main, "--input", folder / "text.jsonl", "--output", folder / name).err
        assert error.endswith(f"hint: --output {folder / instead}\n"), error
    check_vocab_size(320)


def test_a_place_that_cannot_be_written_is_named_with_another(folder):
    for path, is_folder, hint in (("file", True, "file_new"), ("file/a/b", True, "file_new/a/b"),
                                  ("file/a.json", False, "file_new/a.json"), ("folder", False, "folder/NAME.json")):
        with pytest.raises(UserError, match="Cannot write") as caught:
            check_output(folder / path, flag="--output", is_folder=is_folder)
        assert caught.value.hint.endswith(f"--output {folder / hint}")
    check_output(folder / "new" / "deep", flag="--output", is_folder=True)
    check_output("relative.json", flag="--output")
    assert not (folder / "new").exists()


def test_export_and_base_eval_look_at_their_target_first(folder, capsys):
    error = refused(capsys, export.main, "--to", "hf", folder / "file" / "out", "--source", "base").err
    assert f"{folder / 'file'} is a file, not a folder" in error and "--to hf" in error
    error = refused(capsys, base_eval.main, "--output", folder / "folder", "--tag", "nowhere").err
    assert f"Cannot write {folder / 'folder'}: it is a folder" in error


@pytest.mark.parametrize("source", ["hf:", "hf: "])
def test_a_published_source_without_a_name_is_no_folder(folder, capsys, monkeypatch, source):
    monkeypatch.chdir(folder)
    error = refused(capsys, base_eval.main, "--source", source).err
    assert error.startswith("Error: No model after 'hf:'") and "OWNER/NAME" in error
    assert "is a file, not a folder" in refused(capsys, base_eval.main, "--source", "hf:file").err


def test_letters_are_as_many_as_the_depth(folder, capsys):
    argv = ["--input", folder / "text.jsonl", "--device", "cpu", "--depth", 4]
    error = refused(capsys, base_train.main, *argv, "--block_pattern", "T,M").err
    assert error.startswith("Error: --depth is 4, but --block_pattern T,M has 2 layers") and "--depth 2" in error


def test_a_model_that_no_machine_holds_is_refused_before_it_is_built(folder, capsys):
    error = refused(capsys, base_train.main, "--input", folder / "text.jsonl", "--device", "cpu", "--depth", 2000).err
    assert "parameters takes" in error and "--depth 4" in error


@pytest.mark.parametrize(("num_steps", "steps"), [(10, 5), (3, 1), (80, 30)])
def test_the_rate_rises_for_at_most_half_of_the_run(num_steps, steps, capsys):
    from scripts.training_settings import TrainingConfig, warmup_steps

    assert warmup_steps(TrainingConfig(), num_steps) == steps
    assert (f"The rate rises over {steps} steps, not 30" in capsys.readouterr().out) == (steps < 30)


def test_a_short_run_reaches_its_rate(folder, capsys):
    printed = run(capsys, base_train.main, "--input", folder / "text.jsonl", *SMALL, "--num_steps", 4, "--log_every", 1,
                  "--tag", "short", "--decay_frac", 0)
    assert "The rate rises over 2 steps, not 30 (--warmup_steps)" in printed
    assert [line.split("lr x")[1].split()[0] for line in printed.splitlines() if "lr x" in line][-1] == "1.000"


def test_with_a_depth_the_batch_does_not_follow_the_number_of_steps(folder, capsys):
    """docs/training.md says so."""
    argv = ["--input", folder / "text.jsonl", "--depth", 1, "--device", "cpu", "--sequence_len", 64, "--eval_every", 0]
    for tag, flags in (("one", []), ("two", ["--num_steps", 2]), ("own", ["--num_steps", 2, "--num_tokens", 300_000])):
        run(capsys, base_train.main, *argv, *(flags or ["--num_steps", 1]), "--tag", tag)
    one, two, own = (json.loads((find_checkpoint("base", tag) / "meta.json").read_text(encoding="utf-8"))["config"]
                     for tag in ("one", "two", "own"))
    rows = [config["device_batch_size"] * config["grad_accum_steps"] for config in (one, two, own)]
    assert rows[0] == rows[1] > rows[2], rows


def test_a_resumed_run_names_what_was_typed_and_how_to_go_on_as_before(folder, capsys):
    argv = ["--input", folder / "text.jsonl", "--tag", "again", "--resume"]
    run(capsys, base_train.main, *argv[:-1], *SMALL, "--num_steps", 1, "--weight_decay", 0.1)
    printed = run(capsys, base_train.main, *argv, *SMALL, "--num_steps", 2, "--scalar_lr", 0.002)
    [changes] = [line for line in printed.splitlines() if line.startswith("Settings that are new")]
    assert sorted(changes.partition(": ")[2].split(", ")) == [
        "num_steps 1 -> 2 (flag)", "scalar_lr 0.003 -> 0.002 (flag)", "weight_decay 0.1 -> 0.0 (not given now)"]
    assert "To go on as before: --weight_decay 0.1\n" in printed
    assert "nothing to do. To train it further: --num_steps 4" in run(
        capsys, base_train.main, *argv, *SMALL, "--num_steps", 2)


@pytest.mark.parametrize(("flags", "problem", "hint"), [
    (["--depth", "3"], "--depth is 3, but base/dial was begun with 1", "--depth 1"),
    (["--n_embd", "96"], "--n_embd is 96, but base/dial was begun with 64", "--n_embd 64"),
    (["--block_pattern", "T"], "--block_pattern is T, but base/dial was begun with M", "--block_pattern M"),
])
def test_only_a_setting_that_was_typed_can_stop_a_resumed_run(folder, capsys, flags, problem, hint):
    argv = ["--input", folder / "text.jsonl", "--tag", "dial", "--device", "cpu", "--num_steps", 1, "--eval_every", 0]
    try:
        find_checkpoint("base", "dial")
    except UserError:
        run(capsys, base_train.main, *argv, "--depth", 1, "--sequence_len", 64)
    error = refused(capsys, base_train.main, *argv, "--resume", *flags).err
    assert error.startswith(f"Error: {problem}") and f"to go on with it: {hint};" in error, error
    # the same model in other words
    for same in (["--depth", 1], ["--depth", 1, "--block_pattern", "spread"], ["--block_pattern", " M "], []):
        assert "already at step 1 of 1" in run(capsys, base_train.main, *argv, "--resume", *same)


def test_a_rank_above_that_of_the_smallest_matrix_is_refused(folder, capsys):
    tokenizer = Tokenizer.load(folder / "base" / "tokenizer")
    shape = ModelConfig(block_pattern="M,T", vocab_size=tokenizer.vocab_size, sequence_len=64, n_embd=32, n_head=2,
                        n_kv_head=1, mlp_hidden=48, d_state=8, headdim=16)
    save_checkpoint("base", "rank", 1, model=LanguageModel(shape), tokenizer=tokenizer, meta={})
    error = refused(capsys, mid_train.main, "--tag", "rank", "--device", "cpu", "--num_steps", 1, "--lora_rank", 17).err
    assert error.startswith("Error: --lora_rank is 17, but the smallest matrix of this model has rank 16"), error
    assert "at most --lora_rank 16" in error


def test_a_number_that_is_none_is_called_so():
    from nanochat.config_file import check_value

    with pytest.raises(ConfigError, match="number is not finite") as caught:
        check_value(float("nan"), "--temperature")
    assert caught.value.hint == "give an ordinary number"


def test_the_package_is_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "nanochat", "base", "trian"], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1])
    assert done.returncode == 2 and "did you mean nanochat base train?" in done.stderr, done.stderr
