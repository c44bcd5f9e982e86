"""Models of the CPU bench: hybrids of transformers with random weights, and ours with the same weights."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nanochat.interop.config import read_config
from nanochat.interop.weights import rules
from nanochat.model import LanguageModel, ModelConfig


@dataclass(frozen=True, kw_only=True)
class Size:
    """A shape and the batch it is trained with."""

    pattern: str
    vocab: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    d_state: int
    headdim: int
    rows: int
    row_len: int


SIZES = {
    "1M": Size(pattern="TMT", vocab=4096, width=128, heads=4, kv_heads=4, mlp=128, d_state=32, headdim=32, rows=8,
               row_len=512),
    "5M": Size(pattern="MTMMMTMM", vocab=4096, width=256, heads=4, kv_heads=4, mlp=512, d_state=64, headdim=64, rows=4,
               row_len=512),
    "50M": Size(pattern="MMMTMMMMMTMM", vocab=16384, width=512, heads=8, kv_heads=2, mlp=1536, d_state=128, headdim=64,
                rows=1, row_len=1024),
}


def peer_of(size: Size) -> Any:
    """A GraniteMoeHybrid of transformers without experts, random weights from seed 0."""
    from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    return GraniteMoeHybridForCausalLM(GraniteMoeHybridConfig(
        vocab_size=size.vocab, hidden_size=size.width, intermediate_size=size.mlp, shared_intermediate_size=size.mlp,
        num_hidden_layers=len(size.pattern), num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
        layer_types=["mamba" if letter == "M" else "attention" for letter in size.pattern], num_local_experts=0,
        num_experts_per_tok=0, mamba_n_heads=2 * size.width // size.headdim, mamba_d_head=size.headdim,
        mamba_d_state=size.d_state, mamba_n_groups=1, mamba_chunk_size=256, mamba_expand=2, tie_word_embeddings=True,
        position_embedding_type="nope", max_position_embeddings=32768, attention_multiplier=0.0625,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )).eval()


def twin_of(peer: Any) -> LanguageModel:
    """Our model with the peer's weights."""
    published = read_config(peer.config.to_dict(), "peer")
    model = LanguageModel.empty(published.config)
    tensors, parameters = peer.state_dict(), dict(model.named_parameters())
    with torch.no_grad():
        for rule in rules(parameters, published.family, published.config.block_pattern):
            for name, part in rule.split(parameters[rule.native]).items():
                part.copy_(tensors[name])
    return model


def ours(size: Size) -> LanguageModel:
    """Our model of a size with its own start."""
    return LanguageModel(ModelConfig(
        block_pattern=tuple(size.pattern), vocab_size=size.vocab, n_embd=size.width, n_head=size.heads,
        n_kv_head=size.kv_heads, mlp_hidden=size.mlp, d_state=size.d_state, headdim=size.headdim, chunk_size=256,
    ))


def fastest(*works: Callable[[], object], repeats: int = 5) -> list[float]:
    """Least processor seconds of each work, taken in turns after one warm-up: other processes count little."""
    best = [float("inf")] * len(works)
    for turn in range(repeats + 1):
        for index, work in enumerate(works):
            start = time.process_time()
            work()
            if turn:
                best[index] = min(best[index], time.process_time() - start)
    return best


def our_step(model: LanguageModel, ids: torch.Tensor) -> Callable[[], None]:
    """Forward and backward of the loss that training uses, gradients from zero."""
    from nanochat.training.losses import Batch, language_model_loss

    batch = Batch(ids=ids[:, :-1].contiguous(), targets=ids[:, 1:].contiguous())

    def step() -> None:
        model.zero_grad()
        language_model_loss(model, batch).loss.backward()

    return step


def peer_step(peer: Any, ids: torch.Tensor) -> Callable[[], None]:
    """The same of transformers, as its Trainer does it."""

    def step() -> None:
        peer.zero_grad()
        peer(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    return step
