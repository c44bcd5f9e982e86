"""The depth dial on the settings of base_train: what nobody gave by hand follows from --depth."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from nanochat.config import origins
from nanochat.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from nanochat.model import ModelConfig

Config = TypeVar("Config")
RATES = ("matrix_lr", "embedding_lr", "scalar_lr")
DEFAULT_PATTERN = "spread"


def given(config: Any) -> set[str]:
    """Settings that a user chose: in a file, by a flag, in the environment, or in code other than the default."""
    defaults = {field.name: field.default for field in fields(config)}
    return {
        name for name, origin in origins(config).items()
        if (getattr(config, name) != defaults[name] and defaults[name] is not MISSING if origin == "code"
            else origin != "default")
    }


def put(config: Config, values: dict[str, Any], origin: str) -> Config:
    """A copy with other values, which `describe` shows with their origin; what was given by hand stays."""
    chosen = given(config)
    values = {name: value for name, value in values.items() if name not in chosen}
    changed = replace(config, **values)
    object.__setattr__(changed, "_origins", MappingProxyType(origins(config) | dict.fromkeys(values, origin)))
    return changed


def turn_dial(config: Any, vocab_size: int, device: "torch.device") -> Any:
    """Settings of base_train with shape, rates, batch and horizon for --depth; 0 leaves all but the horizon alone."""
    from nanochat.training.shape import dial_rates, dial_shape

    origin = f"depth {config.depth}"
    if config.depth:
        if "block_pattern" not in given(config):
            config = put(config, {"block_pattern": DEFAULT_PATTERN}, "default")
        config = put(config, dial_shape(config.depth, width=config.n_embd if "n_embd" in given(config) else 0), origin)
        config = put(config, dial_rates(config.n_embd, {name: getattr(config, name) for name in RATES}), origin)
    config = with_letters(config, origin)
    return _with_horizon(config, vocab_size, device, origin)


def follow_batch(config: Config, before: Mapping[str, Any], processes: int) -> Config:
    """Settings to resume a run with --depth with: what nobody gave of depth, batch and number of steps is that of the
    checkpoint's settings `before`, made by so many processes. Another device would be given other ones, and then step n
    would read other text at another rate.
    """
    from nanochat.common import world_size

    if not before.get("depth") or config.depth not in (0, before["depth"]):
        return config
    config = put(config, {"depth": before["depth"]}, "checkpoint")
    chosen = given(config)
    rows = before["device_batch_size"] * before["grad_accum_steps"] * processes
    # of this process; the same rows in micro-batches that are no larger
    mine = max(1, round(rows / world_size()))
    most = config.device_batch_size if "device_batch_size" in chosen else before["device_batch_size"]
    if "grad_accum_steps" in chosen:
        micro, size = config.grad_accum_steps, max(1, round(mine / config.grad_accum_steps))
    else:
        size = next(count for count in range(min(most, mine), 0, -1) if mine % count == 0)
        size = most if "device_batch_size" in chosen else size
        micro = max(1, round(mine / size))
    config = put(config, {"device_batch_size": size, "grad_accum_steps": micro}, "checkpoint")
    if all(getattr(config, name) == before.get(name) for name in ("num_tokens", "tokens_per_parameter")):
        config = put(config, {"num_steps": before["num_steps"]}, "checkpoint")
    return config


def with_letters(config: Any, origin: str) -> Any:
    """The preset of --block_pattern written out; the settings keep letters only. Letters must be as many as --depth."""
    from nanochat.model.config import parse_block_pattern
    from nanochat.training.shape import PATTERNS, expand_pattern

    preset = config.block_pattern
    if preset not in PATTERNS:
        num_layers = len(parse_block_pattern(preset))
        if config.depth and num_layers != config.depth and origins(config)["block_pattern"] != "checkpoint":
            raise ConfigError(f"--depth is {config.depth}, but --block_pattern {preset:.60} has {num_layers} layers",
                              hint=f"--depth {num_layers}, or a preset that fits any depth: --block_pattern spread")
        return config
    if not config.depth:
        raise ConfigError(f"--block_pattern {preset} needs the number of layers",
                          hint="give --depth 4, or write one letter per layer: --block_pattern M,T,M,T")
    letters = expand_pattern(preset, config.depth, config.attention_share)
    note = f"{preset}, {origin}" if origins(config)["block_pattern"] == "default" else f"{preset}"
    changed = replace(config, block_pattern=letters)
    object.__setattr__(changed, "_origins", MappingProxyType(origins(config) | {"block_pattern": note}))
    return changed


def _with_horizon(config: Any, vocab_size: int, device: "torch.device", origin: str) -> Any:
    """Number of steps from --num_tokens or --tokens_per_parameter, and the batch for it."""
    from nanochat.common import world_size
    from nanochat.training.shape import dial_batch, scaling_parameters

    horizon = config.num_tokens or config.tokens_per_parameter * scaling_parameters(model_config(config, vocab_size))
    if config.depth:
        batch = dial_batch(horizon, config.sequence_len, processes=world_size(),
                           max_rows=most_rows(config, vocab_size, device))
        # a micro-batch given by hand leaves the number of them to the dial, and the other way round
        if "device_batch_size" in given(config):
            rows = batch["device_batch_size"] * batch["grad_accum_steps"]
            batch["grad_accum_steps"] = max(1, round(rows / config.device_batch_size))
        config = put(config, batch, origin)
    if config.depth or given(config) & {"num_tokens", "tokens_per_parameter"}:
        tokens = config.device_batch_size * config.grad_accum_steps * world_size() * config.sequence_len
        source = "num_tokens" if config.num_tokens else "tokens_per_parameter"
        config = put(config, {"num_steps": max(1, round(horizon / tokens))}, source)
    return config


def most_rows(config: Any, vocab_size: int, device: "torch.device") -> int:
    """Rows that a micro-batch may have on this device: on a GPU what fits into four fifths of its memory."""
    from nanochat.common import world_size
    from nanochat.training.memory import estimate, memory_limit
    from nanochat.training.precision import pick_dtype
    from nanochat.training.shape import MAX_ROWS_CPU, MAX_ROWS_GPU

    if device.type == "cpu":
        return MAX_ROWS_CPU
    needed = estimate(
        model_config(config, vocab_size), rows=1, row_len=config.sequence_len, device=device.type, accumulates=True,
        dtype=str(pick_dtype(config.dtype, device)).removeprefix("torch."),
        checkpointing=config.activation_checkpointing == "true", processes=world_size() if config.shard else 1,
    )
    return min(MAX_ROWS_GPU, max(1, needed.largest(0.8 * memory_limit(device))))


def model_config(config: Any, vocab_size: int, slot_ids: tuple[int, ...] = ()) -> "ModelConfig":
    """The shape of the model that these settings describe; without the tokenizer's slot_ids it has no slot_scale, which
    counts no weights.
    """
    from nanochat.model import ModelConfig

    values = {name: getattr(config, name) for name in MODEL_FIELDS}
    slots = {"slot_scale": config.slot_scale, "slot_ids": slot_ids} if config.slot_scale and slot_ids else {}
    return ModelConfig(vocab_size=vocab_size, **(values | {"slot_scale": 0.0} | slots))


MODEL_FIELDS = ("block_pattern", "n_embd", "n_head", "n_kv_head", "head_dim", "mlp_hidden", "rope_theta",
                "attention_conv", "slot_scale", "d_state", "headdim", "chunk_size", "sequence_len", "init_std",
                "embedding_multiplier")
