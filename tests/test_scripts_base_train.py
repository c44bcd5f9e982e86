"""base_train: the depth dial from flag to checkpoint, weighted inputs, validation, tokens kept on disk."""

import json

import pytest

from nanochat.checkpoint_files import read_config
from nanochat.checkpoint_manager import find_checkpoint
from nanochat.common import run_main, write_jsonl
from nanochat.errors import ConfigError
from nanochat.tokenizer import Tokenizer
from scripts import base_train
from scripts.text_input import parse_inputs, read_documents

SMALL = ["--n_embd", "32", "--n_head", "2", "--n_kv_head", "2", "--mlp_hidden", "32", "--d_state", "8", "--headdim",
         "16", "--sequence_len", "64", "--device", "cpu", "--warmup_steps", "0", "--device_batch_size", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two text files, one of them large enough that its tokens are kept, and a tokenizer."""
    folder = tmp_path_factory.mktemp("base_train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        for name, count, words in (("small", 30, 30), ("large", 60, 3500)):
            write_jsonl(folder / f"{name}.jsonl", [
                {"title": f"Title {i}", "content": f"number {i} of {name} " * words} for i in range(count)])
        Tokenizer.train(read_documents(str(folder / "small.jsonl")), 400).save(folder / "base" / "tokenizer")
        yield folder


def run(capsys, *argv):
    capsys.readouterr()
    code = run_main(base_train.main, [*map(str, argv)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def meta(tag):
    return json.loads((find_checkpoint("base", tag) / "meta.json").read_text(encoding="utf-8"))


def test_a_line_is_one_document_with_its_title_on_top(folder):
    assert next(iter(read_documents(str(folder / "small.jsonl")))).startswith(" Title 0\n number 0 of small")


@pytest.mark.parametrize(("names", "inputs"), [
    ("a.jsonl", [("a.jsonl", 1.0)]), ("a.jsonl:2, b.txt:0.5,", [("a.jsonl", 2.0), ("b.txt", 0.5)]),
    ("C:odd,name", [("C:odd", 1.0), ("name", 1.0)]),
])
def test_inputs_may_carry_weights(names, inputs):
    assert parse_inputs(names) == inputs


@pytest.mark.parametrize("name", ["a:0", "a:-1", "a:inf", "a:nan"])
def test_a_weight_that_is_none_is_refused(name):
    with pytest.raises(ConfigError, match="must be above 0"):
        parse_inputs(name)


def test_the_dial_sets_what_was_not_given_and_the_checkpoint_keeps_it(folder, capsys):
    argv = ["--input", folder / "small.jsonl", "--depth", 1, "--tag", "dial", "--num_tokens", 4096, "--sequence_len",
            64, "--device", "cpu", "--practice_share", 0, "--matrix_lr", 0.002]
    printed = run(capsys, *argv)
    for line in ("n_embd = 64  (depth 1)", "matrix_lr = 0.002  (flag)", "scalar_lr = 0.00424  (depth 1)",
                 "block_pattern = 'M'  (spread, depth 1)", "(num_tokens)"):
        assert line in printed, f"{line!r} is not in\n{printed}"
    config = meta("dial")["config"]
    steps = config["num_steps"]
    assert steps * config["device_batch_size"] * config["grad_accum_steps"] * 64 == 4096
    assert "is already at step" in run(capsys, *argv, "--resume")
    assert run_main(base_train.main, [*map(str, argv), "--resume", "--depth", "2"]) == 2
    assert "but base/dial was begun with" in capsys.readouterr().err


def test_resuming_without_sizes_takes_those_of_the_checkpoint(folder, capsys):
    run(capsys, "--input", folder / "small.jsonl", *SMALL, "--tag", "sizes", "--num_steps", 1, "--block_pattern", "M,T")
    printed = run(capsys, "--input", folder / "small.jsonl", "--tag", "sizes", "--num_steps", 2, "--resume",
                  "--device", "cpu", "--device_batch_size", 2)
    assert "sequence_len = 64  (checkpoint)" in printed and "block_pattern = 'M,T'  (checkpoint)" in printed


def test_slots_of_documents_are_known_by_the_ids_of_the_tokenizer_and_stay_with_the_checkpoint(folder, capsys):
    argv = ["--input", folder / "small.jsonl", *SMALL, "--tag", "slots", "--block_pattern", "T,M"]
    run(capsys, *argv, "--slot_scale", 0.5, "--num_steps", 1)
    shape = read_config(find_checkpoint("base", "slots"))
    assert (shape.slot_scale, shape.slot_ids) == (0.5, Tokenizer.load(folder / "base" / "tokenizer").slot_ids)
    assert "slot_scale = 0.5  (checkpoint)" in run(capsys, *argv, "--num_steps", 2, "--resume")
    assert read_config(find_checkpoint("base", "slots")) == shape
    assert run_main(base_train.main, [*map(str, argv), "--num_steps", "3", "--resume", "--slot_scale", "0"]) == 2
    assert "--slot_scale is 0.0, but base/slots was begun with 0.5" in capsys.readouterr().err
    assert run_main(base_train.main, [*map(str, argv), "--slot_scale", "-1"]) == 2
    assert "slot_scale is -1.0, must be at least 0" in capsys.readouterr().err
    run(capsys, *argv[:-4], "--tag", "none", "--block_pattern", "M", "--num_steps", 1)
    assert read_config(find_checkpoint("base", "none")).slot_scale == 0


def test_tokens_of_a_large_file_are_kept_and_the_run_is_the_same_the_second_time(folder, capsys):
    argv = ["--input", f"{folder / 'large.jsonl'}:0.25,{folder / 'small.jsonl'}:2", *SMALL, "--num_steps", 2,
            "--validation_rows", 3, "--block_pattern", "M"]
    first, second = run(capsys, *argv, "--tag", "one"), run(capsys, *argv, "--tag", "two")
    assert "Tokenised" in first and "Tokenised" not in second
    assert len(list((folder / "base" / "tokens").iterdir())) == 1, "the small file needs no folder"
    values = [next(line for line in text.splitlines() if "val_bits_per_byte" in line) for text in (first, second)]
    assert values[0] == values[1], values
    assert "Validation: 3 rows of 64 tokens" in first
    # 59 and 29 documents are left for training: a quarter of the large file, the small one twice
    assert f"in {round(59 / 4) + 2 * 29} documents; for validation" in first, first


def test_validation_text_of_its_own_leaves_all_input_for_training(folder, capsys):
    small = folder / "small.jsonl"
    held = run(capsys, "--input", small, *SMALL, "--num_steps", 1, "--tag", "held", "--block_pattern", "M")
    own = run(capsys, "--input", small, "--validation_input", folder / "large.jsonl", *SMALL, "--num_steps", 1, "--tag",
              "own", "--block_pattern", "M", "--validation_rows", 4)
    assert "in 29 documents; for validation" in held and "tokens in 1 documents" in held
    assert "in 30 documents; for validation" in own and "tokens in 60 documents" in own
