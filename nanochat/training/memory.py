"""What a training needs in memory, before it starts, and the largest batch that fits.

Weights, gradients and optimizer state are arithmetic. What a block keeps for its backward pass is not guessed but
metered, see `metering`, so that the numbers are those of the code that will run, for any kernel, precision and loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nanochat.model import ModelConfig
from nanochat.training.load import FLOAT, Load
from nanochat.training.lora import LoraSettings
from nanochat.training.losses import HEAD_POSITIONS
from nanochat.training.metering import block_cost, head_cost, plan_bytes

GB = 1e9
INDEX = 8  # bytes of a place or an id
MAX_ROWS = 4096  # no larger batch is looked for


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of a training step at its worst moment, by what they are for."""

    weights: float
    gradients: float
    optimizer: float  # momentum of Muon, both moments of AdamW
    activations: float  # all that comes and goes with a step, at the worst moment
    rows: int  # of a micro-batch
    largest: Callable[[float], int]  # bytes -> most rows that fit into them, 0 when not even one does
    cache_per_row: float  # decoding state of one row of row_len tokens, float32

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations

    def fits(self, limit: float) -> bool:
        return self.total <= limit

    def report(self, limit_gb: float) -> str:
        """Two lines: what is needed for what, and whether it fits, else with which --device_batch_size."""
        parts = ", ".join(f"{name} {_gb(getattr(self, name))}"
                          for name in ("weights", "gradients", "optimizer", "activations"))
        if self.fits(limit_gb * GB):
            answer = "yes"
        elif rows := self.largest(limit_gb * GB):
            answer = f"no; yes with --device_batch_size {rows}"
        else:
            answer = "no, not even with --device_batch_size 1: choose a smaller model or shorter rows"
        warning = "" if answer == "yes" else "Warning: "
        return (f"Memory: about {_gb(self.total)} ({parts}); an answer's state {_gb(self.cache_per_row)}\n"
                f"{warning}Fits in {limit_gb:.1f} GB: {answer}")


def estimate(
    config: ModelConfig, *, rows: int, row_len: int, dtype: str = "float32", checkpointing: bool = False,
    accumulates: bool = False, device: str = "cpu", lora: LoraSettings | None = None, processes: int = 1,
) -> MemoryEstimate:
    """What training this model with micro-batches of `rows` rows of `row_len` tokens needs: all weights, or adapters.

    dtype "bfloat16" means products under autocast. `accumulates`: several micro-batches per step, so that gradients of
    all weights are there during every backward but the first. `device` is where blocks are metered; fused kernels of a
    GPU keep less than the plain code of a CPU. `processes`: how many share weights, gradients and optimizer state (see
    `sharding`), 1 where each has its own.
    """
    load = Load.of(config, lora, processes, num_matrix=_matrix_parameters(config))
    gradients = load.gradients + load.reduced

    def needed(count: int) -> float:
        return _worst_moment(config, load, count, row_len, dtype, checkpointing, accumulates, device)

    def largest(limit: float) -> int:
        fitting = 0
        step = MAX_ROWS
        while step:
            if fitting + step <= MAX_ROWS and load.weights + load.optimizer + needed(fitting + step) <= limit:
                fitting += step
            step //= 2
        return fitting

    return MemoryEstimate(
        weights=load.weights, gradients=gradients, optimizer=load.optimizer,
        activations=max(0.0, needed(rows) - gradients), rows=rows, largest=largest,
        cache_per_row=cache_bytes(config, row_len),
    )


def cache_bytes(config: ModelConfig, length: int, *, bytes_per_number: int = FLOAT) -> float:
    """Decoding state of one row after `length` tokens: keys and values of T grow with it, states of M do not."""
    query, keys = config.n_head * config.attention_head_dim, 2 * config.n_kv_head * config.attention_head_dim
    attention = length * keys + max(0, config.attention_conv - 1) * (query + keys)
    conv = (config.d_conv - 1) * (config.d_inner + 2 * config.n_groups * config.d_state)
    mamba = conv * bytes_per_number + config.d_inner * config.d_state * FLOAT
    letters, slot = config.block_pattern, INDEX if config.slot_scale else 0
    return float(letters.count("T") * attention * bytes_per_number + letters.count("M") * mamba + slot)


