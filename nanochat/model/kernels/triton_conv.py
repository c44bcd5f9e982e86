"""The short causal convolution on the GPU: one pass over the inputs forward, two backward, no transposed copies."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nanochat.model.kernels.triton_ssd import on_its_device, segment_numbers

ROWS, COLUMNS, WARPS = 32, 128, 8  # positions and channels per program, and its warps


@triton.jit
def _shifted(x_ptr, tail_ptr, seg_ptr, row, time, channel, inside, x_row, x_time, length, channels,
             BACK: tl.constexpr, K: tl.constexpr, HAS_TAIL: tl.constexpr, HAS_SEG: tl.constexpr):
    """Inputs BACK positions before `time`: from x, from the tail before it, or 0 outside and in another segment."""
    place = time - BACK
    seen = inside & (place >= 0)[:, None]
    if HAS_SEG:
        seg = tl.load(seg_ptr + row * length + time, mask=time < length, other=0)
        other = tl.load(seg_ptr + row * length + place, mask=(place >= 0) & (place < length), other=-1)
        seen = seen & (seg == other)[:, None]
    x = tl.load(x_ptr + row * x_row + place[:, None] * x_time + channel[None, :], mask=seen, other=0.0).to(tl.float32)
    if HAS_TAIL:
        before = inside & (place < 0)[:, None]
        at = tail_ptr + (row * (K - 1) + K - 1 + place[:, None]) * channels + channel[None, :]
        x += tl.load(at, mask=before, other=0.0).to(tl.float32)
    return x


@triton.jit
def conv_kernel(
    x_ptr, weight_ptr, bias_ptr, tail_ptr, seg_ptr, y_ptr, x_row, x_time, length, channels,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_TAIL: tl.constexpr,
    HAS_SEG: tl.constexpr,
):
    """y (B, T, C) contiguous; a program is ROWS positions of COLUMNS channels."""
    row = tl.program_id(2).to(tl.int64)
    time = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (time < length)[:, None] & (channel < channels)[None, :]
    y = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    if HAS_BIAS:
        y += tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    for back in tl.static_range(K):
        weight = tl.load(weight_ptr + channel * K + K - 1 - back, mask=channel < channels, other=0.0).to(tl.float32)
        y += weight[None, :] * _shifted(x_ptr, tail_ptr, seg_ptr, row, time, channel, inside, x_row, x_time, length,
                                        channels, back, K, HAS_TAIL, HAS_SEG)
    at = y_ptr + (row * length + time[:, None]) * channels + channel[None, :]
    tl.store(at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gradient_kernel(
    x_ptr, weight_ptr, tail_ptr, seg_ptr, dy_ptr, dx_ptr, dweight_ptr, x_row, x_time, length, channels,
    K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_TAIL: tl.constexpr, HAS_SEG: tl.constexpr,
):
    """dx (B, T, C) contiguous, and each program's share of dweight (B * blocks, K + 1, C), the bias last."""
    row, block, blocks = tl.program_id(2).to(tl.int64), tl.program_id(0), tl.num_programs(0)
    time = block * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = channel < channels
    inside = (time < length)[:, None] & known[None, :]
    at = (row * length + time[:, None]) * channels + channel[None, :]
    dy = tl.load(dy_ptr + at, mask=inside, other=0.0).to(tl.float32)
    share = dweight_ptr + (row * blocks + block) * (K + 1) * channels + channel
    tl.store(share + K * channels, tl.sum(dy, axis=0), mask=known)
    dx = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for back in tl.static_range(K):
        weight = tl.load(weight_ptr + channel * K + K - 1 - back, mask=known, other=0.0).to(tl.float32)
        x = _shifted(x_ptr, tail_ptr, seg_ptr, row, time, channel, inside, x_row, x_time, length, channels, back, K,
                     HAS_TAIL, HAS_SEG)
        tl.store(share + (K - 1 - back) * channels, tl.sum(dy * x, axis=0), mask=known)
        # an input is read by the outputs up to K - 1 positions behind it
        reads = inside & (time + back < length)[:, None]
        if HAS_SEG:
            seg = tl.load(seg_ptr + row * length + time, mask=time < length, other=0)
            later = tl.load(seg_ptr + row * length + time + back, mask=time + back < length, other=-1)
            reads = reads & (seg == later)[:, None]
        later_dy = tl.load(dy_ptr + at + back * channels, mask=reads, other=0.0).to(tl.float32)
        dx += weight[None, :] * later_dy
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)


