"""What bench.model_gpu measures with: our model, that of transformers with the same weights, and a clock."""

import copy
import functools
import importlib.metadata
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nanochat.model import LanguageModel, ModelConfig


def versions() -> dict[str, str]:
    """Installed versions of what the figures depend on."""
    found = {}
    for package in ("triton", "transformers", "mamba-ssm", "causal-conv1d", "flash-linear-attention"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def seconds(work: Callable[[], Any], device: torch.device, repeats: int, warm_ups: int = 2) -> float:
    """Median time of one call, the device's work included."""
    for _ in range(warm_ups):
        work()
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@functools.lru_cache(maxsize=1)
def weights_of(config: ModelConfig) -> LanguageModel:
    """Random weights on the CPU, which take a while to draw: made once per shape in a row."""
    return LanguageModel(config, seed=1)


def make(config: ModelConfig, device: torch.device, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A random model; in bfloat16 the decays stay float32."""
    model = copy.deepcopy(weights_of(config)).to(device=device, dtype=dtype)
    for block in model.layers:
        for name in ("A_log", "dt_bias", "D"):
            if hasattr(block.mixer, name):
                setattr(block.mixer, name, nn.Parameter(getattr(block.mixer, name).float()))
    return model


def make_peer(config: ModelConfig, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model of transformers with the same weights."""
    import transformers

    from nanochat.interop.exporting import published_tensors
    from nanochat.interop.published import family_of, published_config

    family = family_of(config)
    record = {name: value for name, value in published_config(config, family).items() if name != "architectures"}
    with torch.device(device):
        peer = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(record.pop("model_type"), **record), dtype=dtype)
    tensors = published_tensors(weights_of(config), family, torch.float32)
    missing, unexpected = peer.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, f"missing {missing}, unexpected {unexpected}"
    return peer.to(device=device, dtype=dtype)