def _worst_moment(
    config: ModelConfig, load: Load, rows: int, row_len: int, dtype: str, checkpointing: bool, accumulates: bool,
    device: str,
) -> float:
    """Bytes beside weights and optimizer state when most of them are needed: gradients and activations."""
    tokens = rows * row_len
    costs = {letter: block_cost(config, letter, dtype, device, load.lora_rank) for letter in set(config.block_pattern)}
    head = head_cost(config, dtype, device)
    stream = tokens * config.n_embd * FLOAT
    shared = rows * plan_bytes(row_len) + 2 * stream  # embedding, last norm
    shared += tokens * INDEX if config.slot_scale else 0  # slots of the tokens
    kept = [stream if checkpointing else costs[letter].kept.at(tokens) for letter in config.block_pattern]
    positions = min(tokens, HEAD_POSITIONS)
    gradients = load.gradients if accumulates else 0.0
    # the head works through its positions in pieces, and adds up the gradient of its weight piece by piece
    piece = head.backward.at(positions) - head.kept.at(positions) + 2 * load.head
    worst = gradients + shared + sum(kept) + head.kept.at(tokens) + piece
    below = shared
    done = 0.0 if accumulates else load.gradients - sum(load.layers[letter] for letter in config.block_pattern)
    # the backward goes through the layers from the last to the first; what is behind them has its gradients
    for place in reversed(range(len(kept))):
        letter = config.block_pattern[place]
        moment = below + sum(kept[:place]) + costs[letter].backward.at(tokens) + gradients + done
        worst = max(worst, moment + (stream if checkpointing else 0))
        done += 0 if accumulates else load.layers[letter]
    # adapters are trained by AdamW, which needs nothing of that kind
    return load.reduced + max(worst, load.gradients + (0.0 if load.lora_rank else _muon_bytes(config, device)))


def _matrix_shapes(config: ModelConfig) -> dict[tuple[int, int], int]:
    """How many weights of linear layers there are of each shape: what Muon takes together."""
    width, inner = config.n_embd, config.d_inner
    query, key = config.n_head * config.attention_head_dim, config.n_kv_head * config.attention_head_dim
    channels = inner + 2 * config.n_groups * config.d_state
    of_kind = {
        "T": [(query, width), (key, width), (key, width), (width, query)],
        "M": [(inner + channels + config.n_mamba_head, width), (width, inner)],
    }
    shapes: dict[tuple[int, int], int] = {}
    for letter in config.block_pattern:
        mlp = [(2 * config.mlp_hidden, width), (width, config.mlp_hidden)] if config.mlp_hidden else []
        for shape in of_kind[letter] + mlp:
            shapes[shape] = shapes.get(shape, 0) + 1
    return shapes


def _matrix_parameters(config: ModelConfig) -> int:
    return sum(count * rows * columns for (rows, columns), count in _matrix_shapes(config).items())


def _muon_bytes(config: ModelConfig, device: str) -> float:
    """What Muon makes and drops for its largest group of equal shapes: updates, two iterates, two Gram matrices."""
    number = FLOAT if device == "cpu" else 2
    return max((count * (rows * columns * (FLOAT + 2 * number) + 2 * number * min(rows, columns) ** 2)
                for (rows, columns), count in _matrix_shapes(config).items()), default=0.0)


def memory_limit(device: torch.device) -> float:
    """Bytes that this process may still take: of the GPU, else of the machine or its container."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    return min(_available(), _cgroup_room())


def _available() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), float("inf"))


def _cgroup_room() -> float:
    """What the control group of this process leaves, version 2 or 1; infinite without a limit."""
    root = Path("/sys/fs/cgroup")
    for limit, used in (("memory.max", "memory.current"),
                        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            return max(0.0, float((root / limit).read_text()) - float((root / used).read_text()))
        except (OSError, ValueError):
            continue
    return float("inf")


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / 1e6:.0f} MB"