def _launch(x: Tensor, channels: int) -> tuple[int, int, int]:
    return triton.cdiv(x.shape[1], ROWS), triton.cdiv(channels, COLUMNS), x.shape[0]


@torch.library.custom_op("nanochat::causal_conv", mutates_args=())
@on_its_device
def conv_op(x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None, seg: Tensor | None) -> Tensor:
    """y (B, T, C) in the type of x."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    batch, length, channels = x.shape
    y = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    conv_kernel[_launch(x, channels)](
        x, weight.contiguous(), x if bias is None else bias, x if tail is None else tail.contiguous(),
        x if seg is None else seg, y, x.stride(0), x.stride(1), length, channels, K=weight.shape[1], ROWS=ROWS,
        COLUMNS=COLUMNS, HAS_BIAS=bias is not None, HAS_TAIL=tail is not None, HAS_SEG=seg is not None, num_warps=WARPS)
    return y


@conv_op.register_fake
def _(x, weight, bias, tail, seg):  # type: ignore[no-untyped-def]
    return torch.empty(x.shape, device=x.device, dtype=x.dtype)


@torch.library.custom_op("nanochat::causal_conv_backward", mutates_args=())
@on_its_device
def conv_backward_op(dy: Tensor, x: Tensor, weight: Tensor, tail: Tensor | None, seg: Tensor | None
                     ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias (float32) and of a tail (K-1 positions)."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    batch, length, channels = x.shape
    width = weight.shape[1]
    dy = dy.contiguous()
    grid = _launch(x, channels)
    dx = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    shares = torch.empty(batch * grid[0], width + 1, channels, device=x.device)
    gradient_kernel[grid](
        x, weight.contiguous(), x if tail is None else tail.contiguous(), x if seg is None else seg, dy, dx, shares,
        x.stride(0), x.stride(1), length, channels, K=width, ROWS=ROWS, COLUMNS=COLUMNS, HAS_TAIL=tail is not None,
        HAS_SEG=seg is not None, num_warps=WARPS)
    total = shares.sum(0)
    # the input s positions before x is read by the first K - s outputs
    dtail = x.new_zeros(batch, width - 1, channels, dtype=torch.float32)
    if tail is not None:
        for output in range(min(width - 1, length)):
            reach = width - 1 - output
            dtail[:, -reach:] += dy[:, output, None].float() * weight.T[None, :reach].float()
    return dx, total[:width].T.contiguous(), total[width].clone(), dtail.to(x.dtype)


@conv_backward_op.register_fake
def _(dy, x, weight, tail, seg):  # type: ignore[no-untyped-def]
    batch, _, channels = x.shape
    return (torch.empty(x.shape, device=x.device, dtype=x.dtype),
            x.new_empty(weight.shape, dtype=torch.float32), x.new_empty(channels, dtype=torch.float32),
            x.new_empty(batch, weight.shape[1] - 1, channels))


def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, weight, bias, tail, seg = inputs
    ctx.save_for_backward(x, weight, tail, seg)
    ctx.bias_type = None if bias is None else bias.dtype


def _backward(ctx, dy):  # type: ignore[no-untyped-def]
    x, weight, tail, seg = ctx.saved_tensors
    dx, dweight, dbias, dtail = conv_backward_op(dy, x, weight, tail, seg)
    return (dx, dweight.to(weight.dtype), None if ctx.bias_type is None else dbias.to(ctx.bias_type),
            None if tail is None else dtail.to(tail.dtype), None)


conv_op.register_autograd(_backward, setup_context=_setup)


def next_tail(x: Tensor, tail: Tensor | None, width: int) -> Tensor:
    """The last K-1 inputs (B, K-1, C), those before x included where x is shorter."""
    missing = width - 1 - x.shape[1]
    if missing <= 0:
        return x[:, x.shape[1] - width + 1 :]
    before = x.new_zeros(x.shape[0], missing, x.shape[2]) if tail is None else tail[:, tail.shape[1] - missing :]
    return torch.cat([before.to(x.dtype), x], dim=1)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None, *, seq_idx: Tensor | None = None
                ) -> tuple[Tensor, Tensor]:
    """What nanochat.model.layers.causal_conv returns; x in any float type, products added up in float32."""
    seg = None if seq_idx is None else segment_numbers(seq_idx)
    return conv_op(x, weight, bias, tail, seg), next_tail(x, tail, weight.shape[1])
