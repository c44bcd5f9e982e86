"""What the tests of training share: a small model with both kinds of layers, without the convolution on q, k, v."""

from nanochat.model import LanguageModel, ModelConfig


def tiny_model() -> LanguageModel:
    """A model of 64 ids, the same weights every time."""
    return LanguageModel(ModelConfig(block_pattern="M,T", vocab_size=64, n_embd=32, n_head=2, n_kv_head=1,
                                     mlp_hidden=48, d_state=8, headdim=16, chunk_size=8))
