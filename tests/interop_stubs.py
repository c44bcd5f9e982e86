"""Small random models of the three published classes, saved by transformers, every parameter away from its start."""

import functools
import json
from pathlib import Path
from typing import Any

import torch

from nanochat.tokenizer import MIN_VOCAB_SIZE, Tokenizer

VOCAB = MIN_VOCAB_SIZE + 11
GRANITE_350M_LAYERS = ["attention" if place in (10, 13, 17, 27) else "mamba" for place in range(32)]
SHAPES: dict[str, dict[str, Any]] = {
    "granite": dict(
        model="granitemoehybrid", hidden_size=48, num_attention_heads=4, num_key_value_heads=2,
        shared_intermediate_size=40, mamba_n_heads=3, mamba_d_head=32, mamba_d_state=9, mamba_chunk_size=8,
        layer_types=["mamba", "attention", "mamba"], rms_norm_eps=1e-5,
        embedding_multiplier=12, logits_scaling=3, residual_multiplier=0.263, attention_multiplier=1 / 64,
        tie_word_embeddings=True),
    "granite groups biases untied rope": dict(
        model="granitemoehybrid", hidden_size=64, num_attention_heads=8, num_key_value_heads=8, num_local_experts=0,
        shared_intermediate_size=24, mamba_n_heads=4, mamba_d_head=32, mamba_n_groups=4, mamba_d_state=6,
        mamba_d_conv=3, layer_types=["attention", "mamba"], position_embedding_type="rope",
        rope_parameters={"rope_type": "default", "rope_theta": 777.0}, attention_bias=True, mamba_proj_bias=True,
        mamba_conv_bias=False, attention_multiplier=0.2, tie_word_embeddings=False),
    "granite 350m layers": dict(
        model="granitemoehybrid", hidden_size=48, num_attention_heads=12, num_key_value_heads=4,
        shared_intermediate_size=32, mamba_n_heads=6, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=256,
        layer_types=GRANITE_350M_LAYERS, embedding_multiplier=12, logits_scaling=3, residual_multiplier=0.263,
        attention_multiplier=1 / 64, rms_norm_eps=1e-5, tie_word_embeddings=True),
    "bamba": dict(
        model="bamba", hidden_size=64, num_attention_heads=4, num_key_value_heads=1, intermediate_size=40,
        mamba_n_heads=2, mamba_d_head=64, mamba_d_state=5, mamba_chunk_size=16, attn_layer_indices=[1, 2],
        num_hidden_layers=4, tie_word_embeddings=False),
    "bamba groups biases tied": dict(
        model="bamba", hidden_size=48, num_attention_heads=3, num_key_value_heads=3, intermediate_size=30,
        mamba_n_heads=6, mamba_d_head=16, mamba_n_groups=3, mamba_d_state=7, mamba_d_conv=2, mamba_conv_bias=False,
        mamba_proj_bias=True, mlp_bias=True, attention_bias=True, attn_layer_indices=[0], num_hidden_layers=3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, tie_word_embeddings=True),
    "mamba2": dict(
        model="mamba2", hidden_size=48, num_heads=3, head_dim=32, n_groups=1, state_size=10, num_hidden_layers=3,
        chunk_size=8, tie_word_embeddings=True),
    "mamba2 groups biases untied": dict(
        model="mamba2", hidden_size=32, expand=4, num_heads=4, head_dim=32, n_groups=2, state_size=6, conv_kernel=3,
        use_bias=True, use_conv_bias=False, num_hidden_layers=2, layer_norm_epsilon=1e-3, tie_word_embeddings=False),
}


def make_published(shape: str, **changes: Any) -> Any:
    """A random model of a class in transformers, in eval mode."""
    import transformers

    common = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 6, "pad_token_id": 63}
    sizes = SHAPES[shape] | common | changes
    model = sizes.pop("model")
    if "layer_types" in sizes:
        sizes = {"num_hidden_layers": len(sizes["layer_types"]), "num_local_experts": 0} | sizes
    config = transformers.AutoConfig.for_model(model, **sizes)
    published = transformers.AutoModelForCausalLM.from_config(config).eval()
    randomise(published)
    return published


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Random values for every parameter, also for those that start as ones or zeros; the logits stay moderate."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        last = name.rsplit(".", 1)[-1]
        if parameter.ndim > 1:
            parameter.copy_(noise * (0.5 if "conv" in name else parameter.shape[-1] ** -0.5))
        elif last in ("dt_bias", "A_log"):
            parameter.copy_(noise - 1)
        else:  # norm weights and D around one, biases around zero
            parameter.copy_(noise * 0.3 + (0.0 if last in ("bias", "conv_bias") else 1.0))


@functools.cache
def tokenizer() -> Tokenizer:
    """Our own tokenizer without merges: ids 0..63 are reserved, the bytes follow."""
    return Tokenizer.train([], MIN_VOCAB_SIZE)


def save_published(model: Any, folder: Path, **options: Any) -> Path:
    """The folder that transformers writes, with our tokenizer in it."""
    model.save_pretrained(folder, **options)
    tokenizer().save(folder)
    return folder


def edit_config(folder: Path, *, drop: tuple[str, ...] = (), **changes: Any) -> None:
    """Change or drop fields of a folder's config.json."""
    path = folder / "config.json"
    record = {name: value for name, value in json.loads(path.read_text()).items() if name not in drop}
    path.write_text(json.dumps(record | changes))


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative where numbers are large."""
    assert a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    return ((a - b).abs() / b.abs().clamp(min=1)).max().item()
