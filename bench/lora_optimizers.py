"""Which optimizer trains LoRA adapters best: AdamW or Muon, each at several rates, on one task from one model.

    python bench/lora_optimizers.py

A small hybrid learns to copy, then to recall facts with adapters of rank 8 (all other weights frozen), with all weights
trained for comparison. The number is the mean loss of the last 20 steps, lower is better; the same batches for all.
"""

import argparse
import copy
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

from nanochat.model import LanguageModel, ModelConfig  # noqa: E402
from nanochat.rag.curriculum import Curriculum  # noqa: E402
from nanochat.tokenizer import Tokenizer  # noqa: E402
from nanochat.training import CombinedOptimizer, build_optimizer, fit, language_model_loss  # noqa: E402
from nanochat.training.lora import LoraSettings, add_adapters  # noqa: E402
from nanochat.training.muon import Muon  # noqa: E402
from nanochat.training.optim import parameter_groups  # noqa: E402
from tasks.worlds import WorldConfig, make_world  # noqa: E402

ROW_LEN, LAST = 192, 20


def curriculum(stage: str, tokenizer: Tokenizer) -> Curriculum:
    return Curriculum([stage], tokenizer, seed=1, row_len=ROW_LEN, examples_per_step=6, context_weight=0.1,
                      retriever_type="simple")


def with_muon(model: LanguageModel, lr: float) -> CombinedOptimizer:
    """Adapters by Muon, the reserved rows by AdamW."""
    groups = parameter_groups(model)
    muon = Muon([{"params": list(groups["adapter"].values()), "lr": lr, "weight_decay": 0.0, "name": "adapter"}])
    rows = {"params": list(groups["embedding"].values()), "lr": 3e-3, "weight_decay": 0.0, "name": "embedding"}
    return CombinedOptimizer([muon, torch.optim.AdamW([rows], betas=(0.9, 0.95), fused=True)], groups)


def tune(base: LanguageModel, tokenizer: Tokenizer, steps: int, kind: str, lr: float, seed: int) -> float:
    """Mean loss of the last steps."""
    model = copy.deepcopy(base)
    if kind != "all weights":
        add_adapters(model, LoraSettings(rank=8, alpha=16.0, row_ids=tuple(range(64))), seed=seed)
    optimizer = {
        "AdamW": lambda: build_optimizer(model, adapter_lr=lr),
        "Muon": lambda: with_muon(model, lr),
        "all weights": lambda: build_optimizer(model, matrix_lr=lr),
    }[kind]()
    result = fit(model, curriculum("recall", tokenizer).batches, language_model_loss, optimizer, num_steps=steps,
                 log=lambda record: None)
    return statistics.mean(result["losses"][-LAST:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--base_steps", type=int, default=150)
    parser.add_argument("--output", default="bench/results/lora_optimizers.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = [document["content"] for document in make_world(WorldConfig(seed=5)).documents]
    tokenizer = Tokenizer.train(texts, 800)
    base = LanguageModel(ModelConfig(block_pattern="T,M", vocab_size=tokenizer.vocab_size, n_embd=64, n_head=4,
                                     n_kv_head=4, mlp_hidden=96, attention_conv=4, d_state=16, headdim=32, init_std=0.1,
                                     embedding_multiplier=8.0))
    fit(base, curriculum("copy", tokenizer).batches, language_model_loss, build_optimizer(base, matrix_lr=9e-3),
        num_steps=options.base_steps, log=lambda record: None)
    rows: list[dict[str, Any]] = []
    print(f"{'trained by':<14}{'rate':>8}{'loss':>10}")
    for kind, rates in {"AdamW": (1e-3, 3e-3, 1e-2, 3e-2), "Muon": (3e-3, 1e-2, 3e-2, 1e-1),
                        "all weights": (9e-3,)}.items():
        for lr in rates:
            rows.append({"trained_by": kind, "rate": lr, "loss": tune(base, tokenizer, options.steps, kind, lr, 0)})
            print(f"{kind:<14}{lr:>8g}{rows[-1]['loss']:>10.3f}", flush=True)
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"steps": options.steps, "rank": 8, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
