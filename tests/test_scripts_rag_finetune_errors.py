"""What can go wrong while tuning: odd documents and questions, no memory, no numbers, an interruption; one sentence."""

import os
import random
import signal

import pytest
import torch
from rag_finetune_stubs import make_place, steps_of, tune

from nanochat.common import base_dir, run_main, write_jsonl
from nanochat.retrieval import Document, KnowledgeBase
from scripts import rag_finetune
from scripts.training_memory import helpful_flags, is_out_of_memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        make_place(folder)
        yield folder


def build(folder, name, contents, questions=()):
    KnowledgeBase.build([Document(id=f"d{i}", title=f"Quern {i}", content=text) for i, text in enumerate(contents)],
                        folder / name / "kb", "simple")
    write_jsonl(folder / f"{name}.jsonl", [
        {"id": f"q{i}", "question": question, "answers": [answer] if answer else [], "supporting_ids": [f"d{i}"]}
        for i, (question, answer) in enumerate(questions)])
    return ["--knowledge_base", folder / name / "kb", "--num_steps", "2", *(
        ["--questions", folder / f"{name}.jsonl"] if questions else ["--cloze_per_document", "4"])]


def refused(capsys, *flags):
    """The two lines of an error."""
    capsys.readouterr()
    assert run_main(rag_finetune.main, [*map(str, flags), "--base_tasks=", "--device", "cpu", "--source_tag",
                                        "good"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.count("\n") == 2 and "\n  hint: " in error, error
    return error


def asked(number):
    return [(f"What does Quern {i} weigh?", str(100 + i)) for i in range(number)]


def test_three_documents_are_enough_to_train(folder):
    texts = [f"Quern {i} weighs {100 + i} stones. It lies in the north." for i in range(3)]
    log, _, printed = tune(folder, "three", *build(folder, "three", texts, asked(3)))
    assert [record["step"] for record in log if "loss" in record] == [1, 2] and "best 3 of 3 documents" in printed


def test_documents_that_are_all_alike_train_without_copies_of_the_evidence(folder, capsys):
    alike = ["The Quern weighs 100 stones."] * 12
    log, _, _ = tune(folder, "alike", *build(folder, "alike", alike, [("What does it weigh?", "100")] * 12))
    assert [record["step"] for record in log if "loss" in record] == [1, 2]
    error = refused(capsys, *build(folder, "same", ["The kiln."] * 12), "--tag", "same")
    assert "No training questions for" in error and "--questions FILE.jsonl" in error


def test_questions_in_another_language_train_with_a_warning(folder):
    texts = [f"Quern {i} weighs {100 + i} stones." for i in range(6)]
    german = [(f"Wieviel wiegt der {name}?", str(100 + i)) for i, name in enumerate(("Rote", "Blaue", "Alte", "Neue"))]
    printed = tune(folder, "german", *build(folder, "german", texts, german), "--validation_share", "0")[2]
    assert "The evidence of 0% of the answerable questions" in printed
    assert "Warning: the retriever seldom finds the evidence" in printed and "multilingual" in printed


def test_documents_that_do_not_fit_are_an_error_with_the_way_out(folder, capsys):
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdef", k=6)) for _ in range(500)]
    long = [f"{' '.join(rng.choices(words, k=4000))} Quern {i} weighs {100 + i} stones." for i in range(4)]
    error = refused(capsys, *build(folder, "long", long, asked(4)), "--tag", "long")
    assert "fits with its document: rows have 256 tokens" in error and "--chunk_words 120" in error
    assert not (base_dir() / "checkpoints" / "rag" / "long").exists()
    short = build(folder, "cut", [f"It is heavy and old and grey, and Quern {i} weighs {100 + i} stones."
                                  for i in range(4)], asked(4))
    assert "documents 6 (--max_doc_length)" in refused(capsys, *short, "--max_doc_length", "6", "--tag", "cut")


def test_weights_that_are_no_numbers_any_more_end_the_run(folder, monkeypatch, capsys):
    from nanochat.model import LanguageModel

    monkeypatch.setattr(LanguageModel, "head", lambda self, x: x.new_full((*x.shape[:-1], self.config.vocab_size),
                                                                          float("nan")) * x.sum())
    error = refused(capsys, "--knowledge_base", folder / "kb", "--tag", "nan", "--num_steps", "30", "--max_seq_len",
                    "200", "--device_batch_size", "2", "--world_share", "0")
    assert "Training diverged: 20 losses or gradients in a row were not finite" in error and "--resume true" in error


# what torch says on a CPU and on a GPU
NO_MEMORY = [RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't allocate memory: you "
                          "tried to allocate 9 bytes. Error code 12 (Cannot allocate memory)"),
             RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
             torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError()]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_names_the_flags_that_help_in_their_order(folder, monkeypatch, capsys, error):
    calls = []

    def loss(*args, **kwargs):
        calls.append(1)
        if len(calls) > 3:
            raise error
        return original(*args, **kwargs)

    import nanochat.training as training

    original = training.language_model_loss
    monkeypatch.setattr(training, "language_model_loss", loss)
    printed = refused(capsys, "--knowledge_base", folder / "kb", "--tag", "oom", "--num_steps", "9", "--save_every",
                      "2", "--world_share", "0", "--device_batch_size", "4")
    assert printed.startswith("Error: Out of memory: ")
    flags = ["--device_batch_size 2", "--max_seq_len 2048", "--top_k 3", "--max_doc_length 300", "--lora_rank 16",
             "--activation_checkpointing true", "--resume true"]
    places = [printed.index(flag) for flag in flags]
    assert places == sorted(places), printed
    assert steps_of("oom") == ["step_000002"], "what was learned before is kept"


def test_flags_that_are_turned_already_are_not_named():
    assert not is_out_of_memory(RuntimeError("shapes do not match")) and not is_out_of_memory(ValueError("memory"))
    config = rag_finetune.RagFinetuneConfig(device_batch_size=1, max_seq_len=256, top_k=1, max_doc_length=80,
                                            lora_rank=8, activation_checkpointing="true")
    assert helpful_flags(config) == ["a smaller model"]
    assert helpful_flags(rag_finetune.RagFinetuneConfig(max_doc_length=200))[3] == "--max_doc_length 100"


def test_ctrl_c_at_any_moment_leaves_what_was_there(folder, monkeypatch, capsys):
    argv = ["--knowledge_base", f"{folder}/kb", "--base_tasks=", "--device", "cpu", "--source_tag", "good", "--tag",
            "broken", "--num_steps", "6", "--max_seq_len", "200", "--device_batch_size", "4", "--eval_every", "2"]

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    for place in ("nanochat.retrieval.RetrievalManager.retrieve_batch", "scripts.rag_data.make_mixture",
                  "nanochat.rag.held_out.HeldOut.measure"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupt)
            if place.endswith("retrieve_batch"):
                patch.setattr("nanochat.rag.retrieval_cache.base_dir", lambda: folder / "nowhere")
            if place.endswith("make_mixture"):
                patch.setattr("scripts.rag_finetune.make_mixture", interrupt)
            assert run_main(rag_finetune.main, argv) == 130, place
            assert not (folder / "nowhere").exists()
    # in the middle of a step: the step is finished and saved, and the run goes on from there
    original = torch.optim.AdamW.step
    with monkeypatch.context() as patch:
        def step(self, *args, **kwargs):
            os.kill(os.getpid(), signal.SIGINT)
            return original(self, *args, **kwargs)

        patch.setattr(torch.optim.AdamW, "step", step)
        assert run_main(rag_finetune.main, argv) == 130
    assert steps_of("broken")[-1] == "step_000002"
    capsys.readouterr()
    assert run_main(rag_finetune.main, [*argv, "--resume", "true"]) == 0
    assert "Resuming rag/broken at step 2 of 6" in capsys.readouterr().out and steps_of("broken")[-1] == "step_000006"
