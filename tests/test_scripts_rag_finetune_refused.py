"""What rag_finetune refuses before it trains: numbers that cannot be, and an early stop that would wait for nothing."""

import pytest
from rag_finetune_stubs import make_place, steps_of, tune

from nanochat.common import base_dir, run_main, write_jsonl
from nanochat.errors import ConfigError
from nanochat.rag.curriculum import Curriculum
from nanochat.tokenizer import Tokenizer
from scripts import rag_finetune
from scripts.prepare_rag_dataset import main as prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        make_place(folder)
        yield folder


def refused(capsys, main, *flags):
    """The two lines of an error."""
    capsys.readouterr()
    assert run_main(main, [*map(str, flags)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") == 2 and "\n  hint: " in error, error
    return error


@pytest.mark.parametrize(("flag", "value", "problem", "hint"), [
    ("top_k", "33", "--top_k is 33, but a model can tell 32 documents apart", "at most --top_k 32"),
    ("top_k", "0", "--top_k is 0, must be at least 1", "--top_k 4"),
    ("decision_weight", "0", "--decision_weight is 0.0, must be above 0", "--decision_weight 1"),
    ("decision_weight", "-1", "--decision_weight is -1.0", "--decision_weight"),
])
def test_numbers_that_cannot_be_are_refused_before_anything_is_loaded(capsys, flag, value, problem, hint):
    # there is no such folder: nobody has looked
    error = refused(capsys, rag_finetune.main, "--knowledge_base", "nowhere/kb", f"--{flag}", value)
    assert problem in error and hint in error


@pytest.mark.parametrize("value", ["33", "0"])
def test_episodes_of_more_documents_than_there_are_slots_are_refused(capsys, value):
    error = refused(capsys, prepare, "--mode", "synthesize", "--knowledge_base", "nowhere/kb", "--output", "o",
                    "--max_documents", value)
    assert f"--max_documents is {value}" in error


def test_as_many_documents_as_there_are_slots_are_fine(folder):
    tune(folder, "slots", "--top_k", "32", "--num_steps", "1")
    assert steps_of("slots") == ["step_000001"]


def test_a_decision_without_weight_is_refused_for_practice_too():
    tokenizer = Tokenizer.train(["the red kite flies"], 330)
    for weight in (0, -0.5):
        with pytest.raises(ConfigError, match="--decision_weight is"):
            Curriculum(["facts"], tokenizer, seed=0, row_len=64, examples_per_step=2, context_weight=0.1,
                       retriever_type="simple", decision_weight=weight)


def stopping(folder, tag, *flags):
    return ["--knowledge_base", folder / "kb", "--base_tasks=", "--device", "cpu", "--source_tag", "good", "--tag", tag,
            "--world_share", "0", "--num_steps", "2", "--early_stop_patience", "2", "--eval_every", "1", *flags]


def test_an_early_stop_without_validation_examples_is_refused(folder, capsys):
    error = refused(capsys, rag_finetune.main, *stopping(folder, "none", "--validation_share", "0"))
    assert "--early_stop_patience 2 needs validation examples, but no question or episode is kept" in error
    assert "--validation_share 0.1, or --validation_questions FILE.jsonl" in error
    # examples that fit into no row give no val_loss either
    write_jsonl(folder / "long.jsonl", [{"messages": [
        {"role": "user", "content": "Where does the kite fly? " * 200}, {"role": "assistant", "content": "North."}]}])
    error = refused(capsys, rag_finetune.main, *stopping(
        folder, "none", "--validation_questions", folder / "long.jsonl", "--max_seq_len", "200"))
    assert "--early_stop_patience 2 needs validation examples, but none fits into a row of 200 tokens" in error
    assert not (base_dir() / "checkpoints" / "rag" / "none").exists()
    # without an early stop both are fine
    assert run_main(rag_finetune.main, [*map(str, stopping(folder, "none", "--validation_share", "0")),
                                        "--early_stop_patience", "0"]) == 0
