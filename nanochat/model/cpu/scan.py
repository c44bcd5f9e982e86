"""The chunked SSD with its own backward pass: nothing quadratic is saved, decay masks are made again block by block.

With L the cumulative log decay of a chunk, every way from x_j to y_i carries dt_j exp(L_i - L_j). The gradient of L_i
is <dy_i, y_i> - <x_i dt_i, d(x_i dt_i)>, plus <state, dstate> at a chunk's end: no gradient of a mask is formed.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = 1 / math.log(2)  # exp2 is several times faster than exp on CPUs that MKL does not favour
BLOCK = 1 << 19  # elements of a block of masks: 2 MiB, so that a block's products find it in the cache
CHUNK = 64  # positions per chunk at most


class Decays(NamedTuple):
    """What decays of n = B * c chunks of Q positions come to; all float32."""

    log2: Tensor  # (n, H, Q) cumulative log2 of the decay, this position included
    from_start: Tensor  # (n, Q, H) from the chunk's start to a position; 0 where another segment begins between
    to_end: Tensor  # (n, Q, H) from a position to the chunk's end
    whole: Tensor  # (B, c, H) over a whole chunk
    mask: Tensor  # (Q, Q) or (n, Q, Q): 0 where j is seen from i, else -inf


def plan_decays(dt: Tensor, A: Tensor, chunk: int, seq_idx: Tensor | None) -> Decays:
    """dt (B, T, H) with T a multiple of `chunk`; seq_idx (B, T) or None."""
    batch, length, heads = dt.shape
    num = batch * length // chunk
    log2 = (dt * (A * LOG2_E)).view(num, chunk, heads).transpose(1, 2).cumsum(-1)  # contiguous: (n, H, Q)
    from_start = torch.exp2(log2).transpose(1, 2).contiguous()
    to_end = torch.exp2(log2[..., -1:] - log2).transpose(1, 2).contiguous()
    whole = from_start[:, -1].view(batch, -1, heads)
    mask = torch.full((chunk, chunk), float("-inf"), device=dt.device).triu(1)
    if seq_idx is not None:
        segments = seq_idx.reshape(num, chunk)
        other = segments[:, :, None] != segments[:, None, :]
        mask = mask.expand(num, chunk, chunk).masked_fill(other, float("-inf"))
        last = segments.view(batch, -1, chunk)[..., -1]
        before = torch.cat([segments.view(batch, -1, chunk)[:, :1, 0], last[:, :-1]], dim=1).reshape(num, 1)
        carried = segments == before
        from_start = from_start * carried[..., None]
        to_end = to_end * (segments == segments[:, -1:])[..., None]
        whole = whole * carried[:, -1].view(batch, -1, 1)
    return Decays(log2, from_start, to_end, whole, mask)


def fill_masks(decays: Decays, part: slice, out: Tensor) -> Tensor:
    """out (n, H, Q, Q): decay from position j to position i, 0 where j is not seen from i."""
    log2 = decays.log2[part]
    torch.sub(log2[..., :, None], log2[..., None, :], out=out)
    out += decays.mask if decays.mask.dim() == 2 else decays.mask[part][:, None]
    return out.exp2_()


def by_group(x: Tensor, num: int, groups: int) -> Tensor:
    """(B, T, G, ..) -> (n * G, Q, ..), without a copy for one group."""
    return x.reshape(num, -1, groups, x.numel() // (x.shape[0] * x.shape[1] * groups)).transpose(1, 2).flatten(0, 1)


def from_groups(x: Tensor, num: int, shape: tuple[int, ...]) -> Tensor:
    """The reverse of `by_group`: (n * G, Q, F) -> shape (B, T, G, ..)."""
    return x.view(num, -1, *x.shape[1:]).transpose(1, 2).reshape(shape)


def blocks(num: int, size: int) -> list[slice]:
    """Cut `num` chunks into blocks of about BLOCK elements, `size` elements each."""
    step = max(1, BLOCK // size)
    return [slice(start, min(num, start + step)) for start in range(0, num, step)]


def pass_states(first: Tensor, added: Tensor, whole: Tensor) -> Tensor:
    """first (B, ..), added (B, c, ..) -> states before each chunk and after the last (B, c + 1, ..)."""
    batch, num = added.shape[:2]
    states = added.new_empty(batch, num + 1, *added.shape[2:])
    states[:, 0] = first
    for i in range(num):
        torch.addcmul(added[:, i], states[:, i], whole[:, i], out=states[:, i + 1])
    return states


def scan_forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, seq_idx: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """y (B, T, H, P) and all states (B, c + 1, G, N, H/G, P), for T a multiple of `chunk`."""
    batch, length, heads, size = x.shape
    groups, d_state = B.shape[2:]
    per, num = heads // groups, batch * length // chunk
    decays = plan_decays(dt, A, chunk, seq_idx)
    x = x.reshape(num, chunk, heads, size)
    b, c = by_group(B, num, groups), by_group(C, num, groups)
    weighted = x * (dt.reshape(num, chunk, heads) * decays.to_end)[..., None]
    added = torch.bmm(b.transpose(1, 2), by_group(weighted, num, groups))  # (n * G, N, H/G * P)
    first = x.new_zeros(batch, groups, d_state, per, size) if state is None else (
        state.view(batch, groups, per, size, d_state).permute(0, 1, 4, 2, 3))
    states = pass_states(first, added.view(batch, -1, groups, d_state, per, size),
                         decays.whole.view(batch, -1, groups, 1, per, 1))
    inter = torch.bmm(c, states[:, :-1].reshape(num * groups, d_state, per * size))
    y = from_groups(inter, num, (num, chunk, heads, size)).mul_(decays.from_start[..., None])
    steps = dt.reshape(num, chunk, heads).transpose(1, 2)[..., None]  # (n, H, Q, 1)
    for part in blocks(num, heads * chunk * max(chunk, size)):
        count = part.stop - part.start
        pairs = slice(part.start * groups, part.stop * groups)
        masks = fill_masks(decays, part, x.new_empty(count, heads, chunk, chunk))
        masks.view(count * groups, per, chunk, chunk).mul_(torch.bmm(c[pairs], b[pairs].transpose(1, 2))[:, None])
        values = torch.mul(x[part].transpose(1, 2), steps[part], out=x.new_empty(count, heads, chunk, size))
        inside = torch.bmm(masks.flatten(0, 1), values.flatten(0, 1))
        y[part] += inside.view(count, heads, chunk, size).transpose(1, 2)
    return y.reshape(batch, length, heads, size), states


def scan_backward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, seq_idx: Tensor | None, chunk: int,
    y: Tensor, states: Tensor, dy: Tensor, dlast: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C and of the state before the first chunk (B, G, N, H/G, P)."""
    batch, length, heads, size = x.shape
    groups, d_state = B.shape[2:]
    per, num = heads // groups, batch * length // chunk
    decays = plan_decays(dt, A, chunk, seq_idx)
    nat = (num, chunk, heads, size)
    x, dy, dt = x.reshape(nat), dy.reshape(nat), dt.reshape(num, chunk, heads)
    b, c = by_group(B, num, groups), by_group(C, num, groups)
    # between chunks: states flow forward, their gradients backward
    starts = states[:, :-1].reshape(num * groups, d_state, per * size)
    weighted = by_group(dy * decays.from_start[..., None], num, groups)
    dc = torch.bmm(weighted, starts.transpose(1, 2))
    dstarts = torch.bmm(c.transpose(1, 2), weighted).view(batch, -1, groups, d_state, per, size)
    whole = decays.whole.view(batch, -1, groups, 1, per, 1)
    last = torch.zeros_like(states[:, 0]) if dlast is None else dlast
    dstates = pass_states(last, dstarts.flip(1), whole.flip(1)).flip(1)  # (B, c + 1, G, N, H/G, P)
    dends = dstates[:, 1:].reshape(num * groups, d_state, per * size)
    weighted = by_group(torch.mul(x, (dt * decays.to_end)[..., None]), num, groups)
    db = torch.bmm(weighted, dends.transpose(1, 2))
    dvalues = from_groups(torch.bmm(b, dends), num, nat).mul_(decays.to_end[..., None])  # gradient of x * dt
    steps = dt.transpose(1, 2)[..., None]
    for part in blocks(num, heads * chunk * max(chunk, size)):
        count = part.stop - part.start
        pairs = slice(part.start * groups, part.stop * groups)
        decay = fill_masks(decays, part, x.new_empty(count, heads, chunk, chunk))
        values = torch.mul(x[part].transpose(1, 2), steps[part], out=x.new_empty(count, heads, chunk, size))
        dout = dy[part].transpose(1, 2).contiguous().flatten(0, 1)
        dmask = torch.bmm(dout, values.flatten(0, 1).transpose(1, 2)).view_as(decay).mul_(decay)
        dscores = dmask.view(count * groups, per, chunk, chunk).sum(1)
        dc[pairs] += torch.bmm(dscores, b[pairs])
        db[pairs] += torch.bmm(dscores.transpose(1, 2), c[pairs])
        decay.view(count * groups, per, chunk, chunk).mul_(torch.bmm(c[pairs], b[pairs].transpose(1, 2))[:, None])
        dinside = torch.bmm(decay.flatten(0, 1).transpose(1, 2), dout)
        dvalues[part] += dinside.view(count, heads, chunk, size).transpose(1, 2)
    by_step = (x * dvalues).sum(-1)  # (n, Q, H)
    dlog = (dy * y.reshape(nat)).sum(-1) - dt * by_step
    ends = (states[:, 1:] * dstates[:, 1:]).sum((3, 5))  # (B, c, G, H/G)
    dlog[:, -1] += ends.view(num, heads)
    dlog = dlog.flip(1).cumsum(1).flip(1)
    ddt = by_step + dlog * A
    dx = dvalues.mul_(dt[..., None])
    return (dx.reshape(batch, length, heads, size), ddt.reshape(batch, length, heads), (dlog * dt).sum((0, 1)),
            from_groups(db, num, B.shape), from_groups(dc, num, C.shape), dstates[:, 0])


