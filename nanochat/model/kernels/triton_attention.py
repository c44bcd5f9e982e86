"""Attention of one new token per row over a cache: reads what each row holds, whatever room the cache has.

The keys of a row are shared out among programs, whose results are then put together (Dao et al. 2023, "Flash-Decoding
for long-context inference"). Lengths stay on the device, so a CUDA graph can record it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nanochat.model.kernels.triton_ssd import on_its_device

SMALLEST = 16  # least size of a side of a matrix product
BLOCK = 64  # keys per product
PROGRAMS = 264  # two for each processor of a large GPU


@triton.jit
def share_kernel(
    q_ptr, k_ptr, v_ptr, lengths_ptr, sums_ptr, top_ptr, norm_ptr, scale, groups, D,
    q_row, q_head, k_row, k_head, k_time, v_row, v_head, v_time,
    SHARES: tl.constexpr, REPEAT: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One share of one row's keys for the REPEAT query heads of a group.

    Writes sums (B * Hkv, SHARES, REPEAT, D), top and norm (B * Hkv, SHARES, REPEAT): what softmax weights add up to,
    their largest exponent and their sum.
    """
    pair, share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, group = pair // groups, pair % groups
    length = tl.load(lengths_ptr + row).to(tl.int32)
    each = tl.cdiv(tl.cdiv(length, SHARES), BLOCK) * BLOCK
    place, stop = share * each, tl.minimum(length, (share + 1) * each)
    head, d, s = tl.arange(0, HEADS), tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    real = (head < REPEAT)[:, None] & (d < D)[None, :]
    at = q_ptr + row * q_row + (group * REPEAT + head)[:, None] * q_head + d[None, :]
    q = tl.load(at, mask=real, other=0.0)
    top = tl.full((HEADS,), float("-inf"), dtype=tl.float32)
    norm = tl.zeros((HEADS,), dtype=tl.float32)
    sums = tl.zeros((HEADS, WIDTH), dtype=tl.float32)
    while place < stop:
        time = place + s
        seen = (time < stop)[:, None] & (d < D)[None, :]
        key = row * k_row + group * k_head + time.to(tl.int64)[:, None] * k_time + d[None, :]
        k = tl.load(k_ptr + key, mask=seen, other=0.0)
        value = row * v_row + group * v_head + time.to(tl.int64)[:, None] * v_time + d[None, :]
        v = tl.load(v_ptr + value, mask=seen, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where((time < stop)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        old = tl.exp(top - higher)
        norm = norm * old + tl.sum(weights, axis=1)
        sums = sums * old[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        top = higher
        place += BLOCK
    out = (pair * SHARES + share) * REPEAT + head
    tl.store(top_ptr + out, top, mask=head < REPEAT)
    tl.store(norm_ptr + out, norm, mask=head < REPEAT)
    tl.store(sums_ptr + out[:, None] * D + d[None, :], sums, mask=real)


@triton.jit
def join_kernel(sums_ptr, top_ptr, norm_ptr, out_ptr, D, SHARES: tl.constexpr, WIDTH_S: tl.constexpr,
                REPEAT: tl.constexpr, WIDTH: tl.constexpr):
    """out (B * Hkv, REPEAT, D): all shares of one query head put together."""
    pair, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    share, d = tl.arange(0, WIDTH_S), tl.arange(0, WIDTH)
    at = (pair * SHARES + share) * REPEAT + head
    top = tl.load(top_ptr + at, mask=share < SHARES, other=float("-inf"))
    norm = tl.load(norm_ptr + at, mask=share < SHARES, other=0.0)
    weight = tl.exp(top - tl.max(top, axis=0))  # 0 for shares without a key
    inside = (share < SHARES)[:, None] & (d < D)[None, :]
    sums = tl.load(sums_ptr + at[:, None] * D + d[None, :], mask=inside, other=0.0)
    out = tl.sum(sums * weight[:, None], axis=0) / tl.sum(norm * weight, axis=0)
    tl.store(out_ptr + (pair * REPEAT + head) * D + d, out.to(out_ptr.dtype.element_ty), mask=d < D)


def shares_for(pairs: int, capacity: int) -> int:
    """Programs per row and group: enough to fill a GPU, each with some blocks of keys; a power of two."""
    wanted = max(1, min(PROGRAMS // max(pairs, 1), capacity // (4 * BLOCK)))
    return min(64, triton.next_power_of_2(wanted))


@on_its_device
def attend_one(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """q (B, H, D) against the first lengths[b] >= 1 of k and v (B, Hkv, S, D) -> (B, H, D)."""
    batch, heads, size = q.shape
    groups, capacity = k.shape[1:3]
    q, k, v = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (q, k, v))
    repeat, shares = heads // groups, shares_for(batch * groups, capacity)
    sums = torch.empty(batch * groups, shares, repeat, size, device=q.device)
    top, norm = torch.empty(2, batch * groups, shares, repeat, device=q.device)
    out = torch.empty(batch, heads, size, device=q.device, dtype=q.dtype)
    width = max(SMALLEST, triton.next_power_of_2(size))
    share_kernel[(batch * groups, shares)](
        q, k, v, lengths, sums, top, norm, float(scale), groups, size, *q.stride()[:2], *k.stride()[:3],
        *v.stride()[:3], SHARES=shares, REPEAT=repeat, HEADS=max(SMALLEST, triton.next_power_of_2(repeat)), WIDTH=width,
        BLOCK=BLOCK, PRECISION="tf32x3" if q.dtype == torch.float32 else "tf32", num_warps=4)
    join_kernel[(batch * groups, repeat)](
        sums, top, norm, out, size, SHARES=shares, WIDTH_S=shares, REPEAT=repeat, WIDTH=width, num_warps=4)
    return out
