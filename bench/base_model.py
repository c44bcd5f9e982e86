"""A hybrid and a transformer of equal size on the same tokens: curves, bits per byte on unseen text, recall probes.

    python -m bench.base_corpus --data ../shared/data --output data/base_corpus
    python -m bench.base_model --corpus data/base_corpus

Both train side by side, one thread each, in NANOCHAT_BASE_DIR; stopped and started again they go on. Writes the numbers
and the curves (docs/results/base_model.svg).
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import base_dir, print0, run_main, write_json, write_text
from nanochat.config import load_config
from nanochat.errors import UserError

SHARED = ("--n_embd 256 --n_head 4 --n_kv_head 4 --d_state 64 --headdim 64 --device_batch_size 8 --matrix_lr 5e-3 "
          "--embedding_lr 3e-3 --scalar_lr 3e-3 --decay_frac 0.4 --init_std 0.03 --embedding_multiplier 16 "
          "--validation_rows 128 --eval_every 200 --save_every 100 --log_every 20 --resume true").split()
MODELS = {  # the MLP makes up for the smaller mixers of the transformer: 6.55 and 6.57 million parameters
    "hybrid_6m": "--block_pattern T,M,T,M,T,M --mlp_hidden 512".split(),
    "transformer_6m": "--block_pattern T,T,T,T,T,T --mlp_hidden 624 --rope_theta 10000".split(),
}
PARTS = ("stories", "encyclopedia", "textbooks", "novels")
COLOURS = ("#2563a8", "#d08a1d")
WIDTH, HEIGHT, LEFT, TOP = 560, 260, 50, 30


@dataclass(frozen=True, kw_only=True)
class BaseModelConfig:
    corpus: str = "data/base_corpus"  # folder that bench.base_corpus wrote
    num_tokens: int = 2_400_000       # tokens of each run
    vocab_size: int = 8192            # ids of the tokenizer that is trained on the corpus
    output: str = "bench/results/base_model.json"  # where the numbers go
    plot: str = "docs/results/base_model.svg"      # where the curves go


CONFIG = BaseModelConfig


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.base_model", description=__doc__ or "")
    corpus = Path(config.corpus)
    if not (corpus / "train.jsonl").is_file():
        raise UserError(f"No corpus in {config.corpus}", hint="python -m bench.base_corpus --data ../shared/data")
    if not (base_dir() / "tokenizer").is_dir():
        script("tok_train", "--input", str(corpus / "train.jsonl"), "--vocab_size", str(config.vocab_size)).wait()
    runs = [script("base_train", "--input", str(corpus / "train.jsonl"), "--tag", tag, *SHARED, *own,
                   "--num_tokens", str(config.num_tokens)) for tag, own in MODELS.items()]
    if any(run.wait() for run in runs):
        raise UserError("A training run stopped early", hint="type the same command again: it goes on")
    measured = base_dir() / "base_model_eval.json"
    texts = ",".join(str(corpus / f"heldout_{part}.jsonl") for part in PARTS)
    first, second = MODELS
    done = script("base_eval", "--source", "base", "--tag", first, "--compare", f"base/{second}", "--input", texts,
                  "--output", str(measured), "--max_documents", "100", "--row_len", "512").wait()
    if done:
        raise UserError("The measurement stopped", hint="type the same command again")
    curves = {tag: curve(tag) for tag in MODELS}
    report = json.loads(measured.read_text(encoding="utf-8"))
    report["config"] = {"num_tokens": config.num_tokens, "vocab_size": config.vocab_size}
    write_json(config.output, {"corpus": json.loads((corpus / "corpus.json").read_text(encoding="utf-8")),
                               "settings": {tag: [*SHARED, *own] for tag, own in MODELS.items()},
                               "curves": curves, "measured": report})
    write_text(config.plot, plot(curves))
    print0(f"wrote {config.output} and {config.plot}")
    return 0


def script(name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A command of the project in a process of its own, on one thread."""
    return subprocess.Popen([sys.executable, "-m", f"scripts.{name}", *arguments],
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def curve(tag: str) -> dict[str, Any]:
    """Tokens, losses and bits per byte of a run, from its metrics file."""
    lines = (base_dir() / "metrics" / f"base_{tag}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if "tokens" in record]
    return {
        "tokens": [record["tokens"] for record in steps],
        "loss": [round(record["loss_answer"], 4) for record in steps],
        "tokens_per_s": sorted(record["tokens_per_s"] for record in steps)[len(steps) // 2],
        "wall_s": steps[-1]["elapsed_s"],
        "validation": [{"step": record["step"], "bits_per_byte": round(record["val_bits_per_byte"], 4)}
                       for record in records if "val_bits_per_byte" in record],
    }


def plot(curves: dict[str, dict[str, Any]]) -> str:
    """Training loss by tokens, one line per model."""
    most = max(max(one["tokens"]) for one in curves.values())
    shown = [loss for one in curves.values() for loss in one["loss"]]
    low, high = min(shown) - 0.2, min(max(shown), 8.0)

    def x(tokens: float) -> float:
        return round(LEFT + WIDTH * tokens / most, 1)

    def y(loss: float) -> float:
        return round(TOP + HEIGHT * (high - min(loss, high)) / (high - low), 1)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 150} {TOP + HEIGHT + 40}" '
             'role="img" aria-label="Training loss by tokens"><style>text{font:12px system-ui,sans-serif;fill:#556}'
             "line{stroke:#ccd}</style>",
             f'<text x="{LEFT}" y="{TOP - 12}">loss per token (nats) by tokens read</text>']
    for loss in range(int(low) + 1, int(high) + 1):
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y(loss)}" y2="{y(loss)}"/>'
                     f'<text x="{LEFT - 8}" y="{y(loss) + 4}" text-anchor="end">{loss}</text>')
    for part in range(5):
        parts.append(f'<text x="{x(most * part / 4)}" y="{TOP + HEIGHT + 20}" text-anchor="middle">'
                     f"{most * part / 4e6:.1f} M</text>")
    for place, (colour, (tag, one)) in enumerate(zip(COLOURS, curves.items())):
        path = " ".join(f"{x(tokens)},{y(loss)}" for tokens, loss in zip(one["tokens"], one["loss"]))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
                     f'<text x="{LEFT + WIDTH + 8}" y="{y(one["loss"][-1]) + 16 * place}" style="fill:{colour}">'
                     f"{tag}</text>")
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    raise SystemExit(run_main(main))