class ChunkedScan(torch.autograd.Function):
    """`ssd_chunked` for T a multiple of the chunk, with the backward pass above."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None,
                seq_idx: Tensor | None, chunk: int) -> tuple[Tensor, Tensor]:
        y, states = scan_forward(x, dt, A, B, C, state, seq_idx, chunk)
        ctx.save_for_backward(x, dt, A, B, C, seq_idx, y, states)
        ctx.chunk, ctx.has_state = chunk, state is not None
        batch, _, groups, d_state, per, size = states.shape
        return y, states[:, -1].permute(0, 1, 3, 4, 2).reshape(batch, groups * per, size, d_state)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, seq_idx, y, states = ctx.saved_tensors
        batch, _, groups, d_state, per, size = states.shape
        last = dlast.view(batch, groups, per, size, d_state).permute(0, 1, 4, 2, 3)
        *grads, dfirst = scan_backward(x, dt, A, B, C, seq_idx, ctx.chunk, y, states, dy, last)
        dstate = dfirst.permute(0, 1, 3, 4, 2).reshape(batch, groups * per, size, d_state) if ctx.has_state else None
        return *grads, dstate, None, None


def ssd_cpu(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk_size: int, state: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Same arguments and results as `ssd_chunked`; positions that do not fill a chunk make a shorter last one."""
    length = x.shape[1]
    chunk = min(chunk_size, CHUNK, length)
    full = length // chunk * chunk
    if full == length:
        return ChunkedScan.apply(x, dt, A, B, C, state, seq_idx, chunk)
    y, state = ChunkedScan.apply(x[:, :full], dt[:, :full], A, B[:, :full], C[:, :full], state,
                                 None if seq_idx is None else seq_idx[:, :full], chunk)
    if seq_idx is not None:
        state = state * (seq_idx[:, full] == seq_idx[:, full - 1])[:, None, None, None]
    rest, state = ChunkedScan.apply(x[:, full:], dt[:, full:], A, B[:, full:], C[:, full:], state,
                                    None if seq_idx is None else seq_idx[:, full:], length - full)
    return torch.cat([y, rest], dim=1), state
