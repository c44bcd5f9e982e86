"""The depth dial: one number that sets a model's width, heads, state, learning rates, batch and horizon.

Widths follow Granite 4.0 H, rates what was tuned at width 128 (docs/training.md), the horizon Hoffmann et al. 2022
(arXiv:2203.15556). Everything here is arithmetic; what a user gives by hand wins, see `scripts.base_train`.
"""

import math
from collections.abc import Mapping
from typing import Any

from nanochat.errors import ConfigError
from nanochat.model.config import ModelConfig

WIDTH_PER_LAYER = 64
HEAD_DIM = 64
TUNED_WIDTH = 128  # where the default learning rates were tuned
TOKENS_PER_PARAMETER = 20.0  # compute-optimal by Hoffmann et al. 2022
START_STD, START_MULTIPLIER = 0.042, 11.3  # of embeddings at TUNED_WIDTH
MIN_STEPS = 1000  # a horizon is not cut into fewer optimizer steps
BATCH_TOKENS = 2**19  # tokens of a step at BATCH_HORIZON; fewer by the power below
BATCH_HORIZON, BATCH_POWER = 2e9, 0.383  # Bergsma et al. 2025, "Power Lines", arXiv:2505.13738
MAX_ROWS_CPU, MAX_ROWS_GPU = 8, 64  # more rows at once do not make a device faster


