"""T block mixer: grouped-query attention, mostly without positions, with an optional short convolution on q, k, v."""

import torch
from torch import Tensor, nn

from nanochat.model.attend import attend
from nanochat.model.cache import KVState
from nanochat.model.config import ModelConfig
from nanochat.model.layers import causal_conv
from nanochat.model.step import Step

KEY_GAIN = 1.4  # makes a token's match with itself stand out among some hundred others at the start


class Attention(nn.Module):
    """Causal softmax attention (Ainslie et al. 2023, arXiv:2305.13245 for grouped queries).

    `attention_conv` > 0 adds a depthwise causal convolution on q, k and v, so that one layer can match a token by what
    stands before it; tiny models do not learn to look things up without it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.attention_head_dim
        self.scale = config.attention_multiplier or self.head_dim**-0.5
        self.rope_theta, self.rotated = config.rope_theta, config.rotated
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.n_embd, self.n_head * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.n_embd, self.n_kv_head * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.n_embd, self.n_kv_head * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.n_head * self.head_dim, config.n_embd, bias=bias)
        self.kernel = config.attention_conv
        channels = (self.n_head + 2 * self.n_kv_head) * self.head_dim
        self.conv_weight = nn.Parameter(torch.zeros(channels, self.kernel)) if self.kernel else None

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Start close to an induction head when there is a convolution (Trockman and Kolter 2023, arXiv:2305.09828).

        Queries and keys share their matrix, so a position looks for its own token; the keys of every second head are
        moved one position on, so that it finds what followed that token; the output matrix is the values' transpose, so
        that what is found is what is predicted. Without this, tiny models need many times the steps to learn to copy.
        """
        if self.conv_weight is None:
            return
        repeat = self.n_head // self.n_kv_head
        with torch.no_grad():
            def per_head(weight: Tensor) -> Tensor:  # (Hkv * D, C) -> (H * D, C)
                return weight.view(self.n_kv_head, self.head_dim, -1).repeat_interleave(repeat, dim=0).flatten(0, 1)

            self.k_proj.weight *= KEY_GAIN
            self.q_proj.weight.copy_(per_head(self.k_proj.weight))
            self.o_proj.weight.copy_(per_head(self.v_proj.weight).T * (self.n_head * self.head_dim) ** -0.5)
            nn.init.normal_(self.conv_weight, std=0.1, generator=generator)
            self.conv_weight[:, -1] += 1.0
            if self.kernel > 1:
                keys = self.conv_weight[self.n_head * self.head_dim : -self.n_kv_head * self.head_dim]
                moved = keys.view(self.n_kv_head, self.head_dim, self.kernel)[::2]
                moved[..., -1] -= 1.0
                moved[..., -2] += 1.0

    def new_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> KVState:
        """An empty state for `batch` rows."""
        shape = (batch, self.n_kv_head, 0, self.head_dim)
        channels = (self.n_head + 2 * self.n_kv_head) * self.head_dim
        tail = torch.zeros(batch, max(self.kernel - 1, 0), channels, device=device, dtype=dtype)
        empty = torch.zeros(shape, device=device, dtype=dtype)
        return KVState(keys=empty, values=empty.clone(), conv=tail)

    def forward(self, x: Tensor, state: KVState | None, step: Step) -> Tensor:
        """x (B, T, C) -> (B, T, C); appends T positions to `state`."""
        batch, length, _ = x.shape
        qkv = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)
        if self.conv_weight is not None:
            tail = state.conv if state else None
            qkv, tail = causal_conv(qkv, self.conv_weight, None, tail, seq_idx=step.seq_idx)
            if state is not None:
                state.update(conv=tail)
        heads = qkv.view(batch, length, -1, self.head_dim).transpose(1, 2)
        q, k, v = heads.split([self.n_head, self.n_kv_head, self.n_kv_head], dim=1)
        if self.rotated:
            q, k = rotate(torch.cat([q, k], dim=1), step.positions, self.rope_theta, self.rotated).split(
                [self.n_head, self.n_kv_head], dim=1)
        if state is not None:
            assert step.lengths is not None, "a cached forward needs the rows' lengths"
            state.append(step.lengths, k, v, total=step.total, start=step.start)
            k, v = state.keys[:, :, : step.total], state.values[:, :, : step.total]
        y = attend(q, k, v, step, scale=self.scale)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


def rotate(x: Tensor, positions: Tensor, theta: float, rotated: int) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864), halves of a head paired as in transformers.

    x (B, H, T, D), positions (B, T); the first `rotated` channels of each head turn, the others stay.
    """
    frequency = theta ** (-torch.arange(0, rotated, 2, dtype=torch.float32, device=x.device) / rotated)
    angle = positions[:, None, :, None].float() * frequency  # (B, 1, T, rotated / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second, rest = x.split([rotated // 2, rotated // 2, x.shape[-1] - rotated], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
