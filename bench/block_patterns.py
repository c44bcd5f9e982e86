"""Where should attention stand? Tiny models with the same parameters and tokens on recall, four layers in each pattern.

    python -m bench.block_patterns --tasks mqar,recall --seeds 3

mqar: multi-query associative recall as in Arora et al. 2023, "Zoology", arXiv:2312.04927: pairs of random tokens, then
all keys again in another order; the value after each is supervised. recall: the practice stage of `mid_train`, facts
of generated worlds with a vocabulary learned from them. Measured are the steps until 90 % of the answers are right, on
sequences that training does not show. Prints a table and writes bench/results/block_patterns.json.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config
from nanochat.errors import ConfigError

PATTERNS = {"first": "T,M,M,M", "spread": "M,M,T,M", "last": "M,M,M,T", "first two": "T,T,M,M", "spread two": "M,T,M,T",
            "mamba": "M,M,M,M", "attention": "T,T,T,T"}
T_QUANTILE = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided 95 % of Student's t by number of seeds
KEYS = 256  # keys of mqar, and as many values
GOAL, EVERY = 0.9, 10  # share of right answers that ends a run; steps between looks


@dataclass(frozen=True, kw_only=True)
class BlockPatternsConfig:
    tasks: str = "mqar,recall"        # comma-separated: mqar, recall
    patterns: str = ",".join(PATTERNS)  # names of patterns
    seeds: int = 3                    # runs of each
    mqar_steps: int = 120             # most steps of mqar, 32 rows of 128 tokens each
    recall_steps: int = 160           # most steps of recall, 16 examples each
    width: int = 64                   # model width
    convs: str = "4,0"                # kernels of the convolution on q, k, v to try
    output: str = "bench/results/block_patterns.json"  # file to write


CONFIG = BlockPatternsConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.block_patterns", description=__doc__ or "")
    tasks = {"mqar": run_mqar, "recall": run_recall}
    names = config.tasks.split(",")
    if unknown := sorted({*names} - {*tasks}):
        raise ConfigError(f"Unknown task {unknown[0]!r}", hint=f"choose from {', '.join(tasks)}")
    rows: list[dict[str, Any]] = []
    for task in names:
        for conv in map(int, config.convs.split(",")):
            for name in config.patterns.split(","):
                # a convolution on q, k, v changes nothing where there is no attention
                if name == "mamba" and conv == 0 and "4" in config.convs:
                    continue
                for seed in range(config.seeds):
                    begin = time.process_time()
                    result = tasks[task](config, PATTERNS[name], conv, seed)
                    rows.append({"task": task, "conv": conv, "pattern": name, "letters": PATTERNS[name], "seed": seed,
                                 **result, "cpu_seconds": round(time.process_time() - begin, 1)})
                    print0(rows[-1])
    write_json(Path(config.output), {"settings": {key: value for key, value in vars(config).items() if key[0] != "_"},
                                     "rows": rows, "table": table(rows)})
    for row in table(rows):
        print0(f"{row['task']:7} conv {row['conv']} {row['pattern']:11} {row['letters']:8} {row['parameters']:>8,} "
               f"steps {row['steps']:4.0f} ± {row['steps_interval']:2.0f} ({row['reached']} of {row['seeds']} there), "
               f"right at the end {row['accuracy']:.2f} ± {row['accuracy_interval']:.2f}")
    return 0


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per task, convolution and pattern: means over seeds, and half of their 95 % intervals.

    A run that did not get there counts with all its steps, so that the mean is then a lower bound.
    """
    found = []
    for key in dict.fromkeys((row["task"], row["conv"], row["pattern"]) for row in rows):
        own = [row for row in rows if (row["task"], row["conv"], row["pattern"]) == key]
        steps, steps_interval = mean_and_interval([row["steps"] for row in own])
        accuracy, accuracy_interval = mean_and_interval([row["accuracy"] for row in own])
        found.append({
            "task": key[0], "conv": key[1], "pattern": key[2], "letters": own[0]["letters"],
            "parameters": own[0]["parameters"], "seeds": len(own), "reached": sum(row["reached"] for row in own),
            "steps": round(steps, 1), "steps_interval": round(steps_interval, 1),
            "accuracy": round(accuracy, 3), "accuracy_interval": round(accuracy_interval, 3),
            "cpu_seconds": round(sum(row["cpu_seconds"] for row in own), 1),
        })
    return found


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of the 95 % interval of the mean; 0 for a single value."""
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return mean, T_QUANTILE.get(len(values), 0.0) * spread / len(values) ** 0.5


def shape(config: BlockPatternsConfig, letters: str, conv: int, **sizes: Any) -> Any:
    """A shape with as many parameters as four M layers with an MLP of twice the width; the MLP makes up for mixers."""
    from nanochat.model import ModelConfig
    from nanochat.training.shape import count_parameters

    base = ModelConfig(block_pattern="M,M,M,M", n_embd=config.width, n_head=4, n_kv_head=4, mlp_hidden=2 * config.width,
                       d_state=32, headdim=32, chunk_size=32, attention_conv=conv, init_std=0.1,
                       embedding_multiplier=8.0, **sizes)
    wanted = count_parameters(base)
    shapes = [replace(base, block_pattern=letters, mlp_hidden=hidden) for hidden in range(8, 6 * config.width, 4)]
    return min(shapes, key=lambda one: abs(count_parameters(one) - wanted))


def steps_until(model: Any, batches: Any, steps: int, accuracy: Any, *, group: range = range(0)) -> dict[str, Any]:
    """Train with the default rates of base_train until accuracy(step) is GOAL, asked every EVERY steps."""
    from functools import partial

    from nanochat.training import build_optimizer, fit, language_model_loss, warmup_stable_decay

    optimizer = build_optimizer(model, matrix_lr=9e-3, embedding_lr=3e-3, scalar_lr=3e-3)
    result = fit(
        model, batches, partial(language_model_loss, group=group), optimizer, num_steps=steps, log_every=0,
        schedule=warmup_stable_decay(steps, 30, 0.0), log=lambda record: None, eval_every=EVERY,
        evaluate=lambda step: {"accuracy": accuracy(step)}, stop=lambda step, metrics: metrics["accuracy"] >= GOAL,
    )
    last = result["metrics"]["accuracy"]
    return {"steps": result["step"], "reached": last >= GOAL, "accuracy": round(last, 4),
            "parameters": model.num_parameters}


def run_mqar(config: BlockPatternsConfig, letters: str, conv: int, seed: int) -> dict[str, Any]:
    """Right is a value that is the likeliest token."""
    import torch

    from nanochat.model import LanguageModel

    torch.set_num_threads(1)
    model = LanguageModel(shape(config, letters, conv, vocab_size=2 * KEYS, sequence_len=128), seed=seed)
    test = mqar_batch("test", rows=32, pairs=32)

    @torch.no_grad()
    def accuracy(step: int) -> float:
        model.eval()
        return (model(test.ids).argmax(-1) == test.targets)[test.supervised()].float().mean().item()

    return steps_until(model, lambda step, micro: mqar_batch(f"{seed}:{step}", rows=32, pairs=32), config.mqar_steps,
                       accuracy)


def mqar_batch(seed: str, *, rows: int, pairs: int) -> Any:
    """rows x (4 * pairs) tokens: key value key value ..., then the same pairs in another order, values supervised."""
    import random

    import torch

    from nanochat.training import Batch

    rng = random.Random(seed)
    ids, targets = [], []
    for _ in range(rows):
        keys = rng.sample(range(KEYS), pairs)
        values = {key: KEYS + rng.randrange(KEYS) for key in keys}
        again = rng.sample(keys, pairs)
        ids.append([part for key in (*keys, *again) for part in (key, values[key])])
        targets.append([-1] * (2 * pairs) + [part for key in again for part in (values[key], -1)])
    return Batch(ids=torch.tensor(ids), targets=torch.tensor(targets))


def run_recall(config: BlockPatternsConfig, letters: str, conv: int, seed: int) -> dict[str, Any]:
    """Right is a value that is right in full, on held-out worlds."""
    import torch

    from nanochat.model import LanguageModel
    from nanochat.rag.curriculum import Curriculum
    from nanochat.tokenizer import Tokenizer
    from tasks.worlds import WorldConfig, make_world

    torch.set_num_threads(1)
    world = make_world(WorldConfig(seed=1, num_entities=300, questions_per_entity=1))
    texts = [f" {text}" for record in world.documents for text in (record["title"], record["content"])]
    tokenizer = Tokenizer.train(texts, 1024)
    practice = Curriculum(["recall"], tokenizer, seed=seed, row_len=256, examples_per_step=16, context_weight=0.1,
                          retriever_type="simple")
    model = LanguageModel(shape(config, letters, conv, vocab_size=tokenizer.vocab_size, sequence_len=256), seed=seed)
    return steps_until(model, practice.batches, config.recall_steps,
                       lambda step: practice.evaluate(model, step)["accuracy"], group=tokenizer.doc_ids)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
