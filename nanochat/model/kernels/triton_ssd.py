"""Our own SSD on the GPU: what `ssd_chunked` computes, forward and backward, as a handful of Triton launches.

Registered as operators of torch, so that torch.compile, checkpointing and autocast see one opaque step with a known
gradient. The backward pass computes the chunks' states again instead of keeping them.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from nanochat.model.kernels.ssd_tiles import chunk_state_kernel, gradient_kernel, output_kernel, pass_states_kernel

SMALLEST = 16  # least size of a side of a matrix product in Triton
BLOCK = 1024  # elements of a state per program of the pass over chunks
PROGRAMS = 512  # enough programs for a large GPU; more of them read B and C more often


def _width(size: int) -> int:
    return max(SMALLEST, triton.next_power_of_2(size))


class _Problem:
    """Sizes, decays and launch options shared by the kernels of one call."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, seg: Tensor | None, chunk: int) -> None:
        self.batch, self.length, self.heads, self.size = x.shape
        self.groups, self.d_state = B.shape[2:]
        self.chunk, self.chunks = chunk, triton.cdiv(self.length, chunk)
        self.has_seg = seg is not None
        missing = self.chunks * chunk - self.length
        self.dt = F.pad(dt.float().transpose(1, 2), (0, missing)).contiguous()  # (B, H, c * Q)
        steps = (self.dt * A.float()[:, None]).view(self.batch, self.heads, self.chunks, chunk)
        self.acs = steps.cumsum(-1).view_as(self.dt)
        self.whole = torch.exp(self.acs.view_as(steps)[..., -1]).transpose(1, 2).contiguous()  # (B, c, H)
        self.seg = self.dt  # a pointer that is not read
        if seg is not None:
            self.seg = F.pad(seg[:, None].float(), (0, missing), "replicate")[:, 0].int().contiguous() if missing else (
                seg.int().contiguous())
            ends = self.seg.view(self.batch, self.chunks, chunk)[..., -1]
            before = torch.cat([self.seg[:, :1], ends[:, :-1]], dim=1)
            self.whole = self.whole * (ends == before)[..., None]
        # three products of tf32 are as exact as one of float32, and run on the matrix units
        exact = x.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
        self.options = {"Q": chunk, "HAS_SEG": self.has_seg, "PRECISION": "tf32x3" if exact else "tf32"}
        self.width_p, self.width_n = _width(self.size), _width(self.d_state)
        self.warps = 8 if chunk * max(self.width_n, self.width_p) >= 64 * 128 else 4
        self.gradient_warps = 8 if chunk >= 64 else 4

    @property
    def split(self) -> int:
        """Heads per program: at most 8, which share the product of C and B, fewer where the GPU would not be full."""
        per_group, tiles = self.heads // self.groups, self.batch * self.chunks
        fitting = [n for n in range(1, 9) if per_group % n == 0 and tiles * self.heads // n >= PROGRAMS]
        return max(fitting, default=1)

    def sizes(self) -> tuple[int, ...]:
        return self.length, self.heads, self.groups, self.size, self.d_state, self.chunks

    def states(self, x: Tensor, b: Tensor, *, from_start: bool) -> Tensor:
        """(B, c, H, P, N) float32."""
        out = torch.empty(self.batch, self.chunks, self.heads, self.size, self.d_state, device=x.device)
        block_n = min(128, self.width_n)
        grid = (self.batch * self.chunks, self.heads, triton.cdiv(self.d_state, block_n))
        chunk_state_kernel[grid](
            x, b, self.dt, self.acs, self.seg, out, *self.sizes(), *x.stride()[:3], *b.stride()[:3],
            WIDTH_P=self.width_p, BLOCK_N=block_n, FROM_START=from_start, num_warps=self.warps, num_stages=1,
            **self.options)
        return out

    def walk(self, added: Tensor, first: Tensor | None, dtype: torch.dtype, other: Tensor | None = None
             ) -> tuple[Tensor, Tensor, Tensor]:
        """States at the chunks' starts, the last one, and sums of products with `other`; with `other` in reverse."""
        size = self.size * self.d_state
        starts = torch.empty_like(added, dtype=dtype)
        last = added.new_empty(self.batch, self.heads, self.size, self.d_state)
        blocks = triton.cdiv(size, BLOCK)
        products = added.new_empty(self.batch, self.chunks, self.heads, blocks)
        pass_states_kernel[(self.batch * self.heads, blocks)](
            added, self.whole, last if first is None else first.contiguous(), starts, last,
            added if other is None else other, products, self.heads, size, self.chunks, blocks,
            BLOCK=BLOCK, HAS_FIRST=first is not None, REVERSE=other is not None, HAS_OTHER=other is not None,
            num_warps=4)
        return starts, last, products


def chunk_for(x: Tensor, d_state: int) -> int:
    """Positions per chunk: 64, fewer for short inputs and where a program would run out of registers."""
    bytes_per_row = x.element_size() * max(_width(d_state), _width(x.shape[-1]))
    largest = 64 if bytes_per_row <= 256 else 32 if bytes_per_row <= 512 else 16
    return max(SMALLEST, min(largest, triton.next_power_of_2(x.shape[1])))


def _last_dim_first(*tensors: Tensor) -> list[Tensor]:
    return [tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in tensors]


def on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device: make that the one of the first tensor."""

    @functools.wraps(function)
    def run(first: Tensor, *others: Any) -> Any:
        with torch.cuda.device_of(first):
            return function(first, *others)

    return run


@torch.library.custom_op("nanochat::ssd", mutates_args=())
@on_its_device
def ssd_op(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, seg: Tensor | None, chunk: int
           ) -> tuple[Tensor, Tensor]:
    """y like x but contiguous, and the last state in float32; seg rises where a packed row begins."""
    x, B, C = _last_dim_first(x, B, C)
    problem = _Problem(x, dt, A, B, seg, chunk)
    starts, last, _ = problem.walk(problem.states(x, B, from_start=False), state, x.dtype)
    y = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    split = problem.split
    output_kernel[(problem.batch * problem.chunks, problem.heads // split)](
        x, B, C, problem.dt, problem.acs, problem.seg, starts, y, *problem.sizes(),
        *x.stride()[:3], *B.stride()[:3], *C.stride()[:3], SPLIT=split, WIDTH_P=problem.width_p,
        WIDTH_N=problem.width_n, num_warps=problem.warps, num_stages=1, **problem.options)
    return y, last


@ssd_op.register_fake
def _(x, dt, A, B, C, state, seg, chunk):  # type: ignore[no-untyped-def]
    return (torch.empty(x.shape, device=x.device, dtype=x.dtype),
            x.new_empty(x.shape[0], x.shape[2], x.shape[3], B.shape[3], dtype=torch.float32))


@torch.library.custom_op("nanochat::ssd_backward", mutates_args=())
@on_its_device
def ssd_backward_op(
    dy: Tensor, dlast: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None,
    seg: Tensor | None, chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C and the first state; those of dt, A and the state are float32."""
    x, B, C = _last_dim_first(x, B, C)
    dy = dy.to(x.dtype).contiguous()
    problem = _Problem(x, dt, A, B, seg, chunk)
    starts, _, _ = problem.walk(problem.states(x, B, from_start=False), state, x.dtype)
    ends, dstate, products = problem.walk(
        problem.states(dy, C, from_start=True), dlast.float(), x.dtype, other=starts)
    split = problem.split
    parts = problem.heads // split
    dx = torch.empty(x.shape, device=x.device, dtype=x.dtype)
    db, dc = torch.empty(2, parts, *x.shape[:2], problem.d_state, device=x.device)
    later, earlier, to_end = torch.empty(3, *problem.dt.shape, device=x.device)
    gradient_kernel[(problem.batch * problem.chunks, parts)](
        x, B, C, dy, problem.dt, problem.acs, problem.seg, starts, ends, dx, db, dc, later, earlier, to_end,
        *problem.sizes(), *x.stride()[:3], *B.stride()[:3], *C.stride()[:3], SPLIT=split, WIDTH_P=problem.width_p,
        WIDTH_N=problem.width_n, num_warps=problem.gradient_warps, num_stages=1, **problem.options)
    dB, dC = (_sum_groups(part, problem.groups).to(B.dtype) for part in (db, dc))
    ddt, dA = _decay_gradients(problem, A.float(), later, earlier, to_end, products.sum(-1) * problem.whole)
    return dx, ddt, dA, dB, dC, dstate


def _sum_groups(parts: Tensor, groups: int) -> Tensor:
    """(parts, B, T, N) -> (B, T, G, N)."""
    return parts.unflatten(0, (groups, -1)).sum(1).permute(1, 2, 0, 3)


def _decay_gradients(problem: _Problem, A: Tensor, later: Tensor, earlier: Tensor, to_end: Tensor, carried: Tensor
                     ) -> tuple[Tensor, Tensor]:
    """Gradients of dt (B, T, H) and A (H) from those of the cumulative decays; carried (B, c, H): of whole chunks."""
    chunked = (problem.batch, problem.heads, problem.chunks, problem.chunk)
    direct = earlier + to_end
    dacs = (later - problem.dt * direct).view(chunked)
    last = (problem.dt * to_end).view(chunked).sum(-1) + carried.transpose(1, 2)
    # gradient of dt * A: the sum of those of acs behind it in the chunk
    dsteps = dacs.flip(-1).cumsum(-1).flip(-1) + last[..., None]
    dsteps = dsteps.view_as(problem.dt)
    ddt = (direct + dsteps * A[:, None])[..., : problem.length].transpose(1, 2)
    return ddt.contiguous(), (dsteps * problem.dt).sum((0, 2))


@ssd_backward_op.register_fake
def _(dy, dlast, x, dt, A, B, C, state, seg, chunk):  # type: ignore[no-untyped-def]
    empty = [torch.empty(t.shape, device=x.device, dtype=t.dtype) for t in (x, dt.float(), A.float(), B, C)]
    return (*empty, torch.empty(dlast.shape, device=x.device, dtype=torch.float32))


def _setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:7])
    ctx.chunk = inputs[7]


def _backward(ctx, dy, dlast):  # type: ignore[no-untyped-def]
    x, dt, A, B, C, state, seg = ctx.saved_tensors
    dx, ddt, dA, dB, dC, dstate = ssd_backward_op(dy, dlast, x, dt, A, B, C, state, seg, ctx.chunk)
    return (dx, ddt.to(dt.dtype), dA.to(A.dtype), dB, dC, None if state is None else dstate.to(state.dtype), None, None)


ssd_op.register_autograd(_backward, setup_context=_setup)


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk_size: int = 0, state: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What `ssd_chunked` returns; chunk_size is not used, the kernels know their own."""
    seg = None if seq_idx is None else segment_numbers(seq_idx)
    return ssd_op(x, dt, A, B, C, state, seg, chunk_for(x, B.shape[-1]))


def segment_numbers(seq_idx: Tensor) -> Tensor:
    """(B, T) int32 that starts at 0 and rises by one wherever seq_idx changes, so that equal means uninterrupted."""
    changes = seq_idx[:, 1:] != seq_idx[:, :-1]
    return F.pad(changes.int(), (1, 0)).cumsum(1, dtype=torch.int32)
