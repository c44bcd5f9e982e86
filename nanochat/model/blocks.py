"""A layer: norm, mixer, and mostly norm, gated MLP, on the residual stream; BLOCKS names the mixers."""

import torch
from torch import Tensor, nn

from nanochat.model.attention import Attention
from nanochat.model.cache import LayerState
from nanochat.model.config import ModelConfig
from nanochat.model.layers import GatedMLP, RMSNorm
from nanochat.model.mamba import Mamba
from nanochat.model.step import Step

BLOCKS: dict[str, type[nn.Module]] = {"T": Attention, "M": Mamba}


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)), each times the residual multiplier; no MLP with mlp_hidden 0."""

    def __init__(self, letter: str, config: ModelConfig) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.n_embd, config.norm_eps)
        self.mixer = BLOCKS[letter](config)
        has_mlp = config.mlp_hidden > 0
        self.mlp_norm = RMSNorm(config.n_embd, config.norm_eps) if has_mlp else None
        self.mlp = GatedMLP(config.n_embd, config.mlp_hidden, bias=config.mlp_bias) if has_mlp else None
        self.residual_multiplier = config.residual_multiplier

    def forward(self, x: Tensor, state: LayerState | None, step: Step) -> Tensor:
        """x (B, T, C) -> (B, T, C); moves `state` on by T tokens when there is one."""
        x = torch.add(x, self.mixer(self.mixer_norm(x), state, step), alpha=self.residual_multiplier)
        if self.mlp is None:
            return x
        return torch.add(x, self.mlp(self.mlp_norm(x)), alpha=self.residual_multiplier)
