"""Counted operations are those that the model performs; peaks belong to the right device."""

import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nanochat.model import LanguageModel, ModelConfig
from nanochat.model.ssd import ssd_chunked
from nanochat.training.flops import GPU_PEAKS, flops_per_token, forward_flops, gpu_peak, peak_flops
from nanochat.training.lora import LoraSettings, add_adapters
from nanochat.training.shape import adapter_parameters

SHAPES = [
    ({"block_pattern": "T,T", "n_head": 4, "n_kv_head": 2, "attention_conv": 4}, 65),
    ({"block_pattern": "M,M"}, 96),
    ({"block_pattern": "M,T,M", "mlp_hidden": 0, "n_groups": 2, "tie_embeddings": False}, 100),
    ({"block_pattern": "M,T,M,M", "n_embd": 128, "d_state": 64, "chunk_size": 64}, 256),
    ({"block_pattern": "T,M", "head_dim": 40, "expand": 1}, 17),
    ({"block_pattern": "T,M", "slot_scale": 0.5, "slot_ids": (1, 2, 3, 32)}, 96),
]


def counted(function):
    """Operations by kind of a call, as torch counts them: it does not know the CPU's fused attention."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function()
    return {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize(("settings", "row_len"), SHAPES)
def test_flops_are_those_of_the_model_forward_and_backward(settings, row_len):
    config = ModelConfig(**{"vocab_size": 300, "n_embd": 64, "n_head": 4, "n_kv_head": 4, "mlp_hidden": 96,
                            "d_state": 16, "headdim": 32, "chunk_size": 32, **settings})
    model, ids = LanguageModel(config), torch.randint(0, 300, (2, row_len))
    counts = counted(lambda: model(ids).sum().backward())
    # torch counts the backward of a depthwise convolution as that of a dense one
    counts.pop("aten.convolution_backward", None)
    convolution = counts.pop("aten.convolution", 0) / (2 * row_len)
    parts = forward_flops(config, row_len)
    ours = flops_per_token(config, row_len) - 3 * parts["convolution"]
    # torch counts all scores, also those above the diagonal
    ours += 3 * parts["attention"] * (2 * row_len / (row_len + 1) - 1)
    theirs = sum(counts.values()) / (2 * row_len)
    assert ours == pytest.approx(theirs, rel=0.05), f"{ours:.0f} against {theirs:.0f} per token: {counts}"
    assert convolution in (0, pytest.approx(parts["convolution"], rel=0.1))


@pytest.mark.parametrize(("settings", "row_len"), SHAPES)
@pytest.mark.parametrize("whole", [False, True])
def test_frozen_weights_cost_no_gradient_and_adapters_their_own_products(settings, row_len, whole):
    config = ModelConfig(**{"vocab_size": 300, "n_embd": 64, "n_head": 4, "n_kv_head": 4, "mlp_hidden": 96,
                            "d_state": 16, "headdim": 32, "chunk_size": 32, **settings})
    model, ids = LanguageModel(config), torch.randint(0, 300, (2, row_len))
    lora = LoraSettings(rank=5, alpha=8.0, row_ids=() if whole else tuple(range(12)), train_embeddings=whole)
    add_adapters(model, lora)
    each = adapter_parameters(config, 5)
    assert sum(each[letter] for letter in config.block_pattern) == sum(
        p.numel() for p in model.layers.parameters() if p.requires_grad)
    counts = counted(lambda: model(ids).sum().backward())
    counts.pop("aten.convolution_backward", None)
    counts.pop("aten.convolution", None)
    parts = forward_flops(config, row_len)
    ours = flops_per_token(config, row_len, lora) - 2 * parts["convolution"]
    ours += 3 * parts["attention"] * (2 * row_len / (row_len + 1) - 1)
    theirs = sum(counts.values()) / (2 * row_len)
    assert ours == pytest.approx(theirs, rel=0.08), f"{ours:.0f} against {theirs:.0f} per token: {counts}"
    assert flops_per_token(config, row_len, lora) < flops_per_token(config, row_len)


@pytest.mark.parametrize(("length", "groups"), [(64, 1), (70, 2), (20, 1)])
def test_the_scan_counts_every_product_of_the_chunked_form(length, groups):
    config = ModelConfig(block_pattern="M", vocab_size=8, n_embd=64, d_state=16, headdim=16, chunk_size=32,
                         n_groups=groups)
    shape = (1, length, config.n_mamba_head)
    b, c = (torch.randn(1, length, groups, config.d_state) for _ in range(2))
    counts = counted(lambda: ssd_chunked(torch.randn(*shape, 16), torch.rand(shape), -torch.rand(shape[-1]), b, c,
                                         chunk_size=32))
    assert forward_flops(config, length)["scan"] * length == pytest.approx(sum(counts.values()), rel=0.02)


def test_attention_counts_the_causal_half_and_grows_with_the_row():
    config = ModelConfig(block_pattern="T", vocab_size=8, n_embd=64, n_head=4)
    assert forward_flops(config, 101)["attention"] == 2 * 2 * 64 * 51
    assert flops_per_token(config, 4000) > 1.5 * flops_per_token(config, 10)


@pytest.mark.parametrize(("name", "known"), [
    ("NVIDIA H200", "H200"), ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA L4", "L4"),
    ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA A10", "A10"), ("NVIDIA L40S", "L40S"), ("Tesla T4", "T4"),
    ("NVIDIA GeForce RTX 3070 Laptop GPU", "RTX 3070"), ("NVIDIA RTX A6000", "RTX A6000"),
])
def test_a_gpu_is_known_by_its_name(name, known):
    assert gpu_peak(name, is_half=True) == GPU_PEAKS[known][1] * 1e12
    assert gpu_peak(name, is_half=False) == GPU_PEAKS[known][0] * 1e12
    assert gpu_peak("Radeon 9700", is_half=True) == 0


def test_the_peak_of_a_cpu_is_measured_once_and_soon():
    begin = time.perf_counter()
    peak = peak_flops(torch.device("cpu"), torch.float32)
    assert time.perf_counter() - begin < 2 and 1e9 < peak < 1e14, peak
    begin = time.perf_counter()
    assert peak_flops(torch.device("cpu"), "float32") == peak and time.perf_counter() - begin < 0.05
