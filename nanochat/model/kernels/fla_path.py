"""flash-linear-attention's chunked gated linear attention as an SSD: C asks, B is the key, dt x the value.

Written against flash-linear-attention 0.4. It carries states between chunks in the inputs' type.
"""

import torch
from torch import Tensor

from nanochat.model.kernels import triton_ssd


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk_size: int = 0, state: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`ssd_chunked` by chunk_simple_gla; our own kernels for packed rows, which it only takes as one long row."""
    if seq_idx is not None or x.shape[1] == 1:
        return triton_ssd.ssd(x, dt, A, B, C, state=state, seq_idx=seq_idx)
    from fla.ops.simple_gla import chunk_simple_gla

    repeat = x.shape[2] // B.shape[2]
    b, c = (tensor.repeat_interleave(repeat, dim=2) if repeat > 1 else tensor for tensor in (B, C))
    with torch.autocast(x.device.type, enabled=False):
        y, last = chunk_simple_gla(
            c.contiguous(), b.contiguous(), (x * dt[..., None]).to(x.dtype), (dt * A).float(), scale=1.0,
            initial_state=None if state is None else state.transpose(-1, -2).contiguous(), output_final_state=True)
    return y, last.float().transpose(-1, -2)
