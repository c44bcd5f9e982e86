"""The short depthwise convolution as shifted multiply-adds on channel-last rows, with its own backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def _near_borders(seq_idx: Tensor, width: int, *, forward: bool) -> tuple[Tensor, Tensor]:
    """Rows and places (n), (n) of which one of the `width` - 1 places before (or after) is in another segment."""
    near = torch.zeros_like(seq_idx, dtype=torch.bool)
    for shift in range(1, min(width, seq_idx.shape[1])):
        place = slice(shift, None) if forward else slice(None, -shift)
        near[:, place] |= seq_idx[:, shift:] != seq_idx[:, :-shift]
    rows, places = near.nonzero(as_tuple=True)
    return rows, places


def _taps(x: Tensor, weight: Tensor, start: Tensor | None, seq_idx: Tensor | None, *, forward: bool) -> Tensor:
    """start + sum over s of weight[-1 - s] * x[t - s], or x[t + s] when not `forward`.

    Inputs outside and of other segments count as zero. x (B, T, C), weight (K, C), start (C) or None.
    """
    length, width = x.shape[1], weight.shape[0]
    y = x * weight[-1] if start is None else torch.addcmul(start, x, weight[-1])
    for shift in range(1, min(width, length)):
        source, target = (slice(None, -shift), slice(shift, None))[:: 1 if forward else -1]
        y[:, target].addcmul_(x[:, source], weight[-1 - shift])
    if seq_idx is None:
        return y
    rows, places = _near_borders(seq_idx, width, forward=forward)
    again = x[rows, places] * weight[-1] if start is None else torch.addcmul(start, x[rows, places], weight[-1])
    for shift in range(1, min(width, length)):
        other = places - shift if forward else places + shift
        inside = other.clamp(0, length - 1)
        same = (inside == other) & (seq_idx[rows, inside] == seq_idx[rows, places])
        again += (x[rows, inside] * weight[-1 - shift]).masked_fill_(~same[:, None], 0.0)
    y[rows, places] = again
    return y


def _weight_gradient(x: Tensor, dy: Tensor, width: int, seq_idx: Tensor | None) -> Tensor:
    """(K, C): sums of dy[t] * x[t - s] over rows and places."""
    dweight = x.new_zeros(width, x.shape[2])
    dweight[-1] = (dy * x).sum((0, 1))
    for shift in range(1, min(width, x.shape[1])):
        dweight[-1 - shift] = (dy[:, shift:] * x[:, :-shift]).sum((0, 1))
        if seq_idx is not None:
            rows, places = (seq_idx[:, shift:] != seq_idx[:, :-shift]).nonzero(as_tuple=True)
            dweight[-1 - shift] -= (dy[rows, places + shift] * x[rows, places]).sum(0)
    return dweight


class CausalConv(torch.autograd.Function):
    """`causal_conv` without a tail."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, seq_idx)
        ctx.has_bias = bias is not None
        return _taps(x, weight.t().contiguous(), bias, seq_idx, forward=True)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, seq_idx = ctx.saved_tensors
        dx = _taps(dy, weight.t().contiguous(), None, seq_idx, forward=False)
        dweight = _weight_gradient(x, dy, weight.shape[1], seq_idx)
        return dx, dweight.t(), dy.sum((0, 1)) if ctx.has_bias else None, None
