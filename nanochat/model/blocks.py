"""A layer: norm, mixer, norm, gated MLP, both on the residual stream; BLOCKS names the mixers."""

from torch import Tensor, nn

from nanochat.model.attention import Attention
from nanochat.model.cache import LayerState
from nanochat.model.config import ModelConfig
from nanochat.model.layers import GatedMLP, RMSNorm
from nanochat.model.mamba import Mamba

BLOCKS: dict[str, type[nn.Module]] = {"T": Attention, "M": Mamba}


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)), each branch scaled by the residual multiplier."""

    def __init__(self, letter: str, config: ModelConfig) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.n_embd, config.norm_eps)
        self.mixer = BLOCKS[letter](config)
        self.mlp_norm = RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = GatedMLP(config.n_embd, config.mlp_hidden)
        self.residual_multiplier = config.residual_multiplier

    def forward(self, x: Tensor, state: LayerState | None, lengths: Tensor | None, seq_idx: Tensor | None) -> Tensor:
        """x (B, T, C) -> (B, T, C); moves `state` on by T tokens when there is one."""
        x = x + self.residual_multiplier * self.mixer(self.mixer_norm(x), state, lengths, seq_idx)
        return x + self.residual_multiplier * self.mlp(self.mlp_norm(x))