def dial_shape(depth: int, *, width: int = 0) -> dict[str, Any]:
    """Settings of ModelConfig for a depth, all but the block pattern and the vocabulary; `width` other than 64 * depth.

    Raises ConfigError for a depth below 1.
    """
    if depth < 1:
        raise ConfigError(f"--depth is {depth}, must be at least 1", hint="for example --depth 4 on a CPU")
    width = width or WIDTH_PER_LAYER * depth
    heads = max(1, width // HEAD_DIM)
    scale = (width / TUNED_WIDTH) ** -0.5
    return {
        "n_embd": width,
        "n_head": heads,
        "n_kv_head": _kv_heads(heads),
        # 8/3 of the width: the gated MLP then has as many weights as a plain one of 4 widths (Shazeer 2020)
        "mlp_hidden": 64 * math.ceil(width * 8 / 3 / 64),
        "d_state": min(128, max(16, 2 ** int(math.log2(16 * depth)))),
        "headdim": 32 if depth < 8 else 64,
        "chunk_size": 64 if depth < 8 else 128,
        "sequence_len": 512 if depth < 4 else 1024 if depth < 12 else 2048,
        # logits start with the same spread at every width, and the residual stream with the same size
        "init_std": float(f"{START_STD * scale:.3g}"),
        "embedding_multiplier": float(f"{START_MULTIPLIER / scale:.3g}"),
    }


def _kv_heads(heads: int) -> int:
    """All below 8 heads, where a key/value cache is small anyway; from there the smallest divisor from heads / 4 on."""
    if heads < 8:
        return heads
    return next(count for count in range(math.ceil(heads / 4), heads + 1) if heads % count == 0)


def dial_rates(width: int, rates: Mapping[str, float]) -> dict[str, float]:
    """Learning rates tuned at TUNED_WIDTH, for another width: every one times (width / TUNED_WIDTH) ** -0.5.

    AdamW: as in nanochat. Muon: our updates have the root mean square of AdamW's, so that their spectral norm grows
    with the root of the width, and the rate has to take that back (Yang et al. 2023, arXiv:2310.17813).
    """
    scale = (width / TUNED_WIDTH) ** -0.5
    return {name: float(f"{rate * scale:.3g}") for name, rate in rates.items()}


def count_parameters(config: ModelConfig) -> int:
    """Parameters of LanguageModel(config), a tied embedding once."""
    return sum(part_parameters(config).values())


def part_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by part: embedding, head, norms, and the mixers and MLPs of all layers ("T", "M", "mlp")."""
    width, inner = config.n_embd, config.d_inner
    query, keys = config.n_head * config.attention_head_dim, 2 * config.n_kv_head * config.attention_head_dim
    attention = width * (query + keys) + query * width + (query + keys) * config.attention_conv
    attention += config.attention_bias * (query + keys + width)
    channels = inner + 2 * config.n_groups * config.d_state
    mamba = width * (inner + channels + config.n_mamba_head) + inner * width + channels * (config.d_conv +
                                                                                          config.conv_bias)
    mamba += 3 * config.n_mamba_head + inner + config.mamba_bias * (inner + channels + config.n_mamba_head + width)
    hidden = config.mlp_hidden
    mlp = 3 * width * hidden + config.mlp_bias * (2 * hidden + width) if hidden else 0
    norms = config.n_layer * (2 if hidden else 1) + 1
    return {
        "embedding": config.vocab_size * width,
        "head": 0 if config.tie_embeddings else config.vocab_size * width,
        "norms": norms * width,
        "T": config.block_pattern.count("T") * attention,
        "M": config.block_pattern.count("M") * mamba,
        "mlp": config.n_layer * mlp,
    }


def adapter_parameters(config: ModelConfig, rank: int) -> dict[str, int]:
    """Parameters of the LoRA adapters of one layer of each kind ("T", "M"), its MLP included; see training.lora."""
    width, inner, hidden = config.n_embd, config.d_inner, config.mlp_hidden
    query, key = config.n_head * config.attention_head_dim, config.n_kv_head * config.attention_head_dim
    projected = 2 * inner + 2 * config.n_groups * config.d_state + config.n_mamba_head
    mlp = width + 2 * hidden + hidden + width if hidden else 0
    return {"T": rank * (2 * (width + query) + 2 * (width + key) + mlp), "M": rank * (width + projected + mlp)}


def scaling_parameters(config: ModelConfig) -> int:
    """Parameters that a horizon counts: all that are multiplied with, so not an embedding that is no head."""
    parts = part_parameters(config)
    return sum(parts.values()) - (0 if config.tie_embeddings else parts["embedding"])


def step_tokens(horizon: float) -> int:
    """Tokens of an optimizer step for a horizon in tokens: grows as its power of 0.383, and leaves MIN_STEPS steps."""
    return int(min(BATCH_TOKENS * (horizon / BATCH_HORIZON) ** BATCH_POWER, horizon / MIN_STEPS))


def dial_batch(horizon: float, row_len: int, *, processes: int, max_rows: int) -> dict[str, int]:
    """Rows per process and micro-batch, and micro-batches, for about `step_tokens(horizon)` tokens a step.

    `max_rows`: most rows that fit at once.
    """
    rows = max(1, round(step_tokens(horizon) / row_len / processes))
    micro = math.ceil(rows / max(1, max_rows))
    return {"device_batch_size": math.ceil(rows / micro), "grad_accum_steps": micro}


def expand_pattern(preset: str, n_layer: int, attention_share: float) -> str:
    """A preset of PATTERNS as letters, "M,M,T,M"; letters are given back as they are. Raises ConfigError."""
    from nanochat.model.config import parse_block_pattern

    if preset not in PATTERNS:
        return ",".join(parse_block_pattern(preset))
    if preset in ("attention", "mamba"):
        return ",".join("TM"[preset == "mamba"] * n_layer)
    # at least one T, but a single layer is M: a model without one cannot be fine-tuned for RAG
    least = min(1, n_layer - 1) if attention_share < 1 else 1
    count = min(n_layer, max(least, round(n_layer * attention_share)))
    places = PATTERNS[preset](n_layer, count)
    return ",".join("T" if place in places else "M" for place in range(n_layer))


def _spread(n_layer: int, count: int) -> set[int]:
    """The middles of `count` equal stretches."""
    return {int((i + 0.5) * n_layer / count) for i in range(count)}


# where attention stands among n_layer layers; "attention" and "mamba" have nothing else
PATTERNS = {
    "spread": _spread,
    "first": lambda n_layer, count: set(range(count)),
    "last": lambda n_layer, count: set(range(n_layer - count, n_layer)),
    "attention": lambda n_layer, count: set(range(n_layer)),
    "mamba": lambda n_layer, count: set(),
}
