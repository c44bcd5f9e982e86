"""Number types and compilation of a training run: bfloat16 where a device multiplies it fast, float32 elsewhere."""

import contextlib
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nanochat.errors import ConfigError

BACKEND = "inductor"  # of torch.compile
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type that matrices are multiplied in; "auto" is bfloat16 on a GPU that has it, else float32.

    Weights, gradients, optimizer and recurrent states are float32 either way. Raises ConfigError for a device that
    cannot.
    """
    has_bfloat16 = device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported())
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bfloat16 else torch.float32
    if name == "bfloat16" and not has_bfloat16:
        raise ConfigError(f"Device {device} has no bfloat16", hint="--dtype float32")
    return DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype) -> Callable[[], contextlib.AbstractContextManager]:
    """A function that gives the context of a forward: autocast, or nothing for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext
    return partial(torch.autocast, device.type, dtype=dtype)


def compile_blocks(layers: nn.ModuleList, wanted: str, device: torch.device) -> bool:
    """Compile every block in place if `wanted` is "true", or "auto" and the device is a GPU; whether it was done.

    What torch.compile cannot compile runs as it is. Names of parameters stay.
    """
    if wanted == "false" or (wanted == "auto" and device.type != "cuda"):
        return False
    torch._dynamo.config.suppress_errors = True
    for block in layers:
        block.compile(backend=BACKEND)
    return True
