"""The GPU kernels give what plain PyTorch gives: on a GPU where there is one, else in Triton's interpreter."""

import os

import pytest
import torch
from kernel_cases import DEVICE, Scan, check_scan
from torch.nn import functional as F

from nanochat.model import LanguageModel, ModelConfig, kernels
from nanochat.model.layers import causal_conv

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
gpu = pytest.mark.gpu
# Triton decides when it is imported whether it interprets: test_model_kernels_choice.py runs this file so, by itself
pytestmark = gpu if DEVICE == "cuda" else pytest.mark.skipif(not IS_INTERPRETED, reason="needs a GPU or interpreter")


def needs_gpu() -> None:
    if DEVICE != "cuda":
        pytest.skip("needs a GPU")


@pytest.fixture
def on_triton(monkeypatch) -> None:
    monkeypatch.setenv("NANOCHAT_KERNELS", "triton")


SCANS = [
    Scan(batch=1, length=1, heads=2, groups=1),
    Scan(length=17, groups=1, has_state=False),
    Scan(length=37, is_packed=True),
    Scan(batch=1, length=70, heads=6, size=17, d_state=20, is_packed=True),
    Scan(batch=1, length=129, heads=1, groups=1, size=3, d_state=33),
]


@pytest.mark.parametrize("case", SCANS, ids=str)
def test_the_scan_equals_the_recurrence_forward_and_gradients(case):
    from nanochat.model.kernels import triton_ssd

    check_scan(case, triton_ssd.ssd, 1e-5 if DEVICE == "cpu" else 1e-4)


def test_heads_that_share_a_program_do_not_mix(monkeypatch):
    from nanochat.model.kernels import triton_ssd

    monkeypatch.setattr(triton_ssd, "PROGRAMS", 1)
    case = Scan(length=21, heads=6, groups=2, is_packed=True)
    problem = triton_ssd._Problem(*(case.tensors()[0][name] for name in ("x", "dt", "A", "B")), None, 16)
    assert problem.split == 3
    check_scan(case, triton_ssd.ssd, 1e-5 if DEVICE == "cpu" else 1e-4)


def test_the_scan_of_half_precision_is_as_good_as_half_precision():
    from nanochat.model.kernels import triton_ssd

    # the interpreter has no products of bfloat16
    check_scan(Scan(is_packed=True), triton_ssd.ssd, 4e-3, torch.float16)


def test_long_decay_does_not_overflow():
    from nanochat.model.kernels import triton_ssd

    one = torch.ones(1, 80, 1, 1, device=DEVICE)
    x = one.clone().requires_grad_()
    y, state = triton_ssd.ssd(x, 10 * one[..., 0], -16 * one[0, 0, 0], one, one)
    y.sum().backward()
    assert all(torch.isfinite(tensor).all() for tensor in (y, state, x.grad))


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("case", [
    Scan(batch=2, length=517, heads=48, size=32, groups=1, d_state=128, is_packed=True),
    Scan(batch=1, length=300, heads=8, size=64, groups=2, d_state=128),
    Scan(batch=3, length=200, heads=4, size=64, groups=1, d_state=64, has_state=False),
    Scan(batch=1, length=130, heads=2, size=128, groups=1, d_state=256),
], ids=str)
def test_the_scan_on_a_gpu(case, dtype):
    needs_gpu()
    from nanochat.model.kernels import triton_ssd

    check_scan(case, triton_ssd.ssd, {torch.bfloat16: 3e-2, torch.float16: 5e-3, torch.float32: 2e-4}[dtype], dtype)


@pytest.mark.parametrize("length", [1, 2, 70])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("kind", ["fresh", "continued", "packed"])
def test_the_convolution_equals_the_plain_one_forward_and_gradients(length, width, kind):
    from nanochat.model.kernels import triton_conv

    generator = torch.Generator().manual_seed(length)
    wide, weight, bias = (torch.randn(*shape, generator=generator).to(DEVICE) for shape in
                          ((2, length, 75), (70, width), (70,)))
    tail = torch.randn(2, width - 1, 70, generator=generator).to(DEVICE) if kind == "continued" else None
    seq_idx = torch.randint(2, (2, length), generator=generator).cumsum(1).to(DEVICE) if kind == "packed" else None

    def run(form):
        leaves = [leaf.clone().requires_grad_() for leaf in (wide, weight, bias, tail) if leaf is not None]
        y, after = form(leaves[0][..., 5:], leaves[1], leaves[2], *(leaves[3:] or [None]), seq_idx=seq_idx)
        (y.pow(2).sum() + after.sum()).backward()
        return [y, after] + [leaf.grad for leaf in leaves]

    for name, one, other in zip(("y", "tail", "dx", "dweight", "dbias", "dtail"), run(causal_conv_plain),
                                run(triton_conv.causal_conv), strict=False):
        scale = max(1.0, one.abs().max().item()) if one.numel() else 1.0
        assert one.shape == other.shape
        is_close = torch.allclose(one, other, atol=1e-5 * scale)
        assert is_close, f"{name} differs by {(one - other).abs().max()} of {scale}"


def causal_conv_plain(*arguments, seq_idx):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_KERNELS", "plain")
        return causal_conv(*arguments, seq_idx=seq_idx)


@pytest.mark.parametrize(("groups", "repeat", "size", "lengths", "room"), [
    (2, 2, 6, (1, 50, 80), 80), (1, 3, 20, (17, 199), 1100), (4, 1, 16, (650,), 700)])
