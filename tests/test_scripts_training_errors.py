"""What goes wrong before training: one sentence with the thing's name, the next command, exit 2, nothing written."""

import json

import pytest

from nanochat.checkpoint_manager import save_checkpoint
from nanochat.common import run_main, write_jsonl
from nanochat.model import LanguageModel, ModelConfig
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.tokenizer import Tokenizer
from scripts import base_train, mid_train, rag_finetune

MAINS = {"base": base_train.main, "mid": mid_train.main, "rag": rag_finetune.main}
DOCUMENTS = [{"id": f"d{i}", "title": f"Bridge {i}", "content": f"In spring the Bridge {i} opened in 19{i:02d}."}
             for i in range(8)]
RAG = ["--knowledge_base", "{folder}/kb", "--base_tasks", "", "--device", "cpu", "--tag", "good", "--num_steps", "1"]
MID = ["--device", "cpu", "--tag", "good", "--num_steps", "1"]
BASE = ["--device", "cpu", "--input", "{folder}/documents.jsonl", "--tokenizer", "{folder}/tokenizer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Documents, a knowledge base, a tokenizer, checkpoints mid/good (M,T) and mid/attention (T), some bad files."""
    folder = tmp_path_factory.mktemp("errors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        write_jsonl(folder / "documents.jsonl", DOCUMENTS)
        KnowledgeBase.build([Document.from_dict(record) for record in DOCUMENTS], folder / "kb", "simple")
        tokenizer = Tokenizer.train([record["content"] for record in DOCUMENTS] * 2, 340)
        tokenizer.save(folder / "tokenizer")
        for tag, pattern in (("good", "M,T"), ("attention", "T,T")):
            model = LanguageModel(ModelConfig(
                block_pattern=pattern, vocab_size=tokenizer.vocab_size, sequence_len=128, n_embd=16, n_head=2,
                n_kv_head=2, mlp_hidden=16, d_state=4, headdim=16,
            ))
            save_checkpoint("mid", tag, 1, model=model, tokenizer=tokenizer, meta={})
        question = {"id": "q", "question": "When?", "answers": ["1903"], "supporting_ids": ["d3"]}
        files = {
            "broken": [json.dumps(question), '{"question": '],
            "fields": [json.dumps({**question, "answers": "1903"})],
            "elsewhere": [json.dumps(question), "", json.dumps({**question, "id": "q2", "supporting_ids": ["d99"]})],
            "unsupported": [json.dumps({**question, "supporting_ids": []})],
            "empty": [""],
            "chats": [json.dumps({"messages": [{"role": role, "content": "Hi"} for role in ("user", "assistant")]})],
            "short": [json.dumps({"text": "Too short."})] * 2,
        }
        for name, lines in files.items():
            (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (folder / "file").write_text("not a folder", encoding="utf-8")
        yield folder


def files_in(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*")}


def refused(folder, capsys, source, flags):
    """What run_main prints for an error; nothing may have been written."""
    before = files_in(folder)
    capsys.readouterr()
    code = run_main(MAINS[source], [flag.format(folder=folder) for flag in flags])
    error = capsys.readouterr().err
    assert code == 2, error
    assert files_in(folder) == before
    assert error.startswith("Error: ") and error.count("\n") == 2 and "\n  hint: " in error, error
    return error


@pytest.mark.parametrize(("source", "flags", "problem", "hint"), [
    ("rag", [*RAG, "--knowledge_base", "{folder}/no"], "Knowledge base not found: {folder}/no", "nanochat.retrieval"),
    ("rag", RAG[2:], "Knowledge base not found: --knowledge_base was not given", "python -m nanochat.retrieval"),
    ("rag", [*RAG, "--source", "base"], "Checkpoint not found: source base has none", "scripts.base_train"),
    ("rag", [*RAG, "--tag", "new"], "Checkpoint not found: source mid, tag new", "scripts.mid_train"),
    ("rag", [*RAG, "--source_tag", "attention"],
     "RAG requires Mamba or hybrid models; mid/attention has block pattern T,T", "--block_pattern"),
    ("mid", MID, "Checkpoint not found: source base has none", "scripts.base_train"),
    ("base", [*BASE, "--tokenizer", "{folder}/none"], "Tokenizer not found", "scripts.tok_train"),
])
def test_what_is_missing_is_named_with_the_command_that_makes_it(folder, capsys, source, flags, problem, hint):
    error = refused(folder, capsys, source, flags)
    assert error.startswith("Error: " + problem.format(folder=folder)), error
    assert hint in error.split("hint: ")[1]


@pytest.mark.parametrize(("name", "problem"), [
    ("broken", "{file}:2: not valid JSON"),
    ("fields", "{file}:1: 'answers' must be a list of non-empty strings"),
    ("unsupported", "{file}:1: it has answers, but 'supporting_ids' is empty"),
    ("elsewhere", "{file}:3: supporting document 'd99' is not in the knowledge base"),
    ("empty", "{file}: no questions"),
    ("none", "Questions not found: {file}"),
])
def test_bad_questions_are_named_by_file_and_line(folder, capsys, name, problem):
    file = f"{folder}/{name}.jsonl"
    error = refused(folder, capsys, "rag", [*RAG, "--questions", file])
    assert error.startswith("Error: " + problem.format(file=file)), error


@pytest.mark.parametrize(("source", "flags", "problem"), [
    ("rag", [*RAG, "--top_k", "0"], "--top_k is 0, must be at least 1"),
    ("rag", [*RAG, "--device_batch_size", "0"], "--device_batch_size is 0, must be at least 1"),
    ("rag", [*RAG, "--grad_accum_steps", "-1"], "--grad_accum_steps is -1, must be at least 1"),
    ("rag", [*RAG, "--init_lr_frac", "0"], "--init_lr_frac is 0, so nothing would be learned"),
    ("rag", [*RAG, "--num_epochs", "0"], "--num_epochs is 0, must be at least 1"),
    ("rag", [*RAG, "--max_doc_length", "-5"], "--max_doc_length is -5, must be at least 0"),
    ("rag", [*RAG, "--world_share", "1.5"], "--world_share is 1.5, must lie in 0..1"),
    ("rag", [*RAG, "--retriever_type", "bm52"], "Bad value for --retriever_type"),
    ("rag", [*RAG, "--base_tasks", "Jsonl:{folder}/none.jsonl"], "File not found: {folder}/none.jsonl"),
    ("rag", [*RAG, "--base_tasks", "Smalltalk2"], "Unknown task 'Smalltalk2'"),
    ("rag", [*RAG, "--base_tasks", "Jsonl:{folder}/chats.jsonl", "--world_share", "0.9"],
     "--world_share 0.9 and --chat_share 0.15 are more than all"),
    ("rag", [*RAG, "--num_steps", "0", "--world_share", "1"], "There is nothing to train on from the knowledge base"),
    ("rag", [*RAG, "--num_steps", "0", "--validation_share", "1"], "There is nothing to train on"),
    ("rag", [*RAG, "--cloze_per_document", "0"], "No training questions for {folder}/kb"),
    ("rag", [*RAG, "--topk", "3"], "Unknown flag --topk"),
    ("mid", [*MID, "--stages", "recall,facs"], "Unknown stage 'facs'"),
    ("mid", [*MID, "--stages", ","], "Unknown stage ''"),
    ("mid", [*MID, "--retriever_type", "bm52"], "Unknown retriever type 'bm52'"),
    ("mid", [*MID, "--decay_frac", "2"], "--decay_frac is 2.0, must lie in 0..1"),
    ("mid", [*MID, "--matrix_lr", "-1"], "--matrix_lr is -1.0, must be at least 0"),
    ("mid", [*MID, "--source", "bse"], "Checkpoint source 'bse' is not known"),
    ("base", BASE[:2], "--input is missing"),
    ("base", [*BASE, "--input", "{folder}/none.jsonl"], "File not found: {folder}/none.jsonl"),
    ("base", [*BASE, "--input", "{folder}/short.jsonl"], "The text has only"),
    ("base", [*BASE, "--block_pattern", "T,X"], "Block pattern 'T,X' is not made of the letters T and M"),
    ("base", [*BASE, "--n_embd", "30"], "Model shape does not fit together"),
    ("base", [*BASE, "--practice_share", "2"], "--practice_share is 2.0, must lie in 0..1"),
    ("base", [*BASE, "--num_steps", "0"], "--num_steps is 0, must be at least 1"),
    ("base", [*BASE, "--tag", "../up"], "Tag '../up' cannot name a folder"),
    ("base", [*BASE, "--device", "gpu"], "Device 'gpu' is not known"),
])
def test_settings_that_cannot_work_are_refused_before_anything_is_written(folder, capsys, source, flags, problem):
    error = refused(folder, capsys, source, flags)
    assert error.startswith("Error: " + problem.format(folder=folder)), error


def test_a_base_folder_that_cannot_be_written_is_named(folder, capsys, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", f"{folder}/file")
    error = refused(folder, capsys, "base", [*BASE, "--num_steps", "1", "--sequence_len", "32"])
    assert error.startswith(f"Error: Cannot write {folder}/file"), error


def test_a_default_task_that_is_not_there_is_one_line_and_no_error(folder, capsys):
    config = rag_finetune.RagFinetuneConfig(knowledge_base="x", task_samples=3)
    assert mid_train.load_chats(config, is_explicit=False) == []
    printed = capsys.readouterr().out
    assert printed.startswith("Going on without SmolTalk conversations") and printed.count("\n") == 1


@pytest.mark.parametrize("source", MAINS)
def test_help_shows_the_comments_of_inherited_settings_too(source, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stop:
        MAINS[source](["--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    for comment in ("name of this run's checkpoints", "weights, order of data, practice worlds", "micro-batches per"):
        assert comment in printed
    assert {"base": "model width", "mid": "comma-separated: copy, recall", "rag": "most documents"}[source] in printed


@pytest.mark.parametrize("values, stages, told", [
    ({"chat_share": 0.3}, "recall,facts", ["--chat_share has no effect without --base_tasks"]),
    ({"base_tasks": "Jsonl:x"}, "recall", ["--base_tasks has no effect without a stage that reads"]),
    ({}, "recall", []),
])
def test_settings_without_effect_are_named(values, stages, told, capsys):
    flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    # no such checkpoint: the run ends after its settings were looked at
    assert run_main(mid_train.main, [*flags, "--stages", stages, "--source_tag", "nowhere", "--device", "cpu"]) == 2
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if "no effect" in line] == told
