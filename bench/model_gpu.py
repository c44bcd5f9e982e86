"""The hybrid model on a GPU beside transformers on the same weights: training, decoding, prefill, and each kernel.

    python -m bench.model_gpu                 # all tables, under 9 minutes on a large GPU
    python -m bench.model_gpu --tiny true     # the same with tiny models on any device, in seconds

Every figure is written to the JSON file as soon as it is known, so a run that is cut keeps what it has. Figures are
medians; MFU counts the operations of nanochat.training.flops over the vendor's peak; the limit of decoding is the bytes
a step must read (weights, states, keys) over the bandwidth of a large copy measured in the same run.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanochat.common import print0, run_main, write_json
from nanochat.config import load_config


@dataclass(frozen=True, kw_only=True)
class ModelGpuConfig:
    tiny: bool = False                # tiny models and lengths, on the CPU too
    device: str = "auto"              # where to measure
    models: str = ""                  # sizes by commas; empty: all
    parts: str = "machine,choices,kernels,decode,training,prefill,compiled"  # tables to fill, in this order
    minutes: float = 8.0              # no new figure is begun after this
    output: str = ""                  # where the numbers go; empty: bench/results/model_gpu.json, nowhere when tiny


CONFIG = ModelGpuConfig
# name -> shape; the two larger ones are those of Granite 4.0 H 350M and 1B
SHAPES: dict[str, dict[str, Any]] = {
    "50M": dict(block_pattern=("M,M,M,T," * 3).strip(","), vocab_size=16384, n_embd=512, n_head=8, n_kv_head=2,
                mlp_hidden=1408, d_state=64, headdim=32, chunk_size=64),
    "350M": dict(block_pattern=tuple("T" if i in (10, 13, 17, 27) else "M" for i in range(32)), vocab_size=100352,
                 n_embd=768, n_head=12, n_kv_head=4, mlp_hidden=2048, d_state=128, headdim=32, chunk_size=256,
                 embedding_multiplier=12.0, logits_scaling=3.0, residual_multiplier=0.263,
                 attention_multiplier=1 / 64),
    "1B": dict(block_pattern=tuple("T" if i in (5, 15, 25, 35) else "M" for i in range(40)), vocab_size=100352,
               n_embd=1536, n_head=12, n_kv_head=4, mlp_hidden=4096, d_state=128, headdim=64, chunk_size=256,
               embedding_multiplier=12.0, logits_scaling=6.0, residual_multiplier=0.22, attention_multiplier=1 / 128),
}
TINY = {"tiny": dict(block_pattern="M,T", vocab_size=64, n_embd=32, n_head=4, n_kv_head=2, mlp_hidden=48, d_state=16,
                     headdim=16, chunk_size=16)}


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: dict[str, int]  # of a training step, per model
    row_len: int
    batches: tuple[int, ...]  # rows that decode together
    prompt: int
    decoded: int  # tokens per row
    lengths: tuple[int, ...]  # of prefill
    scans: tuple[tuple[int, ...], ...]  # rows, tokens, heads, size, state of the scan
    repeats: int


LARGE = Sizes(rows={"50M": 16, "350M": 8, "1B": 4}, row_len=2048, batches=(1, 32), prompt=512, decoded=64,
              lengths=(1024, 4096, 16384, 65536), repeats=5,
              scans=((8, 2048, 48, 32, 128), (4, 2048, 48, 64, 128), (16, 2048, 32, 32, 64)))
SMALL = Sizes(rows={"tiny": 2}, row_len=32, batches=(1, 3), prompt=8, decoded=3, lengths=(16, 32), repeats=2,
              scans=((1, 24, 2, 16, 16),))


class Report:
    """Figures by table, written after each; `measure` notes what failed or had no time, and goes on."""

    def __init__(self, head: dict[str, Any], path: str, deadline: float) -> None:
        self.record, self.path, self.deadline = head, path, deadline

    def measure(self, table: str, row: dict[str, Any], figures: Callable[[], dict[str, Any]]) -> None:
        """Add one row to a table."""
        import torch

        if time.monotonic() > self.deadline:
            row = row | {"skipped": "no time left"}
        else:
            start = time.monotonic()
            try:
                row = row | figures()
            except torch.OutOfMemoryError:
                row = row | {"skipped": "out of memory"}
            except ModuleNotFoundError as missing:
                row = row | {"skipped": f"{missing.name} is not installed"}
            except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
                # one figure that cannot be had must not cost the others
                row = row | {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
            row["measured_in_s"] = round(time.monotonic() - start, 1)
        self.record.setdefault(table, []).append(row)
        print0(f"{table:9} " + "  ".join(f"{name} {_short(value)}" for name, value in row.items()))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.path:
            write_json(self.path, self.record)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: list[str]) -> int:
    config = load_config(CONFIG, argv, prog="bench.model_gpu", description=__doc__ or "")
    start = time.monotonic()
    import torch

    from bench import model_gpu_parts as parts
    from bench.model_gpu_models import versions
    from nanochat.device import pick_device
    from nanochat.model import ModelConfig, kernels

    device = pick_device(config.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    head = {"command": "python -m bench.model_gpu" + (" --tiny true" if config.tiny else ""), "device": name,
            "python": platform.python_version(), "torch": torch.__version__, "chosen": kernels.describe(),
            "versions": versions()}
    print0(str(head))
    path = config.output or ("" if config.tiny else "bench/results/model_gpu.json")
    report = Report(head, path, start + 60 * config.minutes)
    sizes, shapes = (SMALL, TINY) if config.tiny else (LARGE, SHAPES)
    wanted = [model for model in config.models.split(",") if model] or list(shapes)
    models = {model: ModelConfig(sequence_len=max(*sizes.lengths, sizes.row_len), **shapes[model]) for model in wanted}
    tables: dict[str, Callable[..., None]] = {
        "machine": parts.machine, "kernels": parts.kernel_times, "decode": parts.decode, "training": parts.training,
        "prefill": parts.prefill, "choices": parts.choices, "compiled": parts.compiled}
    for table in config.parts.split(","):
        tables[table](report, models, sizes, device)
    print0(f"{time.monotonic() - start:.0f} s" + (f", written to {path}" if path else ""))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
