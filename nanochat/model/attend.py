"""Softmax attention by the fastest way that a step allows; one function for the T block."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nanochat.model.kernels import attention_kernel
from nanochat.model.step import Step


def attend(q: Tensor, k: Tensor, v: Tensor, step: Step, *, scale: float) -> Tensor:
    """q (B, H, T, D), k and v (B, Hkv, S, D) with Hkv dividing H -> (B, H, T, D).

    - one new token: query heads of a group stand in as positions, so that keys are read once per group, not copied
    - T new tokens and no past, or a past of equal length: causal, without a mask
    - packed rows: flex_attention over blocks, or a mask
    """
    batch, heads, length, size = q.shape
    groups = k.shape[1]
    if length == 1:
        one = None if step.mask is None or torch.is_grad_enabled() else attention_kernel(q)
        if one is not None:
            return one(q[:, :, 0], k, v, step.lengths + 1, scale)[:, :, None]
        folded = q.reshape(batch, groups, heads // groups, size)
        mask = None if step.mask is None else step.mask.expand(-1, -1, heads // groups, -1)
        return F.scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=scale).reshape(q.shape)
    if step.blocks is not None:
        return _flex(q.device.type)(q, k, v, block_mask=step.blocks, scale=scale, enable_gqa=heads != groups)
    if step.mask is not None:
        if q.is_cuda and heads != groups:
            # with a mask only the slowest form shares keys among heads on a GPU
            k, v = (tensor.repeat_interleave(heads // groups, dim=1) for tensor in (k, v))
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=step.mask, scale=scale, enable_gqa=k.shape[1] != heads)
    if step.is_causal and k.shape[2] > length:
        # imported here: it brings the compiler along
        from torch.nn.attention.bias import causal_lower_right

        if heads != groups:
            k, v = (tensor.repeat_interleave(heads // groups, dim=1) for tensor in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(length, k.shape[2]), scale=scale)
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=step.is_causal, scale=scale, enable_gqa=heads != groups)


@functools.cache
def _flex(kind: str) -> Callable[..., Any]:
    """flex_attention, compiled on a GPU: as it is, it computes all pairs."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if kind == "cuda" else flex_attention
