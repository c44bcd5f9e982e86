"""Estimated against measured memory of a training step on a CPU, one process per shape.

    python -m bench.memory --output bench/results/memory.json

Measured is the growth of the process's peak resident memory from before the model is made until after some steps.
"""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config

VOCAB = 4096
# name -> settings of the shape beside the dial's, rows, row length, other options of `estimate`
SHAPES: dict[str, dict[str, Any]] = {
    "1M spread": {"depth": 2, "rows": 8},
    "1M attention": {"depth": 2, "rows": 8, "pattern": "attention"},
    "1M mamba": {"depth": 2, "rows": 8, "pattern": "mamba"},
    "5M spread": {"depth": 4, "rows": 4},
    "5M bfloat16": {"depth": 4, "rows": 4, "dtype": "bfloat16"},
    "5M checkpointing": {"depth": 4, "rows": 8, "checkpointing": True},
    "5M accumulating": {"depth": 4, "rows": 2, "accumulates": True},
    "5M attention": {"depth": 4, "rows": 4, "pattern": "attention"},
    "14M spread": {"depth": 6, "rows": 2},
    "33M spread": {"depth": 8, "rows": 1},
    "33M wide vocabulary": {"depth": 8, "rows": 1, "vocab": 32768, "row_len": 512},
    "50M no convolution": {"depth": 9, "rows": 1, "conv": 0, "row_len": 512},
}


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    shapes: str = ",".join(SHAPES)    # comma-separated names
    output: str = ""                  # JSON file to write; empty: print only
    child: str = ""                   # measure this shape in this process


CONFIG = MemoryConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.memory", description=__doc__ or "")
    if config.child:
        print0(json.dumps(measure(**SHAPES[config.child])))
        return 0
    rows = []
    for name in config.shapes.split(","):
        # large freed blocks go back to the system, as torch's own accounting would have it
        done = subprocess.run([sys.executable, "-m", "bench.memory", "--child", name], capture_output=True, text=True,
                              check=True, env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "0"})
        row = {"shape": name, **json.loads(done.stdout.strip().splitlines()[-1])}
        rows.append(row)
        print0(f"{name:22} {row['parameters']:>11,} parameters, {row['tokens']:>6,} tokens: estimated "
               f"{row['estimated'] / 1e6:7.0f} MB, measured {row['measured'] / 1e6:7.0f} MB, ratio {row['ratio']:.2f}")
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print0(f"Worst: {worst:.0%} off")
    if config.output:
        write_json(Path(config.output), {"rows": rows, "worst": worst})
    return 0


def measure(
    *, depth: int, rows: int, pattern: str = "spread", dtype: str = "float32", checkpointing: bool = False,
    accumulates: bool = False, vocab: int = VOCAB, row_len: int = 0, conv: int = 4,
) -> dict[str, Any]:
    """Estimate one shape, then train it for two steps; sizes in bytes."""
    import torch

    from nanochat.model import LanguageModel, ModelConfig
    from nanochat.training.memory import estimate
    from nanochat.training.shape import dial_shape, expand_pattern

    config = ModelConfig(vocab_size=vocab, block_pattern=expand_pattern(pattern, depth, 0.25), attention_conv=conv,
                         **dial_shape(depth))
    row_len = row_len or config.sequence_len
    guess = estimate(config, rows=rows, row_len=row_len, dtype=dtype, checkpointing=checkpointing,
                     accumulates=accumulates)
    # what torch keeps for itself is not part of the growth
    small = ModelConfig(vocab_size=64, block_pattern="M,T", n_embd=32, n_head=2, n_kv_head=1, headdim=16)
    train(LanguageModel(small), 1, 64, dtype, False)
    before = resident_bytes()
    model = LanguageModel(config)
    model.checkpointing = checkpointing
    with torch.random.fork_rng():
        train(model, rows, row_len, dtype, accumulates)
    measured = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {"parameters": model.num_parameters, "tokens": rows * row_len, "estimated": round(guess.total),
            "measured": measured, "ratio": round(guess.total / measured, 3)}


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def train(model: Any, rows: int, row_len: int, dtype: str, accumulates: bool) -> None:
    """Two optimizer steps on random packed rows."""
    from contextlib import nullcontext

    import torch

    from nanochat.training import Batch, build_optimizer, language_model_loss

    optimizer = build_optimizer(model)
    for _ in range(2):
        for _ in range(1 + accumulates):
            ids = torch.randint(0, model.config.vocab_size, (rows, row_len))
            batch = Batch(ids=ids, targets=ids.roll(-1, 1), seq_idx=(torch.arange(row_len) // 100).expand(rows, -1))
            with nullcontext() if dtype == "float32" else torch.autocast("cpu", getattr(torch, dtype)):
                loss = language_model_loss(model, batch, group=range(8, 40)).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    raise SystemExit(run_main(main))
