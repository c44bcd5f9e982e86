"""Rollout throughput: groups that share their prompt against separate ones, many episodes at once against one by one.

    python -m bench.rollouts --questions 16

Without --tag a model of the tiny shape with random weights asks and answers; its episodes end as often as those of a
trained one. Writes bench/results/rollouts.json.
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint_manager import load_model
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.engine import Engine
from nanochat.engine.hops import HopConfig, run_episodes
from nanochat.model import LanguageModel, ModelConfig
from nanochat.rag.curriculum import HELD_OUT_SEED
from nanochat.refrag.practice import ChainWorld
from nanochat.refrag.search_cache import SearchCache
from nanochat.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RolloutsConfig:
    tag: str = ""                     # of a refrag checkpoint; empty: random weights of the tiny shape
    questions: int = 16               # of a measurement
    group_size: int = 8               # episodes per question
    max_hops: int = 3                 # searches per episode
    top_k: int = 3                    # documents per search
    max_tokens: int = 24              # of an answer
    repeats: int = 3                  # measurements; the median counts
    results: str = "bench/results/rollouts.json"  # where the numbers go


CONFIG = RolloutsConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.rollouts", description=__doc__ or "")
    world = ChainWorld(HELD_OUT_SEED + 3 * 10**8)
    asked = [question["question"] for question in world.questions[: config.questions]]
    model, tokenizer = make(config, world)
    cells = {
        "groups that share their prompt": lambda: episodes(
            config, Engine(model, tokenizer), asked, world, together=True),
        "groups of separate prompts": lambda: episodes(
            config, Engine(model, tokenizer, prefix_cache_bytes=0), asked, world, together=True),
        "one by one": lambda: episodes(
            config, Engine(model, tokenizer, prefix_cache_bytes=0), asked[:2], world, together=False),
        "one by one, prompts kept": lambda: episodes(
            config, Engine(model, tokenizer), asked[:2], world, together=False),
    }
    rows = {name: measure(cell, config.repeats) for name, cell in cells.items()}
    shared, separate, alone, kept = (rows[name]["episodes_per_s"] for name in cells)
    found = {"shared_over_separate": shared / separate, "batched_over_alone": shared / alone,
             "batched_over_alone_kept": shared / kept,
             "retrieval_share": rows["groups that share their prompt"]["retrieval_share"]}
    for name, row in rows.items():
        print0(f"{name:34} {row['episodes_per_s']:8.2f} episodes/s, retrieval {row['retrieval_share']:.1%}, "
               f"{row['tokens_per_s']:8,.0f} tokens/s written")
    print0(", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__,
               "load_before": [round(value, 2) for value in os.getloadavg()], "parameters": model.num_parameters}
    write_json(Path(config.results), {**machine, "rows": rows, **found})
    return 0


def make(config: RolloutsConfig, world: ChainWorld) -> tuple[LanguageModel, Tokenizer]:
    """The checkpoint, or a random model of the tiny shape whose queries and answers come to an end."""
    if config.tag:
        model, tokenizer, _ = load_model("refrag", "cpu", "eval", config.tag)
        return model, tokenizer
    tokenizer = Tokenizer.train([f" {one['title']} {one['content']}" for one in world.documents], 2048)
    model = LanguageModel(ModelConfig(
        block_pattern="M,M,T,M,M,T", vocab_size=tokenizer.vocab_size, sequence_len=1024, n_embd=192, n_head=4,
        n_kv_head=2, mlp_hidden=384, attention_conv=4, d_state=32, headdim=48)).eval()
    with torch.no_grad():
        mean = model.features(torch.arange(256)[None]).mean((0, 1))
        for name, scale in (("query_end", 5.0), ("assistant_end", 5.0)):
            model.embed.weight[tokenizer.special(name)] += scale * mean / mean.square().sum()
    return model, tokenizer


def episodes(
    config: RolloutsConfig, engine: Engine, asked: list[str], world: ChainWorld, *, together: bool
) -> dict[str, float]:
    """Roll out once; how many episodes, tokens and seconds."""
    search = SearchCache(world.search)
    hops = HopConfig(max_hops=config.max_hops, top_k=config.top_k)
    start = time.perf_counter()
    if together:
        found = run_episodes(engine, asked, search, hops, temperature=1.0, group_size=config.group_size,
                             max_tokens=config.max_tokens)
    else:
        found = [episode for number in range(config.group_size) for question in asked for episode in run_episodes(
            engine, [question], search, hops, temperature=1.0, seed=number, max_tokens=config.max_tokens)]
    return {"episodes": len(found), "written": sum(sum(one.mask) for one in found), "retrieval_s": search.seconds,
            "seconds": time.perf_counter() - start}


def measure(cell: Callable[[], dict[str, float]], repeats: int) -> dict[str, Any]:
    """The median measurement."""
    runs = sorted((cell() for _ in range(repeats)), key=lambda run: run["seconds"] / run["episodes"])
    run = runs[len(runs) // 2]
    return {"episodes_per_s": run["episodes"] / run["seconds"], "tokens_per_s": run["written"] / run["seconds"],
            "retrieval_share": run["retrieval_s"] / run["seconds"], **run}


if __name__ == "__main__":
    raise SystemExit(run_main(main))
