"""Small parts shared by both block types: RMSNorm, gated MLP, and a causal convolution that can be resumed."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanochat.model import cpu
from nanochat.model.cpu.convolution import CausalConv
from nanochat.model.cpu.norm import GatedNorm
from nanochat.model.kernels import conv_kernel

PIECE = 1024  # positions that are read at once where no gradients are wanted


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale (Zhang and Sennrich 2019, arXiv:1910.07467).

    groups > 1 normalises as many equal parts of the channels each by itself.
    """

    def __init__(self, size: int, eps: float, *, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps, self.groups = eps, groups

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """x (..., size), times silu(gate) where there is one -> the same shape, computed in float32."""
        parts = (self.groups, self.weight.numel() // self.groups)
        if cpu.takes(x) and torch.is_grad_enabled():
            rows = (-1, *parts)
            gate = None if gate is None else gate.float().reshape(rows)
            y = GatedNorm.apply(x.float().reshape(rows), gate, self.weight.float().view(parts), self.eps)
            return y.view(x.shape).to(x.dtype)
        value = x.float() if gate is None else x.float() * F.silu(gate.float())
        if self.groups == 1:
            return F.rms_norm(value, self.weight.shape, self.weight.float(), self.eps).to(x.dtype)
        normed = F.rms_norm(value.unflatten(-1, parts), parts[1:], None, self.eps).flatten(-2)
        return (normed * self.weight.float()).to(x.dtype)


class GatedMLP(nn.Module):
    """SwiGLU: output(silu(gate) * up) with gate and up from one matrix (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.input_linear = nn.Linear(width, 2 * hidden, bias=bias)
        self.output_linear = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> the same shape; long inputs without gradients in pieces, so that memory stays small."""
        if x.shape[1] > PIECE and x.device.type == "cpu" and not torch.is_grad_enabled():
            return torch.cat([self(piece) for piece in x.split(PIECE, dim=1)], dim=1)
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
    kernel = conv_kernel(x)
    if kernel is not None:
        return kernel(x, weight, bias, tail, seq_idx=seq_idx)
    length, width = x.shape[1], weight.shape[1]
    if cpu.takes(x):
        if tail is None:
            new_tail = F.pad(x[:, max(0, length - width + 1) :], (0, 0, max(0, width - 1 - length), 0))
            y = CausalConv.apply(x.float(), weight.float(), None if bias is None else bias.float(), seq_idx)
            return y.to(x.dtype), new_tail
        padded = torch.cat([tail, x], dim=1)
        return conv_from_window(padded, weight, bias), padded[:, length:]
    if tail is None:
        tail = x.new_zeros(x.shape[0], width - 1, x.shape[2])
    padded = torch.cat([tail, x], dim=1)
    if seq_idx is None:
        y = F.conv1d(padded.transpose(1, 2), weight.unsqueeze(1), bias, groups=x.shape[2]).transpose(1, 2)
        return y, padded[:, length:]
    y = x * weight[:, -1]
    for shift in range(1, min(width, length)):
        same = (seq_idx[:, shift:] == seq_idx[:, :-shift]).unsqueeze(-1)
        y = y + F.pad(x[:, :-shift] * same * weight[:, -1 - shift], (0, 0, shift, 0))
    return y if bias is None else y + bias, padded[:, length:]


def conv_from_window(padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """padded (B, K-1 + T, C) inputs with what stands before them -> y (B, T, C), computed in float32."""
    dtype, width = padded.dtype, weight.shape[1]
    padded, weight, bias = padded.float(), weight.float(), None if bias is None else bias.float()
    if torch.is_grad_enabled():
        return CausalConv.apply(padded, weight, bias, None)[:, width - 1 :].to(dtype)
    length = padded.shape[1] - width + 1
    taps = weight.t()
    if length == 1:
        y = (padded * taps).sum(1, keepdim=True)
        return (y if bias is None else y.add_(bias)).to(dtype)
    y = padded[:, :length] * taps[0] if bias is None else torch.addcmul(bias, padded[:, :length], taps[0])
    for place in range(1, width):
        y.addcmul_(padded[:, place : place + length], taps[place])
    return y.to(dtype)
