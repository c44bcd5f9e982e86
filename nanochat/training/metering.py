"""What parts of a model keep in memory, found by running them on a few tokens while every new tensor is counted."""

import functools
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from nanochat.model import ModelConfig
from nanochat.model.blocks import Block
from nanochat.model.step import plan_step
from nanochat.training.lora import LoraSettings, adapt_linears
from nanochat.training.losses import Batch, language_model_loss


class Meter(TorchDispatchMode):
    """Counts the bytes of tensors made inside it: `now` those still alive, `peak` the most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {part.untyped_storage()._cdata for part in tree_iter((args, kwargs)) if isinstance(part, Tensor)}
        for part in tree_iter(result):
            if isinstance(part, Tensor):
                self._add(part.untyped_storage(), given)
        return result

    def _add(self, storage: Any, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in given:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def forget() -> None:
            self._known.discard(key)
            self.now -= size

        weakref.finalize(storage, forget)


@dataclass(frozen=True)
class Line:
    """Bytes that grow with the number of tokens: base + slope * tokens."""

    base: float = 0.0
    slope: float = 0.0

    def at(self, tokens: float) -> float:
        return self.base + self.slope * tokens

    @classmethod
    def through(cls, one: tuple[int, float], other: tuple[int, float]) -> "Line":
        slope = (other[1] - one[1]) / (other[0] - one[0])
        return cls(max(0.0, one[1] - slope * one[0]), slope)


@dataclass(frozen=True)
class Cost:
    """One part of the model: what lives on after its forward, and the most during forward and backward."""

    kept: Line
    forward: Line
    backward: Line


def _autocast(dtype: str, device: str) -> Any:
    return nullcontext() if dtype == "float32" else torch.autocast(device, getattr(torch, dtype))


@functools.lru_cache(maxsize=256)
def block_cost(config: ModelConfig, letter: str, dtype: str, device: str, lora_rank: int = 0) -> Cost:
    """The cost of one block by tokens, metered on one chunk of them and on two; frozen with adapters of lora_rank."""
    with torch.device("meta"):
        block = Block(letter, config)
    block = block.to_empty(device=device)
    if lora_rank:
        block.requires_grad_(False)
        adapt_linears(block, LoraSettings(rank=lora_rank, alpha=1.0))
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
        if parameter.requires_grad:
            # gradients of weights are counted elsewhere, and here they would hide what grows with the tokens
            parameter.register_post_accumulate_grad_hook(_drop_gradient)

    def run(tokens: int) -> tuple[float, float, float]:
        x = torch.zeros(1, tokens, config.n_embd, device=device, requires_grad=True)
        seq_idx = torch.zeros(1, tokens, dtype=torch.long, device=device)
        step = plan_step(1, tokens, x.device, None, seq_idx)
        with Meter() as meter:
            with _autocast(dtype, device):
                y = block(x, None, step)
            kept, forward = meter.now, meter.peak
            meter.peak = meter.now
            y.backward(torch.zeros_like(y))
        return kept, forward, meter.peak

    return _cost(run, config.chunk_size if letter == "M" else 64)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


@functools.lru_cache(maxsize=256)
def head_cost(config: ModelConfig, dtype: str, device: str) -> Cost:
    """The cost of head and loss by positions with loss, without the gradient of the head's weight."""
    weight = torch.zeros(config.vocab_size, config.n_embd, device=device)

    def run(positions: int) -> tuple[float, float, float]:
        x = torch.zeros(1, positions, config.n_embd, device=device, requires_grad=True)
        ids = torch.zeros(1, positions, dtype=torch.long, device=device)
        model = SimpleNamespace(features=lambda ids, seq_idx: x,
                                head=lambda features: torch.nn.functional.linear(features, weight).float())
        with Meter() as meter:
            with _autocast(dtype, device):
                loss = language_model_loss(model, Batch(ids=ids, targets=ids), 1.0, group=range(1)).loss
            kept, forward = meter.now, meter.peak
            meter.peak = meter.now
            loss.backward()
        return kept, forward, meter.peak

    return _cost(run, 32)


def _cost(run: Callable[[int], tuple[float, float, float]], tokens: int) -> Cost:
    one, other = run(tokens), run(2 * tokens)
    lines = [Line.through((tokens, a), (2 * tokens, b)) for a, b in zip(one, other, strict=True)]
    return Cost(*lines)


@functools.lru_cache(maxsize=16)
def plan_bytes(row_len: int) -> float:
    """What the plan of a packed row holds, above all its mask, which grows with the square of the row."""

    def run(length: int) -> float:
        with Meter() as meter:
            step = plan_step(1, length, torch.device("cpu"), None, torch.zeros(1, length, dtype=torch.long))
            kept = meter.now
        del step
        return float(kept)

    one, other = run(128), run(256)
    square = (other - 2 * one) / (256**2 - 2 * 128**2)
    return square * row_len**2 + (one - square * 128**2) / 128 * row_len
