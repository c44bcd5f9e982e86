"""The hybrid language model: attention and Mamba-2 blocks, one forward for any number of tokens from any state."""

from nanochat.model.blocks import BLOCKS
from nanochat.model.cache import Cache
from nanochat.model.config import ModelConfig
from nanochat.model.language_model import LanguageModel

__all__ = ["BLOCKS", "Cache", "LanguageModel", "ModelConfig"]
