"""Small parts shared by both block types: RMSNorm, gated MLP, and a causal convolution that can be resumed."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale (Zhang and Sennrich 2019, arXiv:1910.07467).

    groups > 1 normalises as many equal parts of the channels each by itself.
    """

    def __init__(self, size: int, eps: float, *, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.groups = eps, groups

    def forward(self, x: Tensor) -> Tensor:
        """x (..., size) -> the same shape, computed in float32."""
        if self.groups == 1:
            return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)
        parts = x.float().unflatten(-1, (self.groups, -1))
        return (F.rms_norm(parts, parts.shape[-1:], None, self.eps).flatten(-2) * self.weight.float()).to(x.dtype)


class GatedMLP(nn.Module):
    """SwiGLU: output(silu(gate) * up) with gate and up from one matrix (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.input_linear = nn.Linear(width, 2 * hidden, bias=bias)
        self.output_linear = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.input_linear(x).chunk(2, dim=-1)
        return self.output_linear(F.silu(gate) * up)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None, *, seq_idx: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution that can be resumed.

    x (B, T, C) new inputs; weight (C, K), last tap on the current position; bias (C) or None;
    tail (B, K-1, C) the inputs just before x, or None for zeros; seq_idx (B, T) segment numbers of packed rows:
    inputs of another segment count as zero (only without a tail).
    Returns y (B, T, C) and the next tail. Cutting x anywhere and passing the tail along gives the same y.
    """
    batch, length, channels = x.shape
    width = weight.shape[1]
    if tail is None:
        tail = x.new_zeros(batch, width - 1, channels)
    padded = torch.cat([tail, x], dim=1)
    if seq_idx is None:
        y = F.conv1d(padded.transpose(1, 2), weight.unsqueeze(1), bias, groups=channels).transpose(1, 2)
    else:
        y = x * weight[:, -1]
        for shift in range(1, min(width, length)):
            same = (seq_idx[:, shift:] == seq_idx[:, :-shift]).unsqueeze(-1)
            y = y + F.pad(x[:, :-shift] * same * weight[:, -1 - shift], (0, 0, shift, 0))
        y = y if bias is None else y + bias
    return y, padded[:, length:]
