"""Floating-point operations of a training step, attention scores and SSD included, and what a device could do.

A multiplication and an addition count as two, matrix products and convolutions only, as is usual for MFU (Chowdhery et
al. 2022, arXiv:2204.02311). The backward pass costs twice the forward; what activation checkpointing computes again is
not counted, since it is no progress.
"""

import functools
import time
from typing import TYPE_CHECKING

from nanochat.model.config import ModelConfig
from nanochat.training.shape import adapter_parameters

if TYPE_CHECKING:
    import torch

    from nanochat.training.lora import LoraSettings

# dense tensor-core peaks in 1e12 operations a second as the vendors give them: float32 (as TF32), bfloat16
GPU_PEAKS: dict[str, tuple[float, float]] = {
    "GB200": (1250, 2500), "B200": (1125, 2250), "GH200": (494.7, 989.4), "H200": (494.7, 989.4),
    "H100": (494.7, 989.4), "H100 PCIe": (378, 756), "H20": (74, 148), "A100": (156, 312), "A800": (156, 312),
    "A40": (74.8, 149.7), "A30": (82, 165), "A10": (62.5, 125), "L40S": (183, 362), "L40": (90.5, 181), "L4": (60, 121),
    "T4": (8.1, 65), "V100": (15.7, 125), "RTX 6000 Ada": (91.1, 364), "RTX A6000": (77.4, 154.8),
    "RTX 5090": (104.8, 209.5), "RTX 4090": (82.6, 165.2), "RTX 4080": (48.7, 97.5), "RTX 4070": (29.1, 58.3),
    "RTX 4060": (15.1, 30.2), "RTX 3090": (35.6, 71), "RTX 3080": (29.8, 59.5), "RTX 3070": (20.3, 40.6),
    "RTX 3060": (12.7, 25.5), "MI300X": (653.7, 1307.4), "MI250X": (95.7, 383),
}
MEASURE_SECONDS = 0.25


def forward_flops(config: ModelConfig, row_len: int) -> dict[str, float]:
    """Operations of one token's forward in rows of `row_len` tokens, by part.

    Attention counts the causal half of the scores. The scan counts what `ssd_chunked` multiplies: C B^T and its product
    with the values inside chunks, the chunks' states, and what states add to the outputs.
    """
    num_attention, num_mamba = config.block_pattern.count("T"), config.block_pattern.count("M")
    head_dim, inner, state = config.attention_head_dim, config.d_inner, config.d_state
    query, keys = config.n_head * head_dim, 2 * config.n_kv_head * head_dim
    chunk = min(config.chunk_size, row_len)
    channels = inner + 2 * config.n_groups * state
    # a last chunk that is not full is computed in full
    filled = -(-row_len // chunk) * chunk / row_len
    attention = 2 * config.n_embd * (query + keys) + 2 * query * config.n_embd
    mamba = 2 * config.n_embd * (inner + channels + config.n_mamba_head) + 2 * inner * config.n_embd
    mlp = 6 * config.n_layer * config.n_embd * config.mlp_hidden
    scan = 2 * chunk * (config.n_groups * state + inner) + 2 * 2 * inner * state
    return {
        "matrices": num_attention * attention + num_mamba * mamba + mlp,
        "attention": num_attention * 2 * 2 * query * (row_len + 1) / 2,
        "scan": num_mamba * scan * filled,
        "convolution": 2 * num_mamba * channels * config.d_conv
        + 2 * num_attention * (query + keys) * config.attention_conv,
        "head": 2.0 * config.n_embd * config.vocab_size,
    }


def flops_per_token(config: ModelConfig, row_len: int, lora: "LoraSettings | None" = None) -> float:
    """Operations of one trained token, forward and backward, in rows of `row_len` tokens.

    With LoRA the adapters' own are added, and frozen weights have no gradient to be computed.
    """
    parts = forward_flops(config, row_len)
    if lora is None:
        return 3 * sum(parts.values())
    each = adapter_parameters(config, lora.rank)
    own = 2 * (sum(each[letter] for letter in config.block_pattern) + len(lora.row_ids) * config.n_embd)
    frozen = parts["matrices"] + parts["convolution"] + (0 if lora.train_embeddings else parts["head"])
    return 3 * (sum(parts.values()) + own) - frozen


def peak_flops(device: "torch.device", dtype: "torch.dtype | str") -> float:
    """Operations a second that matrix products can reach on this device; 0 for a GPU that the table does not know.

    A CPU is measured once per process, with as many threads as torch uses now.
    """
    import torch

    kind = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    if device.type == "cuda":
        return gpu_peak(torch.cuda.get_device_name(device), is_half=kind.itemsize == 2)
    return _measured_peak(device.type, kind, torch.get_num_threads())


def gpu_peak(name: str, *, is_half: bool) -> float:
    """Peak of a GPU by its name, "NVIDIA H100 80GB HBM3"; the longest known name that fits counts, 0 when none does."""
    words = set(name.lower().replace("-", " ").split())
    fitting = [known for known in GPU_PEAKS if set(known.lower().split()) <= words]
    return GPU_PEAKS[max(fitting, key=len)][is_half] * 1e12 if fitting else 0.0


@functools.cache
def _measured_peak(device: str, dtype: "torch.dtype", threads: int) -> float:
    """The fastest of some matrix products, as many as fit into MEASURE_SECONDS."""
    import torch

    size = 512
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + MEASURE_SECONDS
    left @ right
    while time.perf_counter() < end:
        begin = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best if best < float("inf") else 0.0
