"""How a run computes: precision, activation checkpointing, compilation and shards; said before it starts."""

from typing import TYPE_CHECKING, Any

from nanochat.common import print0, world_size
from nanochat.errors import ConfigError
from scripts.training_memory import helpful_flags

FAR_BEYOND = 2.0  # times the free memory, which no error of the estimate explains

if TYPE_CHECKING:
    from nanochat.model import LanguageModel
    from nanochat.training.lora import LoraSettings


def prepare(config: Any, model: "LanguageModel", *, row_len: int) -> dict[str, Any]:
    """Make the model ready to train as the settings say; returns settings of `fit`. Prints one line, and what memory
    the run needs. Raises ConfigError for what this machine cannot.
    """
    import torch

    from nanochat.training.lora import adapter_settings
    from nanochat.training.precision import autocast, compile_blocks, pick_dtype
    from nanochat.training.sharding import shard

    device = model.device
    dtype = pick_dtype(config.dtype, device)
    model.checkpointing = config.activation_checkpointing == "true"
    row_len = row_len or model.config.sequence_len
    lora = adapter_settings(model)
    memory = _memory(config, model, lora, row_len, dtype)
    if config.shard:
        shard(model)
    is_compiled = compile_blocks(model.layers, config.compile, device)
    if device.type == "cuda":
        # products that stay float32 may use TF32
        torch.set_float32_matmul_precision("high")
    words = [f"{device.type} x {world_size()}", str(dtype).removeprefix("torch."),
             *(["activation checkpointing"] if model.checkpointing else []), *(["compiled"] if is_compiled else []),
             *(["sharded"] if config.shard else [])]
    print0(f"Computing on {', '.join(words)}{memory}")
    return {"context": autocast(device, dtype), **_speed(model, lora, row_len, dtype)}


def _memory(config: Any, model: "LanguageModel", lora: "LoraSettings | None", row_len: int, dtype: Any) -> str:
    """The memory estimate as text; with --activation_checkpointing auto it decides, too."""
    from nanochat.training.memory import GB, estimate, memory_limit

    def needed() -> Any:
        return estimate(model.config, rows=config.device_batch_size, row_len=row_len,
                        dtype=str(dtype).removeprefix("torch."), checkpointing=model.checkpointing,
                        accumulates=config.grad_accum_steps > 1, lora=lora,
                        processes=world_size() if config.shard else 1)

    limit = memory_limit(model.device)
    if config.activation_checkpointing == "auto" and needed().total > limit:
        model.checkpointing = True
    need = needed()
    report = "\n" + need.report(limit / GB)
    if need.fits(limit):
        return report
    if model.device.type == "cpu" and need.total > FAR_BEYOND * limit:
        # what runs out of memory on a CPU is killed without a word, and other programs with it
        raise ConfigError(f"This run needs about {need.total / GB:.1f} GB of memory, and {limit / GB:.1f} GB are free",
                          hint=f"one after the other until it fits: {', '.join(helpful_flags(config))}")
    return f"{report}\nTo need less, one after the other: {', '.join(helpful_flags(config))}"


def _speed(model: "LanguageModel", lora: "LoraSettings | None", row_len: int, dtype: Any) -> dict[str, float]:
    from nanochat.training.flops import flops_per_token, peak_flops

    return {"flops_per_token": flops_per_token(model.config, row_len, lora),
            "peak_flops": peak_flops(model.device, dtype) * world_size()}

