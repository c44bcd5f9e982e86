"""A place to tune in: a knowledge base of a small world, its questions, and a checkpoint that knows nothing."""

import contextlib
import io
import json
from pathlib import Path

from nanochat.checkpoint_manager import save_checkpoint
from nanochat.common import base_dir, write_jsonl
from nanochat.model import LanguageModel, ModelConfig
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.tokenizer import Tokenizer
from scripts import rag_finetune
from tasks.worlds import WorldConfig, make_world

TIMES = {"tokens_per_s", "flops_per_s", "mfu", "elapsed_s", "remaining_s", "model_share"}


def make_place(folder: Path) -> None:
    """kb/, queries_train.jsonl, chats.jsonl and the checkpoint mid/good, for NANOCHAT_BASE_DIR inside the folder."""
    world = make_world(WorldConfig(seed=11, num_entities=20, questions_per_entity=2))
    write_jsonl(folder / "queries_train.jsonl", [question.to_dict() for question in world.questions])
    KnowledgeBase.build([Document.from_dict(record) for record in world.documents], folder / "kb", "simple")
    tokenizer = Tokenizer.train([f" {d['title']} {d['content']}" for d in world.documents], 600)
    for source, seed in (("mid", 0), ("base", 1), ("rag", 2)):
        model = LanguageModel(ModelConfig(
            block_pattern="M,T", vocab_size=tokenizer.vocab_size, sequence_len=256, n_embd=16, n_head=2, n_kv_head=1,
            mlp_hidden=16, d_state=4, headdim=16,
        ), seed=seed)
        save_checkpoint(source, "good", 1, model=model, tokenizer=tokenizer, meta={})
    chats = [{"messages": [{"role": "user", "content": f"Hello {i}"}, {"role": "assistant", "content": f"Good {i}."}]}
             for i in range(40)]
    write_jsonl(folder / "chats.jsonl", chats)


def tune(folder: Path, tag: str, *flags: object) -> tuple[list[dict], dict, str]:
    """Run rag_finetune on a place: its log without times, the meta of its checkpoint, and what it printed."""
    argv = ["--knowledge_base", f"{folder}/kb", "--base_tasks", "", "--device", "cpu", "--source_tag", "good",
            "--world_share", "0", "--cloze_per_document", "0", "--device_batch_size", "15", "--tag", tag,
            "--warmup_steps", "0", "--log_every", "1", "--init_lr_frac", "0.5", *map(str, flags)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert rag_finetune.main([flag.format(folder=folder) for flag in argv]) == 0
    return log_of(tag), meta_of(tag), printed.getvalue()


def log_of(tag: str) -> list[dict]:
    """The records of a run's metrics file, without what depends on the clock."""
    lines = (base_dir() / "metrics" / f"rag_{tag}.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def steps_of(tag: str) -> list[str]:
    return sorted(path.name for path in (base_dir() / "checkpoints" / "rag" / tag).glob("step_*"))


def meta_of(tag: str) -> dict:
    return json.loads((base_dir() / "checkpoints" / "rag" / tag / steps_of(tag)[-1] / "meta.json").read_text())
