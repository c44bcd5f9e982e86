"""State-space duality: the Mamba-2 recurrence, step by step (the reference) and in chunks (the fast form).

For every head with scalar decay A < 0: S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T and y_t = S_t C_t.
Dao and Gu 2024, "Transformers are SSMs", arXiv:2405.21060.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanochat.model import cpu
from nanochat.model.cpu.scan import ssd_cpu
from nanochat.model.kernels import ssd_kernel


def ssd_sequential(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, state: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The recurrence, one position at a time.

    x (B, T, H, P); dt (B, T, H) positive; A (H) negative; B and C (B, T, G, N) with G dividing H; state (B, H, P, N)
    float32 or None for zeros; seq_idx (B, T): the state is cleared where it changes.
    Returns y (B, T, H, P) and the state after the last position.
    """
    batch, length, heads, size = x.shape
    repeat = heads // B.shape[2]
    if state is None:
        state = x.new_zeros(batch, heads, size, B.shape[-1])
    outputs = []
    for t in range(length):
        if seq_idx is not None and t > 0:
            state = state * (seq_idx[:, t] == seq_idx[:, t - 1])[:, None, None, None]
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        b = B[:, t].repeat_interleave(repeat, dim=1)
        c = C[:, t].repeat_interleave(repeat, dim=1)
        state = decay * state + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, :, None, :]
        outputs.append(torch.einsum("bhpn,bhn->bhp", state, c))
    return torch.stack(outputs, dim=1), state


def ssd_chunked(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk_size: int, state: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same function as `ssd_sequential`: quadratic inside a chunk, one state passed between chunks.

    A last chunk that is not full is filled with dt = 0, which neither decays the state nor adds to it.
    """
    batch, length, heads, size = x.shape
    groups, d_state = B.shape[2:]
    chunk = min(chunk_size, length)
    missing = -length % chunk
    num = (length + missing) // chunk
    if missing:
        x, B, C = (F.pad(t, (0, 0, 0, 0, 0, missing)) for t in (x, B, C))
        dt = F.pad(dt, (0, 0, 0, missing))
        # the filling belongs to the last segment, so that the state survives it
        seq_idx = None if seq_idx is None else F.pad(seq_idx[:, None].float(), (0, missing), "replicate")[:, 0].long()
    per_group = heads // groups
    # (B, c, Q, G, H/G * P): heads of a group share B and C, so they share one matrix product
    xdt = (x * dt[..., None]).view(batch, num, chunk, groups, per_group * size).transpose(2, 3)
    b = B.view(batch, num, chunk, groups, d_state).transpose(2, 3)
    c = C.view(batch, num, chunk, groups, d_state).transpose(2, 3)
    log_decay = (dt * A).view(batch, num, chunk, groups, per_group).permute(0, 1, 3, 4, 2).cumsum(-1)  # (B,c,G,h,Q)

    visible = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    to_end = torch.exp(log_decay[..., -1:] - log_decay)  # decay from a position to the chunk's end
    from_start = torch.exp(log_decay)  # decay from the chunk's start to a position, both included
    whole = from_start[..., -1]  # (B, c, G, h)
    if seq_idx is not None:
        segments = seq_idx.view(batch, num, chunk)
        visible = visible & (segments[..., :, None] == segments[..., None, :])[:, :, None, None]
        before = torch.cat([segments[:, :1, 0], segments[:, :-1, -1]], dim=1)  # segment just before each chunk
        to_end = to_end * (segments == segments[..., -1:])[:, :, None, None]
        carried = segments == before[..., None]
        from_start = from_start * carried[:, :, None, None]
        whole = whole * carried[..., -1][:, :, None, None]
    # masked before exp: differences above the diagonal are positive and could overflow
    decay = torch.exp((log_decay[..., :, None] - log_decay[..., None, :]).masked_fill(~visible, float("-inf")))

    inside = (c @ b.transpose(-1, -2)).unsqueeze(3) * decay  # (B, c, G, h, Q, Q)
    values = xdt.view(batch, num, groups, chunk, per_group, size).transpose(3, 4)
    y = inside @ values  # (B, c, G, h, Q, P)
    added = b.transpose(-1, -2).unsqueeze(3) @ (values * to_end[..., None])  # (B, c, G, h, N, P)
    running = x.new_zeros(batch, groups, per_group, d_state, size) if state is None else (
        state.view(batch, groups, per_group, size, d_state).transpose(-1, -2))
    starts = []
    for i in range(num):
        starts.append(running)
        running = running * whole[:, i, ..., None, None] + added[:, i]
    y = y + (c.unsqueeze(3) @ torch.stack(starts, dim=1)) * from_start[..., None]
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, num * chunk, heads, size)[:, :length]
    return y, running.transpose(-1, -2).reshape(batch, heads, size, d_state)


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk_size: int, state: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The right form for the length and the device. Shapes as in `ssd_sequential`; chunks are `chunk_size` at most."""
    kernel = ssd_kernel(x)
    if kernel is not None:
        return kernel(x, dt, A, B, C, chunk_size=chunk_size, state=state, seq_idx=seq_idx)
    if x.shape[1] == 1:
        return ssd_sequential(x, dt, A, B, C, state=state)
    if cpu.takes(x):
        return ssd_cpu(x, dt, A, B, C, chunk_size=chunk_size, state=state, seq_idx=seq_idx)
    return ssd_chunked(x, dt, A, B, C, chunk_size=chunk_size, state=state, seq_idx=seq_idx)
