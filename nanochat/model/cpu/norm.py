"""RMSNorm, alone or of a gated value, with an own backward pass that saves its inputs and one number per row.

Rows are taken in blocks that stay in the cache over all the passes a block needs.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCK = 1 << 17  # elements of a block of rows: half a MiB


def _row_blocks(x: Tensor) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, x[0].numel()))
    return (slice(start, start + step) for start in range(0, len(x), step))


class GatedNorm(torch.autograd.Function):
    """x (R, G, n) times silu(gate), normalised over the last dimension, times weight (G, n)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, x: Tensor, gate: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        y = torch.empty(x.shape)
        scale = torch.empty(*x.shape[:2], 1)
        for part in _row_blocks(x):
            value = x[part] if gate is None else F.silu(gate[part]).mul_(x[part])
            length = torch.linalg.vector_norm(value, dim=-1, keepdim=True)
            torch.rsqrt(length.square_().mul_(1 / x.shape[-1]).add_(eps), out=scale[part])
            torch.mul(value, scale[part], out=y[part]).mul_(weight)
        ctx.save_for_backward(x, gate, weight, scale)
        return y

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, weight, scale = ctx.saved_tensors
        dx, dweight = torch.empty(x.shape), torch.zeros_like(weight)
        dgate = None if gate is None else torch.empty(x.shape)
        for part in _row_blocks(x):
            gates = None if gate is None else _silu(gate[part])
            value = x[part] if gates is None else x[part] * gates[0]
            normed = value * scale[part]
            product = dy[part] * normed
            dweight += product.sum(0)
            shift = product.mul_(weight).mean(-1, keepdim=True).neg_()
            # gradient of the value: (dy * weight - normed * mean(dy * weight * normed)) * scale
            dvalue = torch.mul(dy[part], weight, out=dx[part]).addcmul_(normed, shift).mul_(scale[part])
            if gates is not None:
                torch.mul(dvalue, x[part], out=dgate[part]).mul_(gates[1])
                dvalue.mul_(gates[0])
        return dx, dgate, dweight, None


def _silu(gate: Tensor) -> tuple[Tensor, Tensor]:
    """silu and its slope: sigmoid + silu * (1 - sigmoid)."""
    sigmoid = torch.sigmoid(gate)
    value = sigmoid * gate
    return value, sigmoid.addcmul_(value, 1 - sigmoid)
