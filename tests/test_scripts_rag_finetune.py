"""rag_finetune: every flag of the guide changes what it says, runs go on exactly, the best checkpoint is kept."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rag_finetune_stubs import log_of, make_place, meta_of, steps_of, tune
from safetensors.torch import load_file

from nanochat.chat_format import render
from nanochat.common import base_dir, run_main, write_jsonl
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.tokenizer import Tokenizer
from scripts import rag_finetune
from scripts.early_stop import BEST, EarlyStop

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rag")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        make_place(folder)
        yield folder


@pytest.fixture(scope="module")
def plain(folder):
    log, meta, printed = tune(folder, "plain")
    assert steps_of("plain") == ["step_000003"], "38 questions in batches of 15"
    return log, meta, printed


def weights(tag):
    return load_file(base_dir() / "checkpoints" / "rag" / tag / steps_of(tag)[-1] / "model.safetensors")


CHATS = ["--base_tasks", "Jsonl:{folder}/chats.jsonl", "--chat_share", "0.5"]
# flags of the guide and of ours: flags, optimizer steps, and what must be so
FLAGS = {
    "top_k": (["--top_k", "1"], 3), "retriever_type": (["--retriever_type", "bm25"], 3),
    "device_batch_size": (["--device_batch_size", "40"], 1), "grad_accum_steps": (["--grad_accum_steps", "3"], 1),
    "num_epochs": (["--num_epochs", "2"], 5), "num_steps": (["--num_steps", "2"], 2),
    "max_seq_len": (["--max_seq_len", "120"], 3), "max_doc_length": (["--max_doc_length", "30"], 3),
    "init_lr_frac": (["--init_lr_frac", "0.1"], 3), "base_tasks": (CHATS, 5),
    "chat_share": ([*CHATS, "--chat_share", "0.25"], 4), "task_samples": ([*CHATS, "--task_samples", "3"], 5),
    "weights": ([CHATS[0], CHATS[1] + ":3,Worlds", *CHATS[2:], "--task_samples", "50"], 5),
    "source": (["--source", "base"], 3),
    "world_share": (["--world_share", "0.5"], 5), "cloze_per_document": (["--cloze_per_document", "2"], None),
    "validation_share": (["--validation_share", "0"], 3), "seed": (["--seed", "1"], 3),
    "context_weight": (["--context_weight", "0"], 3), "lora_rank": (["--lora_rank", "2"], 3),
    "questions": (["--questions", "{folder}/few.jsonl"], 1), "matrix_lr": (["--matrix_lr", "0.001"], 3),
    "decision_weight": (["--decision_weight", "5"], 3),
}


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_changes_what_is_learned(folder, plain, name):
    flags, steps = FLAGS[name]
    lines = (folder / "queries_train.jsonl").read_text().splitlines()[:8]
    (folder / "few.jsonl").write_text("\n".join(lines))
    log, meta, _ = tune(folder, name, *flags)
    last = int(steps_of(name)[-1][5:])
    assert (last == steps) if steps is not None else last > 3
    same = [(one["loss"], other["loss"]) for one, other in zip(log, plain[0], strict=False)
            if "loss" in one and "loss" in other]
    assert last != 3 or any(one != other for one, other in same), f"{name} left the losses as they were: {same}"
    if name in meta["config"] and name in rag_finetune.RagFinetuneConfig.__dataclass_fields__:
        assert meta["config"][name] != plain[1]["config"][name]


def test_flags_that_may_not_change_the_numbers_do_not(folder, plain):
    log, _, printed = tune(folder, "same", "--data_workers", "0", "--activation_checkpointing", "true", "--save_every",
                           "1", "--keep_checkpoints", "2")
    # recomputed activations are the same numbers on a CPU
    assert log == plain[0] and steps_of("same") == ["step_000002", "step_000003"]
    assert "Time in the model: " in plain[2] and "Time in the model: " in printed
    assert "of them kept from before" in printed, "the first run searched the same questions"


def test_the_memory_line_comes_before_training(plain):
    printed = plain[2]
    assert printed.index("Memory: about ") < printed.index("Fits in ") < printed.index("Training rag/plain")


def test_what_documents_lose_is_counted_in_the_log_the_checkpoint_and_the_last_lines(folder, plain):
    log, meta, printed = tune(folder, "counted", "--max_doc_length", "30", "--max_seq_len", "150")
    last = [record for record in log if "loss" in record][-1]
    assert last["documents_cut"] > 0 and last["tokens_cut"] > last["documents_cut"] and last["parts_dropped"] > 0
    assert meta["progress"]["left_out"]["tokens_cut"] == last["tokens_cut"]
    assert "To fit into rows of 150 tokens" in printed and f"{last['tokens_cut']:,} tokens of documents were" in printed
    assert plain[1]["progress"]["left_out"]["documents_cut"] == 0 and "tokens of documents" not in plain[2]


@pytest.mark.parametrize("limits", [{}, {"max_doc_tokens": 7}, {"max_tokens": 60},
                                    {"max_tokens": 40, "max_doc_tokens": 20}])
def test_tokens_shown_and_tokens_lost_are_all_tokens(limits):
    tokenizer = Tokenizer.train(["the red kite flies over the old mill by the river"] * 3, 330)
    documents = [{"id": str(i), "title": f"Kite {i}", "content": "the red kite flies " * (i + 2)} for i in range(4)]
    conversation = {"messages": [{"role": "retrieval", "documents": documents}, {"role": "user", "content": "Where?"}]}
    whole, cut = render(conversation, tokenizer), render(conversation, tokenizer, **limits)
    # every document that is shown costs its slot id, too
    assert len(cut.ids) + cut.lost_tokens + (4 - len(cut.documents)) == len(whole.ids)
    assert (cut.lost_tokens > 0) == bool(limits) and whole.lost_tokens == 0


@pytest.fixture(scope="module")
def prepared(folder):
    """A folder as the preparation writes it: questions and episodes for training and for validation."""
    place = folder / "prepared"
    records = [json.loads(line) for line in (folder / "queries_train.jsonl").read_text().splitlines()]
    write_jsonl(place / "queries_train.jsonl", records[:20])
    write_jsonl(place / "queries_validation.jsonl", records[20:30])
    episodes = [{"id": f"e{i}", "kind": "edited", "messages": [
        {"role": "retrieval", "documents": [{"id": f"x{i}", "title": f"Kiln {i}", "content": f"Kiln {i} holds {i}."}]},
        {"role": "user", "content": f"What does Kiln {i} hold?"},
        {"role": "assistant", "content": str(i), "citations": [0]}]} for i in range(16)]
    write_jsonl(place / "episodes_train.jsonl", episodes[:12])
    write_jsonl(place / "episodes_validation.jsonl", episodes[12:])
    write_jsonl(folder / "episodes.jsonl", episodes)
    return place


def test_a_folder_of_questions_and_episodes_is_used_and_resumed_exactly(folder, prepared):
    flags = ["--questions", prepared, "--num_steps", "6", "--eval_every", "2", "--save_every", "3"]
    log, _, printed = tune(folder, "whole", *flags, "--keep_checkpoints", "0")
    assert f"20 questions from {prepared}/queries_train.jsonl, 12 episodes from" in printed
    assert "14 kept for validation" in printed and all("val_loss" in r for r in log if "accuracy" in r)
    home = base_dir() / "checkpoints" / "rag"
    shutil.copytree(home / "whole" / "step_000003", home / "again" / "step_000003")
    shutil.copy(base_dir() / "metrics" / "rag_whole.jsonl", base_dir() / "metrics" / "rag_again.jsonl")
    again, _, printed = tune(folder, "again", *flags, "--resume", "true")
    assert "Resuming rag/again at step 3 of 6" in printed and again == log
    one, other = weights("whole"), weights("again")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_episodes_alone_train_too(folder, prepared):
    log, _, printed = tune(folder, "episodes", "--questions", "{folder}/episodes.jsonl", "--num_steps", "2",
                           "--validation_share", "0.3")
    assert f"16 episodes from {folder}/episodes.jsonl" in printed
    assert "Retrieval for" not in printed and log[-1]["val_loss"] > 0


def test_validation_on_a_knowledge_base_of_its_own(folder, prepared):
    KnowledgeBase.build([Document(id="other", title="Quern", content="Quern weighs 12.")], folder / "other", "simple")
    write_jsonl(folder / "other.jsonl", [{"id": "o", "question": "What does Quern weigh?", "answers": ["12"],
                                          "supporting_ids": ["other"]}])
    log, _, printed = tune(folder, "held", "--num_steps", "1", "--validation_questions", "{folder}/other.jsonl",
                           "--validation_knowledge_base", "{folder}/other")
    assert "1 kept for validation" in printed and "Retrieval for 1 validation questions" in printed
    assert log[-1]["val_loss"] > 0


def test_early_stopping_keeps_the_best_checkpoint(folder, monkeypatch, capsys):
    losses = iter([0.9, 0.5, 0.7, 0.6, 0.1])
    monkeypatch.setattr("nanochat.rag.held_out.HeldOut.measure", lambda self, model: {"val_loss": next(losses)})
    flags = ["--num_steps", "9", "--eval_every", "1", "--early_stop_patience", "2"]
    log, meta, printed = tune(folder, "early", *flags)
    assert [record["val_loss"] for record in log if "val_loss" in record] == [0.9, 0.5, 0.7, 0.6]
    assert "checkpoint is that of step 2 (val_loss 0.5000); the later ones are kept as --tag early.1" in printed
    assert steps_of("early") == ["step_000002"] and steps_of("early.1") == ["step_000004"]
    assert not (base_dir() / "checkpoints" / "rag" / f"early{BEST}").exists()
    assert (meta["tag"], meta["step"], meta["early_stop"]["best"]) == ("early", 2, 0.5)
    assert "rag/early has ended and holds its best checkpoint, step 2: nothing to do" in tune(
        folder, "early", *flags, "--resume", "true")[2]


def test_early_stopping_goes_on_counting_after_an_interruption(folder, monkeypatch):
    values = {1: 0.9, 2: 0.5, 3: 0.7, 4: 0.6, 5: 0.1}

    def measure(self, model):
        return {"val_loss": values[measure.step]}

    def evaluate(self, model, step):
        measure.step = step
        return {}

    monkeypatch.setattr("nanochat.rag.held_out.HeldOut.measure", measure)
    monkeypatch.setattr("nanochat.rag.curriculum.Curriculum.evaluate", evaluate)
    flags = ["--eval_every", "1", "--early_stop_patience", "2", "--save_every", "1", "--num_steps"]
    tune(folder, "cut", *flags, "3")
    home = base_dir() / "checkpoints" / "rag"
    # as an interruption after step 3 would have left it: the best beside the latest
    assert steps_of("cut") == ["step_000002"] and steps_of("cut.1") == ["step_000002", "step_000003"]
    (home / "cut").rename(home / "cut.best")
    (home / "cut.best" / "stopped_early.json").unlink()
    (home / "cut.1").rename(home / "cut")
    printed = tune(folder, "cut", *flags, "9", "--resume", "true")[2]
    assert "Resuming rag/cut at step 3 of 9" in printed and "that of step 2 (val_loss 0.5000)" in printed
    assert steps_of("cut") == ["step_000002"] and steps_of("cut.1")[-1] == "step_000004"


def test_a_half_finished_exchange_of_checkpoints_is_completed(folder, plain, monkeypatch):
    home = base_dir() / "checkpoints" / "rag"
    for tag in ("torn", f"torn{BEST}"):
        shutil.copytree(home / "plain", home / tag)
    stop = EarlyStop("rag", "torn", 3)
    stop.restore({"best": 0.5, "best_step": 3, "waited": 3})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EarlyStop, "_take_best", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        stop.finish(6)
    assert not (home / "torn").exists() and not stop.is_finished()
    stop.recover()
    assert steps_of("torn") == ["step_000003"] and meta_of("torn")["tag"] == "torn" and stop.is_finished()
    assert not (home / "torn.best").exists() and stop.finished_step() == 3
    # an exchange that moved nothing yet is no end
    shutil.copytree(home / "plain", home / "later")
    shutil.copytree(home / "torn", home / "later.best")
    late = EarlyStop("rag", "later", 3)
    late.recover()
    assert not late.is_finished() and not (home / "later.best" / "stopped_early.json").exists()


def test_a_run_killed_before_its_first_save_has_not_ended(folder, plain):
    home = base_dir() / "checkpoints" / "rag"
    shutil.copytree(home / "plain", home / f"killed{BEST}")
    stop = EarlyStop("rag", "killed", 3)
    stop.recover()
    assert not stop.is_finished() and not (home / "killed").exists()
    # a run that found no best checkpoint leaves the one of an earlier run alone
    stop.finish(9)
    assert steps_of(f"killed{BEST}") == ["step_000003"]


def test_tuning_goes_on_from_an_earlier_rag_model_under_another_name(folder, plain, capsys):
    _, meta, _ = tune(folder, "second", "--source", "rag", "--source_tag", "plain", "--num_steps", "1")
    assert (meta["from"]["source"], meta["from"]["tag"], meta["from"]["step"]) == ("rag", "plain", 3)
    assert run_main(rag_finetune.main, ["--knowledge_base", f"{folder}/kb", "--source", "rag", "--tag", "plain"]) == 2
    assert "--source_tag plain --tag plain-2" in capsys.readouterr().err


def test_the_card_is_made_of_the_best_checkpoint_with_the_questions_kept_back(folder, monkeypatch):
    made = []

    class Card:
        lines, paths = ["verdict: fine"], ["card.html"]

    def make_card(engine, meta, **settings):
        made.append((meta, settings))
        return Card()

    monkeypatch.setattr("nanochat.evaluation.suite.make_card", make_card)
    _, meta, printed = tune(folder, "carded", "--num_steps", "1", "--eval_suite", "quick", "--top_k", "4")
    ((of, settings),) = made
    assert (of["source"], of["tag"], of["step"]) == ("rag", "carded", 1) and settings["suite"] == "quick"
    assert settings["knowledge_base"].knowledge_base.fingerprint == meta["knowledge_base"]
    assert settings["top_k"] == 4 and len(settings["questions"]) == 4 and settings["questions"][0].supporting_ids
    assert "verdict: fine" in printed and "wrote card.html" in printed
    # what it was tuned from stands beside it
    (name,) = settings["columns"]
    assert name == f"{meta['from']['source']}/{meta['from']['tag']}" and settings["depends_on"]["column_weights"][name]
    KnowledgeBase.build([Document(id="q", title="Quern", content="Quern weighs 12.")], folder / "querns", "simple")
    write_jsonl(folder / "querns.jsonl", [{"id": "o", "question": "What does Quern weigh?", "answers": ["12"],
                                           "supporting_ids": ["q"]}])
    made.clear()
    tune(folder, "elsewhere", "--num_steps", "1", "--eval_suite", "quick", "--validation_questions",
         "{folder}/querns.jsonl", "--validation_knowledge_base", "{folder}/querns")
    # questions are asked of the documents that they are about
    assert [document.id for document in made[0][1]["knowledge_base"].knowledge_base.documents] == ["q"]
    assert not made.clear() and "Making the card" not in tune(folder, "uncarded", "--num_steps", "1")[2] and not made


def test_two_processes_learn_what_one_with_accumulation_does(folder):
    flags = ["--num_steps", "3", "--device_batch_size", "6", "--world_share", "0.5"]
    alone, _, _ = tune(folder, "alone", *flags, "--grad_accum_steps", "2")
    argv = ["--knowledge_base", f"{folder}/kb", "--base_tasks=", "--device", "cpu", "--source_tag", "good",
            "--cloze_per_document", "0", "--tag", "both", "--warmup_steps", "0", "--log_every", "1", "--init_lr_frac",
            "0.5", *flags]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
         "scripts.rag_finetune", *argv], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    both = log_of("both")
    assert "2 process(es)" in done.stdout and len(both) == len(alone)
    for one, two in zip(alone, both, strict=True):
        assert one.keys() == two.keys()
        for name in ("loss", "grad_norm", "val_loss", "tokens", "parts_dropped", "val_accuracy"):
            if name in one:
                assert two[name] == pytest.approx(one[name], rel=1e-5, abs=1e-6), (name, one, two)
    first, second = weights("alone"), weights("both")
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5