def test_attention_of_one_token_equals_softmax_over_its_row(groups, repeat, size, lengths, room):
    from nanochat.model.kernels import triton_attention

    generator = torch.Generator().manual_seed(room)
    q = torch.randn(len(lengths), groups * repeat, size, generator=generator).to(DEVICE)
    k, v = torch.randn(2, len(lengths), groups, room, size, generator=generator).to(DEVICE)
    held = torch.tensor(lengths, device=DEVICE)
    mask = (torch.arange(room, device=DEVICE) < held[:, None])[:, None, None]
    expected = F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=mask, scale=0.3, enable_gqa=True)[:, :, 0]
    # what lies behind a row must not be read
    k, v = (torch.where(mask[:, :, 0, :, None], tensor, float("nan")) for tensor in (k, v))
    difference = (expected - triton_attention.attend_one(q, k, v, held, 0.3)).abs().max().item()
    assert difference < 1e-5 if DEVICE == "cpu" else 1e-4, f"differs by {difference}"


VARIANTS = [
    {"n_groups": 2, "dt_floor": 0.01, "dt_ceiling": 0.05, "conv_bias": False, "d_conv": 3, "attention_conv": 4},
    {"n_kv_head": 2, "rope_theta": 100.0, "mamba_bias": True, "n_groups": 4},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.no_grad()
def test_a_model_on_kernels_gives_the_logits_of_the_plain_one(variant, monkeypatch):
    sizes = dict(vocab_size=50, n_embd=24, n_head=4, n_kv_head=4, mlp_hidden=40, d_state=6, headdim=6)
    model = LanguageModel(ModelConfig(block_pattern="M,T", **(sizes | variant)), seed=1).eval().to(DEVICE)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(50, (2, 13), generator=generator).to(DEVICE)
    seq_idx = torch.randint(2, (2, 13), generator=generator).cumsum(1).to(DEVICE)
    logits = {}
    for choice in ("plain", "triton"):
        monkeypatch.setenv("NANOCHAT_KERNELS", choice)
        assert kernels.choice(DEVICE) == choice
        cache, pieces = model.new_cache(2), []
        for piece in ids.split([9, 1, 2, 1], dim=1):
            pieces.append(model(piece, cache))
        logits[choice] = {"whole": model(ids), "packed": model(ids, seq_idx=seq_idx), "pieces": torch.cat(pieces, 1)}
    logits["plain"]["whole as pieces"], logits["triton"]["whole as pieces"] = (
        logits["triton"]["whole"], logits["triton"]["pieces"])
    for name, value in logits["plain"].items():
        difference = (value - logits["triton"][name]).abs().max().item()
        assert difference < (1e-5 if DEVICE == "cpu" else 1e-3), f"{name} differs by {difference}"


@pytest.mark.parametrize("variant", [{}, {"n_groups": 2, "dt_floor": 0.01, "dt_ceiling": 0.05, "conv_bias": False},
                                     {"d_conv": 1}], ids=str)
@torch.no_grad()
def test_one_token_in_three_launches_equals_the_block(variant):
    from nanochat.model.kernels import triton_decode

    config = ModelConfig(block_pattern="M", vocab_size=9, **({"n_embd": 24, "d_state": 6, "headdim": 6} | variant))
    mixer = LanguageModel(config, seed=1).to(DEVICE).layers[0].mixer
    mixer.dt_bias[:4] = torch.tensor([-30.0, -12.0, 25.0, 0.0])  # softplus at its ends
    one, other = (mixer.new_state(3, torch.device(DEVICE), torch.float32) for _ in range(2))
    step = type("Step", (), {"seq_idx": None})()
    for number in range(5):
        x = 3 * torch.randn(3, 1, 24, generator=torch.Generator().manual_seed(number)).to(DEVICE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NANOCHAT_KERNELS", "plain")
            expected = mixer(x, one, step)[:, 0]
        gate, xbc, dt = mixer.in_proj(x).split([mixer.d_inner, mixer.conv_channels, mixer.n_head], dim=-1)
        found = mixer.out_proj(triton_decode.step(gate[:, 0], xbc[:, 0], dt[:, 0], other, mixer))
        # head by head: the smallest time steps must not be lost beside the others
        largest = one.ssm.abs().amax((0, 2, 3), keepdim=True).clamp(min=1e-30)
        assert ((one.ssm - other.ssm).abs() / largest).max() < 1e-4, f"a head's state differs at {number}"
        for name, a, b in (("y", expected, found), ("conv", one.conv, other.conv), ("ssm", one.ssm, other.ssm)):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-5), f"{name} at {number} differs by {(a - b).abs().max()}"


def test_a_model_on_kernels_compiles_without_a_break(on_triton):
    """Compiled or not, features are the same; fullgraph refuses breaks."""
    config = ModelConfig(block_pattern="M", vocab_size=50, n_embd=24, n_head=4, d_state=6, headdim=6, mlp_hidden=0)
    model = LanguageModel(config, seed=1).to(DEVICE)
    ids = torch.arange(19, device=DEVICE)[None]
    compiled = torch.compile(model.features, backend="aot_eager", fullgraph=True)
    difference = (compiled(ids, seq_idx=ids // 7) - model.features(ids, seq_idx=ids // 7)).abs().max().item()
    assert difference < 1e-5, f"differs by {difference}"
