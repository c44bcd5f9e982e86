"""Training from a published checkpoint: --source hf:FOLDER, all weights or LoRA, its reserved ids learn, it resumes."""

import contextlib
import io
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers")
from imported_tokenizer_stubs import granite_like, write_source  # noqa: E402
from interop_stubs import make_published  # noqa: E402

from nanochat.checkpoint_manager import find_checkpoint, load_model  # noqa: E402
from nanochat.common import run_main, write_jsonl  # noqa: E402
from nanochat.retrieval import Document, KnowledgeBase  # noqa: E402
from scripts import mid_train, rag_finetune, refrag_finetune  # noqa: E402
from tasks.worlds import WorldConfig, make_world  # noqa: E402

FAST = ["--device", "cpu", "--warmup_steps", "0", "--num_steps", "2", "--device_batch_size", "2", "--max_seq_len",
        "640", "--log_every", "1"]


def run(main, *argv) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*map(str, argv)]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A published checkpoint with a tokenizer of its own, a knowledge base and questions, in the base folder."""
    folder = tmp_path_factory.mktemp("published")
    world = make_world(WorldConfig(seed=11, num_entities=12, questions_per_entity=2))
    write_jsonl(folder / "queries_train.jsonl", [question.to_dict() for question in world.questions])
    KnowledgeBase.build([Document.from_dict(record) for record in world.documents], folder / "kb", "simple")
    write_source(folder / "model", "granite")
    size = granite_like().get_vocab_size()
    make_published("granite", vocab_size=size, pad_token_id=0).save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder))
        yield folder


def files(source: str, tag: str) -> dict[str, torch.Tensor]:
    path = find_checkpoint(source, tag)
    return {name: tensor for file in sorted(path.glob("[am]*.safetensors")) for name, tensor in load_file(file).items()}


def test_mid_training_and_fine_tuning_start_from_a_published_checkpoint(folder):
    source = f"hf:{folder / 'model'}"
    run(mid_train.main, *FAST, "--source", source, "--stages", "recall", "--tag", "whole")
    meta = json.loads((find_checkpoint("mid", "whole") / "meta.json").read_text(encoding="utf-8"))
    assert meta["from"] == {"source": source, "tag": "model", "step": 0} and meta["source"] == "mid"
    before, tokenizer, _ = load_model(source)
    after, words, _ = load_model("mid", tag="whole")
    assert words.vocab_size == tokenizer.vocab_size and words.encode("red kite") == tokenizer.encode("red kite")
    assert (after.embed.weight - before.embed.weight).abs().max() > 1e-4
    printed = run(rag_finetune.main, *FAST, "--source", source, "--knowledge_base", folder / "kb", "--base_tasks", "",
                  "--tag", "rag", "--lora_rank", 4, "--top_k", 1, "--init_lr_frac", 1)
    assert "LoRA rank 4" in printed and "(not out_proj)" in printed and "learned nothing" not in printed
    tuned, _, _ = load_model("rag", tag="rag")
    new = [index for index in range(words.vocab_size) if words.is_reserved(index)]
    old = [index for index in range(words.vocab_size) if index not in set(new)]
    assert torch.equal(tuned.embed.weight[old], before.embed.weight[old]), "a row of ordinary text changed"
    # of the reserved ids those that conversations use
    assert (tuned.embed.weight[new] != before.embed.weight[new]).any(dim=1).sum() >= 10
    assert torch.equal(tuned.layers[0].mixer.out_proj.weight, before.layers[0].mixer.out_proj.weight)
    assert not torch.equal(tuned.layers[0].mixer.in_proj.weight, before.layers[0].mixer.in_proj.weight)


def test_a_lora_run_resumes_bit_for_bit_and_the_next_one_starts_merged(folder, capsys):
    argv = [*FAST, "--source", f"hf:{folder / 'model'}", "--stages", "recall", "--lora_rank", 2, "--num_steps", 4,
            "--save_every", 2, "--keep_checkpoints", 0]
    run(mid_train.main, *argv, "--tag", "straight")
    first = find_checkpoint("mid", "straight", 2)
    shutil.copytree(first, first.parents[1] / "cut" / first.name)
    assert "Resuming mid/cut at step 2 of 4" in run(mid_train.main, *argv, "--tag", "cut", "--resume")
    straight, cut = files("mid", "straight"), files("mid", "cut")
    assert straight.keys() == cut.keys() and all(torch.equal(straight[name], cut[name]) for name in cut)
    assert any("lora_b" in name for name in cut)
    capsys.readouterr()
    shutil.copytree(first, first.parents[1] / "other" / first.name)
    assert run_main(mid_train.main, [*map(str, argv), "--tag", "other", "--resume", "--lora_rank", "8"]) == 2
    assert "--lora_rank is 8, but mid/other was begun with 2" in capsys.readouterr().err
    merged, _, _ = load_model("mid", tag="cut")
    run(rag_finetune.main, *FAST, "--knowledge_base", folder / "kb", "--base_tasks", "", "--source", "mid", "--tag",
        "cut", "--init_lr_frac", 1e-30)
    after, _, _ = load_model("rag", tag="cut")
    assert all(torch.equal(one, other) for one, other in zip(merged.parameters(), after.parameters(), strict=True))


@pytest.mark.parametrize("main", [rag_finetune.main, refrag_finetune.main])
def test_unknown_sources_are_named(main, capsys):
    assert run_main(main, ["--source", "hff:x", "--knowledge_base", "kb"]) == 2
    assert "Checkpoint source 'hff:x' is not known" in capsys.readouterr().err
