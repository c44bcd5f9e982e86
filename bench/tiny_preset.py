"""The preset `tiny` from nothing to its RAG card, with several seeds: what the card promises, and how long it took.

    python -m bench.tiny_preset --output data/tiny_preset

Each seed has a practice world, a tokenizer, a model and a card of its own. Stopped and started again it goes on.
"""

import json
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.stages import run_stages
from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config


@dataclass(frozen=True, kw_only=True)
class TinyPresetConfig:
    output: str = "data/tiny_preset"  # working folder: data, checkpoints, cards
    seeds: tuple[int, ...] = (0, 1, 2)  # one model each
    suite: str = "full"               # of the card: quick or full
    at_once: int = 1                  # models trained at the same time, the threads shared among them
    results: str = "bench/results/tiny_preset.json"  # where the numbers go


CONFIG = TinyPresetConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.tiny_preset", description=__doc__ or "")
    with ThreadPoolExecutor(config.at_once) as pool:
        cards = list(pool.map(lambda seed: one(config, seed), config.seeds))
    results = {"suite": config.suite, "at_once": config.at_once, "seeds": dict(zip(map(str, config.seeds), cards))}
    write_json(Path(config.results), results | {"numbers": summary(cards)})
    for name, number in results_table(cards):
        print0(f"{name:64} {number}")
    return 0


def one(config: TinyPresetConfig, seed: int) -> dict[str, Any]:
    """The chain of one seed; its card with the minutes of every stage."""
    work = Path(config.output) / f"seed_{seed}"
    world, tag = work / "world", f"tiny-{seed}"
    texts = ",".join(str(world / name) for name in ("documents.jsonl", "queries_train.jsonl"))
    stages = {
        "world": ["scripts.prepare_rag_dataset", "--mode", "world", "--output", str(world), "--seed", str(100 + seed),
                  "--retriever_type", "bm25"],
        "tokenizer": ["scripts.tok_train", "--input", texts, "--output", str(work / "tokenizer"), "--vocab_size",
                      "2048"],
        "base": ["scripts.base_train", "configs/tiny_base.py", "--tokenizer", str(work / "tokenizer"), "--input", texts,
                 "--seed", str(seed), "--tag", tag, "--resume", "true"],
        "mid": ["scripts.mid_train", "configs/tiny_mid.py", "--seed", str(seed), "--tag", tag, "--resume", "true"],
        "rag": ["scripts.rag_finetune", "configs/tiny_rag.py", "--knowledge_base", str(world / "knowledge_base"),
                "--cloze_per_document", "0", "--seed", str(seed), "--tag", tag, "--resume", "true"],
        "card": ["scripts.rag_eval", "--suite", config.suite, "--tag", tag, "--output", str(work / "card")],
    }
    environment = {"NANOCHAT_BASE_DIR": str(work / "base")}
    if config.at_once > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // config.at_once))
    minutes = run_stages(stages, work, f"seed {seed}", environment)
    (path,) = (work / "base" / "checkpoints" / "rag" / tag).glob("*/card.json")
    card = json.loads(path.read_text(encoding="utf-8"))
    return {"minutes": minutes, "thresholds": card["thresholds"], "answer_threshold": card["answer_threshold"],
            "summary": card["summary"]}


def summary(cards: list[dict[str, Any]]) -> dict[str, Any]:
    """Every threshold's number over the seeds: mean, least and most."""
    lines = [{line["number"]: line["estimate"] for line in card["thresholds"]["lines"]} for card in cards]
    found = {}
    for name in lines[0]:
        values = [each[name]["value"] for each in lines if each.get(name)]
        if values:
            found[name] = {"mean": statistics.fmean(values), "least": min(values), "most": max(values)}
    return found


def results_table(cards: list[dict[str, Any]]) -> list[tuple[str, str]]:
    bounds = {line["number"]: line["bound"] for line in cards[0]["thresholds"]["lines"]}
    table = [(f"{name} {bounds[name]}", f"{v['mean']:.3f} ({v['least']:.3f} ... {v['most']:.3f})")
             for name, v in summary(cards).items()]
    total = [sum(card["minutes"].values()) for card in cards]
    return [*table, ("minutes from nothing to the card", " ".join(f"{value:.0f}" for value in total))]


if __name__ == "__main__":
    raise SystemExit(run_main(main))
