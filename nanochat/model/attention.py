"""T block mixer: grouped-query attention without positional encoding, with an optional short convolution on q, k, v."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanochat.model.cache import KVState
from nanochat.model.config import ModelConfig
from nanochat.model.layers import causal_conv

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
        self.q_proj = nn.Linear(config.n_embd, self.n_head * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.n_embd, self.n_kv_head * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.n_embd, self.n_kv_head * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.n_head * self.head_dim, config.n_embd, bias=False)
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

    def forward(self, x: Tensor, state: KVState | None, lengths: Tensor | None, seq_idx: Tensor | None) -> Tensor:
        """x (B, T, C) -> (B, T, C); appends to `state`, whose rows hold `lengths` (B) positions already."""
        batch, length, _ = x.shape
        qkv = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)
        if self.conv_weight is not None:
            qkv, tail = causal_conv(qkv, self.conv_weight, None, state.conv if state else None, seq_idx=seq_idx)
            if state is not None:
                state.conv = tail
        heads = qkv.view(batch, length, -1, self.head_dim).transpose(1, 2)
        q, k, v = heads.split([self.n_head, self.n_kv_head, self.n_kv_head], dim=1)
        mask = None
        if state is not None:
            assert lengths is not None, "a cached forward needs the rows' lengths"
            state.append(lengths, k, v)
            total = int(lengths.max()) + length
            k, v = state.keys[:, :, :total], state.values[:, :, :total]
            last = lengths[:, None] + torch.arange(length, device=x.device)
            mask = (torch.arange(total, device=x.device) <= last[..., None])[:, None]  # (B, 1, T, S)
        elif seq_idx is not None:
            causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
            mask = (causal & (seq_idx[:, :, None] == seq_idx[:, None, :]))[:, None]
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.scale, enable_gqa=self.n_head != self.n_kv_head
        )
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))
