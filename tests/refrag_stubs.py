"""Small chain worlds, a small model that ends its queries and answers, and runs of refrag_finetune on them."""

import contextlib
import functools
import io
import json
from pathlib import Path

import torch
from rag_finetune_stubs import TIMES, make_place

from nanochat.checkpoint_manager import save_checkpoint
from nanochat.common import base_dir
from nanochat.engine.hops import HopConfig
from nanochat.model import LanguageModel, ModelConfig
from nanochat.refrag.practice import ChainWorld
from nanochat.refrag.sources import DrawSettings, WorldSource
from nanochat.tokenizer import Tokenizer
from scripts import refrag_finetune
from tasks.world_chains import CHAIN_WORLD, ChainConfig

HOPS = HopConfig(max_hops=2, top_k=2, max_query_tokens=5)
DRAWS = DrawSettings(max_hops=2, top_k=2)


@functools.cache
def make_world(seed: int) -> ChainWorld:
    return ChainWorld(seed, {**CHAIN_WORLD, "num_entities": 24, "questions_per_entity": 1},
                      chains=ChainConfig(seed=seed, hops=(1, 2), per_length=10, hidden_from=0))


def make_source() -> WorldSource:
    return WorldSource(lambda seed: make_world(seed).traces, DRAWS, first=50, past=54)


@functools.cache
def make_tokenizer() -> Tokenizer:
    return Tokenizer.train([f" {d['title']} {d['content']}" for d in make_world(50).documents], 450)


def loosen(model: LanguageModel, tokenizer: Tokenizer, scale: float = 6.0) -> LanguageModel:
    """Make the ids that end queries and answers likely everywhere, so that episodes of an untrained model end."""
    ids = torch.arange(0, tokenizer.vocab_size)[None, :200]
    with torch.no_grad():
        mean = model.features(ids).mean((0, 1))
        for name in ("query_end", "assistant_end"):
            model.embed.weight[tokenizer.special(name)] += scale * mean / mean.square().sum()
    return model


def make_model(seed: int = 0, tokenizer: Tokenizer | None = None, *, sequence_len: int = 512) -> LanguageModel:
    tokenizer = tokenizer or make_tokenizer()
    model = LanguageModel(ModelConfig(
        block_pattern="M,T", vocab_size=tokenizer.vocab_size, sequence_len=sequence_len, n_embd=16, n_head=2,
        n_kv_head=1, mlp_hidden=16, d_state=4, headdim=16), seed=seed)
    return loosen(model, tokenizer)


def make_refrag_place(folder: Path) -> None:
    """As rag_finetune_stubs.make_place, and the checkpoint rag/loose, which ends its episodes."""
    make_place(folder)
    tokenizer = Tokenizer.load(base_dir() / "checkpoints" / "rag" / "good" / "step_000001")
    save_checkpoint("rag", "loose", 1, model=make_model(3, tokenizer), tokenizer=tokenizer, meta={})


FAST = ("--source rag --source_tag loose --device cpu --cloze_per_document 0 --num_steps 2 --device_batch_size 4"
        " --max_seq_len 400 --warmup_steps 0 --log_every 1 --rl_steps 2 --questions_per_step 4 --group_size 3"
        " --gate off --max_hops 2 --top_k_per_hop 2 --max_query_tokens 5 --max_answer_tokens 8 --dev_questions 8"
        " --rl_eval_every 2 --gold_steps 1 --retriever_type bm25 --data_workers 0 --rl_lr 3e-4")


def ask(folder: Path, tag: str, *flags: object) -> str:
    """Run refrag_finetune on a place; what it printed."""
    argv = [*FAST.split(), "--knowledge_base", f"{folder}/kb", "--tag", tag, *map(str, flags)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert refrag_finetune.main(argv) == 0
    return printed.getvalue()


def log_of(tag: str) -> list[dict]:
    """The records of a run's metrics file, without what depends on the clock."""
    lines = (base_dir() / "metrics" / f"refrag_{tag}.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def steps_of(tag: str) -> list[str]:
    return sorted(path.name for path in (base_dir() / "checkpoints" / "refrag" / tag).glob("step_*"))


def meta_of(tag: str) -> dict:
    return json.loads((base_dir() / "checkpoints" / "refrag" / tag / steps_of(tag)[-1] / "meta.json").read_text())


def hash_of(tag: str, step: str = "") -> str:
    """The hash of a checkpoint's weights."""
    path = base_dir() / "checkpoints" / "refrag" / tag / (step or steps_of(tag)[-1])
    return json.loads((path / "meta.json").read_text())["files"]["model.safetensors"]["sha256"]
