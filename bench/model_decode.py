"""Decoding on a CPU: the compiled path by the plain path, by transformers, and by the memory's limit, in one run.

    python -m bench.model_decode [SIZE ...]

One thread, least processor seconds of works taken in turns, so that other processes count little. A work is a forward
of T tokens for each of B rows behind 256 or more others, logits included. Figures: bench/results/model_decode.json.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.model_cpu_peer import SIZES, fastest, peer_of, twin_of
from nanochat.device import use_fast_products
from nanochat.model import LanguageModel
from nanochat.model.cpu import native

RESULT = Path(__file__).parent / "results" / "model_decode.json"
SHAPES = [(rows, length) for rows in (1, 8, 32) for length in (1, 2, 5, 9)]
PAST = 256
REPEATS = {"1M": 8, "5M": 6, "50M": 5}  # turns
IN_A_ROW = {"1M": 6, "5M": 3, "50M": 1}  # forwards per turn, as decoding has them: what fits the caches stays there


def in_native(work: Callable[[], object], *, native_path: bool, fast: bool = True) -> Callable[[], object]:
    """The work with the path and the library of matrix products that it is to be measured with."""

    def run() -> None:
        os.environ["NANOCHAT_NATIVE"] = "1" if native_path else "0"
        torch.set_float32_matmul_precision("medium" if fast else "highest")
        work()

    return run


def peer_work(peer: Any, prompt: torch.Tensor, ids: torch.Tensor) -> Callable[[], object]:
    """One cached forward of transformers; its Mamba layers take one cached token at a time, so T of them one by one."""
    past = peer(prompt, use_cache=True).past_key_values

    def run() -> None:
        for place in range(ids.shape[1]):
            peer(ids[:, place : place + 1], past_key_values=past, use_cache=True)

    return run


def measure(model: LanguageModel, peer: Any, rows: int, length: int, repeats: int, times: int) -> dict[str, float]:
    """Milliseconds of each, and ratios."""
    generator = torch.Generator().manual_seed(0)
    vocab = model.config.vocab_size
    prompt = torch.randint(3, vocab, (rows, PAST), generator=generator)
    ids = torch.randint(3, vocab, (rows, length), generator=generator)
    cache = model.new_cache(rows)
    cache.reserve(PAST + 2 * length * times * (repeats + 1))
    model.features(prompt, cache)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]

    works = [in_native(lambda: model(ids, cache), native_path=True),
             in_native(lambda: model(ids, cache), native_path=False), lambda: [matrix.sum() for matrix in matrices]]
    if rows == 1 or length == 1:
        works.append(in_native(peer_work(peer, prompt, ids), native_path=False, fast=False))
    works = [lambda work=work: [work() for _ in range(times)] for work in works]
    ours, plain, reading, *theirs = [seconds / times for seconds in fastest(*works, repeats=repeats)]
    megabytes = sum(matrix.numel() for matrix in matrices) * 4e-6
    record = {"native_ms": ours * 1e3, "plain_ms": plain * 1e3, "plain_by_native": plain / ours,
              "reading_weights_gb_per_s": megabytes * 1e-3 / reading, "share_of_reading_weights": reading / ours,
              "tokens_per_s": rows * length / ours}
    if theirs:
        record |= {"transformers_ms": theirs[0] * 1e3, "transformers_by_native": theirs[0] / ours}
    return {name: round(value, 3) for name, value in record.items()}


@torch.inference_mode()
def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    use_fast_products()
    record: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in names or list(SIZES):
        peer = peer_of(SIZES[name])
        model = twin_of(peer)
        os.environ["NANOCHAT_NATIVE"] = "1"
        print(f"{name}: {native.describe(model)}\n{'B':>4}{'T':>4}{'native ms':>11}{'plain ms':>10}{'plain/native':>14}"
              f"{'transformers/native':>21}{'of reading':>12}")
        record[name] = {"parameters": model.num_parameters}
        for rows, length in SHAPES:
            figures = measure(model, peer, rows, length, REPEATS[name] if rows == 1 else 2,
                              IN_A_ROW[name])
            record[name][f"B{rows} T{length}"] = figures
            print(f"{rows:>4}{length:>4}{figures['native_ms']:>11.2f}{figures['plain_ms']:>10.2f}"
                  f"{figures['plain_by_native']:>14.2f}{figures.get('transformers_by_native', float('nan')):>21.2f}"
                  f"{figures['share_of_reading_weights']:>12.2f}", flush=True)
        RESULT.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
