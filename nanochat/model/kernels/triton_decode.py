"""One token through an M block's mixer in three launches: convolution, state, gated norm; states change in place.

Between in_proj and out_proj nothing is left for PyTorch to do. No gradients.
"""

import math
from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from nanochat.model.kernels.triton_ssd import on_its_device


class Mixer(Protocol):
    """What is read of nanochat.model.mamba.Mamba."""

    d_inner: int
    d_state: int
    n_groups: int
    n_head: int
    headdim: int
    dt_limit: tuple[float, float]
    conv_weight: Tensor  # (C, K)
    conv_bias: Tensor | None  # (C)
    dt_bias: Tensor  # (H)
    A_log: Tensor  # (H)
    D: Tensor  # (H)
    norm: nn.Module  # weight (inner), eps, groups


class State(Protocol):
    conv: Tensor  # (B, K-1, C)
    ssm: Tensor  # (B, H, P, N) float32


@triton.jit
def conv_step_kernel(x_ptr, tail_ptr, weight_ptr, bias_ptr, y_ptr, x_row, channels,
                     K: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr):
    """y (B, C) float32 = silu(convolution); the tail (B, K-1, C) moves on by one."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    new = tl.load(x_ptr + row * x_row + channel, mask=inside, other=0.0)
    y = new.to(tl.float32) * tl.load(weight_ptr + channel * K + K - 1, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        y += tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    tail = tail_ptr + row * (K - 1) * channels + channel
    for tap in tl.static_range(K - 1):
        old = tl.load(tail + tap * channels, mask=inside, other=0.0)
        y += old.to(tl.float32) * tl.load(weight_ptr + channel * K + tap, mask=inside, other=0.0).to(tl.float32)
        if tap > 0:
            tl.store(tail + (tap - 1) * channels, old, mask=inside)
    if K > 1:
        tl.store(tail + (K - 2) * channels, new.to(tail_ptr.dtype.element_ty), mask=inside)
    tl.store(y_ptr + row * channels + channel, y * tl.sigmoid(y), mask=inside)


@triton.jit
def state_step_kernel(xbc_ptr, dt_ptr, bias_ptr, a_ptr, d_ptr, state_ptr, y_ptr, dt_row, heads, groups, P, N, floor,
                      ceiling, BLOCK_P: tl.constexpr, WIDTH_N: tl.constexpr):
    """y (B, H * P) float32 = new state times C, plus D x; the state (B, H, P, N) float32 changes in place."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.arange(0, WIDTH_N)
    group = head // (heads // groups)
    raw = tl.load(dt_ptr + row * dt_row + head).to(tl.float32) + tl.load(bias_ptr + head).to(tl.float32)
    # softplus as in PyTorch: the identity above 20
    dt = tl.where(raw > 20.0, raw, tl.log(1.0 + tl.exp(tl.minimum(raw, 20.0))))
    # log(1 + e) loses small e
    dt = tl.where(raw < -10.0, tl.exp(raw), dt)
    dt = tl.minimum(tl.maximum(dt, floor), ceiling)
    decay = tl.exp(-tl.exp(tl.load(a_ptr + head).to(tl.float32)) * dt)
    xbc = xbc_ptr + row * (heads * P + 2 * groups * N)
    x = tl.load(xbc + head * P + p, mask=p < P, other=0.0)
    b = tl.load(xbc + heads * P + group * N + n, mask=n < N, other=0.0)
    c = tl.load(xbc + heads * P + (groups + group) * N + n, mask=n < N, other=0.0)
    at = state_ptr + ((row * heads + head) * P + p[:, None]) * N + n[None, :]
    inside = (p < P)[:, None] & (n < N)[None, :]
    state = tl.load(at, mask=inside, other=0.0) * decay + (dt * x)[:, None] * b[None, :]
    tl.store(at, state, mask=inside)
    y = tl.sum(state * c[None, :], axis=1) + tl.load(d_ptr + head).to(tl.float32) * x
    tl.store(y_ptr + (row * heads + head) * P + p, y, mask=p < P)


@triton.jit
def gated_norm_kernel(y_ptr, gate_ptr, weight_ptr, out_ptr, gate_row, inner, size, eps, BLOCK: tl.constexpr):
    """out (B, inner) = weight * rms_norm(y * silu(gate)), each group of `size` channels by itself."""
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = tl.arange(0, BLOCK)
    inside, channel = i < size, group * size + i
    gate = tl.load(gate_ptr + row * gate_row + channel, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + row * inner + channel, mask=inside, other=0.0) * gate * tl.sigmoid(gate)
    scale = 1.0 / tl.sqrt(tl.sum(y * y, axis=0) / size + eps)
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * inner + channel, (y * scale * weight).to(out_ptr.dtype.element_ty), mask=inside)


@on_its_device
def step(gate: Tensor, xbc: Tensor, dt: Tensor, state: State, mixer: Mixer) -> Tensor:
    """gate (B, inner), xbc (B, C), dt (B, H) as in_proj gives them -> (B, inner) for out_proj, in the type of xbc.

    state.conv and state.ssm move on by one token, in place.
    """
    assert not torch.is_grad_enabled(), "one-token kernels have no gradient"
    batch, channels = xbc.shape
    heads, size, d_state, inner = mixer.n_head, mixer.headdim, mixer.d_state, mixer.d_inner
    assert gate.stride(-1) == xbc.stride(-1) == dt.stride(-1) == 1, "channels must lie side by side"
    assert state.conv.is_contiguous() and state.ssm.is_contiguous(), "states must be contiguous"
    mixed = torch.empty(batch, channels, device=xbc.device)
    conv_step_kernel[(batch, triton.cdiv(channels, 256))](
        xbc, state.conv, mixer.conv_weight, mixed if mixer.conv_bias is None else mixer.conv_bias, mixed,
        xbc.stride(0), channels, K=mixer.conv_weight.shape[1], BLOCK=256, HAS_BIAS=mixer.conv_bias is not None,
        num_warps=4)
    y = torch.empty(batch, inner, device=xbc.device)
    width = triton.next_power_of_2(d_state)
    block = max(1, min(triton.next_power_of_2(size), 4096 // width))
    floor, ceiling = mixer.dt_limit
    state_step_kernel[(batch, heads, triton.cdiv(size, block))](
        mixed, dt, mixer.dt_bias, mixer.A_log, mixer.D, state.ssm, y, dt.stride(0), heads, mixer.n_groups, size,
        d_state, float(floor), float(ceiling) if math.isfinite(ceiling) else 3e38, BLOCK_P=block, WIDTH_N=width,
        num_warps=4)
    out = torch.empty(batch, inner, device=xbc.device, dtype=xbc.dtype)
    part = inner // mixer.norm.groups
    gated_norm_kernel[(batch, mixer.norm.groups)](
        y, gate, mixer.norm.weight, out, gate.stride(0), inner, part, mixer.norm.eps,
        BLOCK=triton.next_power_of_2(part), num_warps=8 if part > 1024 else 4)
    return out
