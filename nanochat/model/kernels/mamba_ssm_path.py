"""The packages mamba-ssm and causal-conv1d behind our signatures.

Written against mamba-ssm 2.2 and causal-conv1d 1.5. Where the packages cannot do what is asked, our Triton kernels do.
"""

import torch
from torch import Tensor

from nanochat.model.kernels import triton_conv, triton_ssd

CHUNK = 256  # what the package's kernels are tuned for
WIDTHS = (2, 3, 4)  # kernel widths of causal-conv1d


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, chunk_size: int = 0, state: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`ssd_chunked` by mamba_chunk_scan_combined; our own kernels for one token and for sizes it was not made for."""
    odd = any(size & (size - 1) for size in (x.shape[-1], B.shape[-1]))
    if odd or x.shape[1] == 1:
        return triton_ssd.ssd(x, dt, A, B, C, state=state, seq_idx=seq_idx)
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    # its kernels take segment 0 to be what the first state belongs to, and read int32
    seg = None if seq_idx is None else triton_ssd.segment_numbers(seq_idx).contiguous()
    with torch.autocast(x.device.type, enabled=False):
        y, last = mamba_chunk_scan_combined(
            x.contiguous(), dt.float().contiguous(), A.float(), B.contiguous(), C.contiguous(), CHUNK,
            initial_states=None if state is None else state.contiguous(), seq_idx=seg, return_final_states=True)
    return y, last.float()


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None, *, seq_idx: Tensor | None = None
                ) -> tuple[Tensor, Tensor]:
    """`causal_conv` by causal_conv1d_fn, which wants channels side by side, a multiple of 8 of them, and one type."""
    width = weight.shape[1]
    is_continued_and_packed = tail is not None and seq_idx is not None
    if width not in WIDTHS or x.shape[-1] % 8 or x.shape[1] == 1 or is_continued_and_packed:
        return triton_conv.causal_conv(x, weight, bias, tail, seq_idx=seq_idx)
    from causal_conv1d import causal_conv1d_fn

    # its transpose must be "channel last", with strides that are multiples of 8
    if x.stride(-1) != 1 or x.stride(0) % 8 or x.stride(1) % 8:
        x = x.contiguous()
    seg = None if seq_idx is None else triton_ssd.segment_numbers(seq_idx).contiguous()
    y = causal_conv1d_fn(
        x.transpose(1, 2), weight.to(x.dtype), None if bias is None else bias.to(x.dtype), seq_idx=seg,
        initial_states=None if tail is None else tail.to(x.dtype).contiguous().transpose(1, 2))
    return y.transpose(1, 2), triton_conv.next_tail(x, tail, width)
