"""The model on a CPU against transformers on the same weights, against the machine's limits, and under settings.

    python -m bench.model_cpu [SECTION ...]

Sections: machine peer parts chunks prefill settings compile memory; all without a name. One thread, processor seconds,
works in turns, so that other processes count little. Figures go to bench/results/model_cpu.json.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from bench.model_cpu_parts import chunk_sizes, machine, scan, small_parts
from bench.model_cpu_peer import SIZES, fastest, our_step, ours, peer_of, peer_step, twin_of
from nanochat.device import use_fast_products
from nanochat.model import LanguageModel, ModelConfig

RESULT = Path(__file__).parent / "results" / "model_cpu.json"
SCAN_SHAPES = {"1M": (8, 512, 8, 32, 32), "5M": (4, 512, 8, 64, 64), "50M": (1, 1024, 16, 64, 128)}
LENGTHS = (1024, 2048, 4096, 8192, 16384)
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "67108864"}
SETTINGS: dict[str, dict[str, str]] = {
    "as delivered": {}, "MKL products": {"BENCH_PRODUCTS": "highest"}, "denormals kept": {"BENCH_DENORMALS": "1"},
    "heap kept": ALLOCATOR, "large pages": {"THP_MEM_ALLOC_ENABLE": "1"},
    "heap kept, large pages": ALLOCATOR | {"THP_MEM_ALLOC_ENABLE": "1"}, "two threads": {"BENCH_THREADS": "2"},
    "bfloat16": {"BENCH_DTYPE": "bfloat16"},
}


@functools.cache
def _has_fast_products() -> bool:
    return use_fast_products()


def _set(fast: bool) -> None:
    torch.set_float32_matmul_precision("medium" if fast and _has_fast_products() else "highest")


def peer() -> dict[str, Any]:
    """Ours by transformers: training step, prefill of 2,048 tokens, one decoded token; both with each setting."""
    return {f"{name}, {label}": _compare(name, fast) for name in SIZES
            for label, fast in (("peer as installed", False), ("peer with our settings", True))}


def _compare(name: str, peer_is_fast: bool) -> dict[str, float]:
    size, figures = SIZES[name], {}
    other = peer_of(size)
    model = twin_of(other)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, size.vocab, (size.rows, size.row_len + 1), generator=generator)
    prompt = torch.randint(3, size.vocab, (1, 2048), generator=generator)
    with torch.no_grad():
        gap = (model(prompt[:, :64]) - other(prompt[:, :64]).logits).abs().max().item()
    assert gap < 1e-3, f"logits differ by {gap}"

    def pair(own: Any, others: Any, repeats: int) -> tuple[float, float]:
        def with_setting(work: Any, fast: bool) -> Any:
            return lambda: (_set(fast), work())

        mine, theirs = fastest(with_setting(own, True), with_setting(others, peer_is_fast), repeats=repeats)
        return round(1e3 * mine, 2), round(1e3 * theirs, 2)

    figures["step"] = pair(our_step(model, ids), peer_step(other, ids), 2 if size.width >= 512 else 4)
    model.zero_grad(), other.zero_grad()
    with torch.inference_mode():
        figures["prefill"] = pair(lambda: model.head(model.features(prompt, model.new_cache(1))[:, -1]),
                                  lambda: other(prompt, use_cache=True, logits_to_keep=1), 3)
        cache, past = model.new_cache(1), other(prompt[:, :256], use_cache=True).past_key_values
        model(prompt[:, :256], cache)
        figures["decode"] = pair(lambda: model(prompt[:, :1], cache),
                                 lambda: other(prompt[:, :1], past_key_values=past, use_cache=True), 24)
    record = {"logits_differ": gap, "parameters": model.num_parameters}
    for what, (mine, theirs) in figures.items():
        record |= {f"{what}_ms": mine, f"{what}_peer_ms": theirs, f"{what}_times": round(theirs / mine, 2)}
    return record | _limits(model, record, size.rows * size.row_len)


def _limits(model: LanguageModel, record: dict[str, Any], tokens: int) -> dict[str, float]:
    """Shares of the machine's limits, measured now and in turns: a product's peak, and reading every weight once."""
    _set(True)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    big, cache = torch.randn(1024, 1024), model.new_cache(1)
    ids = torch.zeros(1, 1, dtype=torch.long)
    rows = [torch.randn(1, matrix.shape[1]) for matrix in matrices]
    with torch.inference_mode():
        seconds, reading, products, product = fastest(
            lambda: model(ids, cache), lambda: [matrix.sum() for matrix in matrices],
            lambda: [F.linear(row, matrix) for row, matrix in zip(rows, matrices)], lambda: big @ big, repeats=40)
    needed = 6 * sum(matrix.numel() for matrix in matrices) * tokens / (2 * 1024**3 / product)
    return {"step_of_peak": round(1e3 * needed / record["step_ms"], 3),
            "decode_of_reading_weights": round(reading / seconds, 3),
            "decode_of_its_products": round(products / seconds, 3)}


def parts() -> dict[str, Any]:
    """The scan by its products and by plain chunks, with each library; convolution and norm by plain PyTorch."""
    figures: dict[str, Any] = {}
    for label, fast in (("oneDNN", True), ("MKL", False)):
        _set(fast)
        figures |= {f"scan {name}, {label}": scan(shape) for name, shape in SCAN_SHAPES.items()}
    return figures | small_parts()


def chunks() -> dict[str, Any]:
    """Milliseconds of the scan by chunk size."""
    _set(True)
    return {name: chunk_sizes(shape) for name, shape in SCAN_SHAPES.items()}


def prefill() -> dict[str, Any]:
    """Microseconds per token and bytes of state by length: only M blocks, one T in eight, only T blocks."""
    _set(True)
    figures = {}
    for pattern in ("MMMMMMMM", "MMMMTMMM", "TTTTTTTT"):
        model = LanguageModel(ModelConfig(block_pattern=tuple(pattern), vocab_size=4096, n_embd=256, n_head=4,
                                          n_kv_head=4, mlp_hidden=512, d_state=64, headdim=64))
        for length in LENGTHS:
            ids = torch.randint(4096, (1, length), generator=torch.Generator().manual_seed(0))
            caches = []

            def work(model: LanguageModel = model, ids: torch.Tensor = ids, caches: list = caches) -> None:
                caches[:] = [model.new_cache(1)]
                model.head(model.features(ids, caches[0])[:, -1])

            with torch.inference_mode():
                seconds = fastest(work, repeats=max(2, 8192 // length))[0]
            figures[f"{pattern} {length}"] = {"us_per_token": round(1e6 * seconds / length, 1),
                                              "state_bytes": caches[0].num_bytes}
    return figures


def _child(*words: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "bench.model_cpu", *words], env=os.environ | environment, text=True,
                          capture_output=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def settings() -> dict[str, Any]:
    """A training step of each size under one changed setting, each in a process of its own."""
    return {label: _child("one", "ours", "1M", "5M", **changes) for label, changes in SETTINGS.items()}


def memory() -> dict[str, Any]:
    """Peak MB that a training step adds to the loaded model, each in a process of its own."""
    return {name: {"ours_mb": _child("one", "ours", name)[name]["mb"],
                   "peer_mb": _child("one", "peer", name)[name]["mb"]} for name in SIZES}


def compiled() -> dict[str, Any]:
    """A training step and a decoded token with torch.compile on every block."""
    _set(True)
    return {name: _compile_one(SIZES[name]) for name in ("1M", "5M")}


def _compile_one(size: Any) -> dict[str, float]:
    from nanochat.training.precision import compile_blocks

    ids = torch.randint(3, size.vocab, (size.rows, size.row_len + 1), generator=torch.Generator().manual_seed(0))
    plain, quick = ours(size), ours(size)
    compile_blocks(quick.layers, "true", torch.device("cpu"))
    values = fastest(our_step(plain, ids), our_step(quick, ids), repeats=4)
    with torch.no_grad():
        caches = [plain.new_cache(1), quick.new_cache(1)]
        values += fastest(lambda: plain(ids[:1, :1], caches[0]), lambda: quick(ids[:1, :1], caches[1]), repeats=40)
    names = ("step_ms", "step_compiled_ms", "decode_ms", "decode_compiled_ms")
    return dict(zip(names, (round(1e3 * value, 2) for value in values)))


def one(which: str, *names: str) -> dict[str, Any]:
    """For child processes: the training step's milliseconds and added peak memory under the environment's settings."""
    _set(os.environ.get("BENCH_PRODUCTS") != "highest" and which == "ours")
    torch.set_flush_denormal("BENCH_DENORMALS" not in os.environ)
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))
    figures = {}
    for name in names:
        size = SIZES[name]
        ids = torch.randint(3, size.vocab, (size.rows, size.row_len + 1), generator=torch.Generator().manual_seed(0))
        work = our_step(ours(size), ids) if which == "ours" else peer_step(peer_of(size), ids)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        with torch.autocast("cpu", torch.bfloat16, enabled=os.environ.get("BENCH_DTYPE") == "bfloat16"):
            seconds = fastest(work, repeats=4 if which == "ours" else 1)[0]
        figures[name] = {"ms": round(1e3 * seconds, 1), "mb": round((_status("VmHWM") - before) / 1024)}
    return figures


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


SECTIONS = {"machine": machine, "peer": peer, "parts": parts, "chunks": chunks, "prefill": prefill,
            "settings": settings, "compile": compiled, "memory": memory}


def main(words: list[str]) -> int:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if words[:1] == ["one"]:
        print(json.dumps(one(*words[1:])))
        return 0
    record = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    record |= {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    for name in words or SECTIONS:
        print(f"\n{name}", flush=True)
        record[name] = SECTIONS[name]()
        for row, figures in record[name].items():
            cells = figures.items() if isinstance(figures, dict) else [("", figures)]
            print(f"  {row:32}" + "  ".join(f"{label} {value}" for label, value in cells), flush=True)
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
