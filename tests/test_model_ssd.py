"""The CPU's own forms against plain PyTorch, forward and backward, at odd sizes."""

import pytest
import torch
from torch.nn import functional as F

from nanochat.device import use_fast_products
from nanochat.model import LanguageModel, ModelConfig
from nanochat.model.cpu import scan
from nanochat.model.layers import RMSNorm, causal_conv
from nanochat.model.ssd import ssd, ssd_chunked, ssd_sequential

TOLERANCE = 1e-5


def gradients(function, leaves, weight_of):
    """Outputs and gradients of a weighted sum of them; leaves may hold None."""
    leaves = [None if leaf is None else leaf.clone().requires_grad_() for leaf in leaves]
    outputs = function(*leaves)
    sum((output * weight_of(output)).sum() for output in outputs).backward()
    return [*outputs, *(leaf.grad for leaf in leaves if leaf is not None)]


def weight_of(output):
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(7))


def assert_close(reference, own, tolerance=TOLERANCE):
    for place, (one, other) in enumerate(zip(reference, own, strict=True)):
        assert one.shape == other.shape, f"tensor {place}: {one.shape} and {other.shape}"
        gap = (one - other).abs().max().item() / max(1.0, one.abs().max().item())
        assert gap < tolerance, f"tensor {place} differs by {gap}"


def inputs(length, groups, *, rows=2, heads=4, with_state=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, length, heads, 5, generator=generator)
    dt = torch.rand(rows, length, heads, generator=generator)
    decay = -torch.rand(heads, generator=generator)
    b, c = torch.randn(2, rows, length, groups, 3, generator=generator)
    return [x, dt, decay, b, c, torch.randn(rows, heads, 5, 3, generator=generator) if with_state else None]


def segments_of(length, rows=2):
    return torch.randint(2, (rows, length), generator=torch.Generator().manual_seed(length)).cumsum(1)


@pytest.mark.parametrize("length", [1, 2, 17, 63, 64, 130])
@pytest.mark.parametrize("chunk", [1, 5, 16, 64])
@pytest.mark.parametrize(("groups", "packed", "with_state"), [(1, False, False), (2, True, False), (4, False, True)])
def test_own_scan_equals_the_recurrence(length, chunk, groups, packed, with_state, monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 600)  # several blocks of masks
    leaves = inputs(length, groups, with_state=with_state)
    seq_idx = segments_of(length) if packed else None
    reference = gradients(lambda *a: ssd_sequential(*a[:5], state=a[5], seq_idx=seq_idx), leaves, weight_of)
    own = gradients(lambda *a: scan.ssd_cpu(*a[:5], chunk_size=chunk, state=a[5], seq_idx=seq_idx), leaves, weight_of)
    # A's gradient is the small difference of large sums over all positions
    assert_close(reference, own, 5e-5)
    assert_close(reference[:3] + reference[5:], own[:3] + own[5:], 5e-5)


def test_ssd_uses_the_own_scan_on_a_cpu_and_keeps_states_float32():
    x, dt, decay, b, c, _ = inputs(70, 1)
    y, state = ssd(x.requires_grad_(), dt, decay, b, c, chunk_size=35)
    assert type(y.grad_fn).__name__ == "ChunkedScanBackward", f"made by {y.grad_fn}"
    assert state.dtype == torch.float32
    assert_close(ssd_chunked(x, dt, decay, b, c, chunk_size=64), (y, state))


@pytest.mark.parametrize("packed", [False, True])
def test_strong_decay_and_zero_steps_stay_finite(packed):
    leaves = inputs(130, 1)
    leaves[1] = torch.where(leaves[1] > 0.5, 200.0, 0.0)
    leaves[2] = torch.full((4,), -16.0)
    seq_idx = segments_of(130) if packed else None
    results = gradients(lambda *a: scan.ssd_cpu(*a[:5], chunk_size=64, seq_idx=seq_idx), leaves, weight_of)
    assert all(torch.isfinite(result).all() for result in results)
    reference = gradients(lambda *a: ssd_sequential(*a[:5], seq_idx=seq_idx), leaves, weight_of)
    assert_close(reference[:2], results[:2])


def test_rows_cut_out_of_longer_ones_need_no_copy_by_the_caller():
    whole = inputs(40, 2)
    cut = [leaf if leaf is None or leaf.dim() == 1 else leaf[:, 3:33] for leaf in whole]
    own = scan.ssd_cpu(*cut[:5], chunk_size=8)
    assert_close(ssd_sequential(*[leaf.contiguous() for leaf in cut[:5]]), own)


def plain_conv(x, weight, bias, seq_idx):
    y = torch.zeros_like(x) if bias is None else bias.expand_as(x)
    width = weight.shape[1]
    for shift in range(min(width, x.shape[1])):
        moved = F.pad(x[:, : x.shape[1] - shift], (0, 0, shift, 0))
        if seq_idx is not None and shift:
            same = F.pad((seq_idx[:, shift:] == seq_idx[:, :-shift]).float(), (shift, 0))
            moved = moved * same[..., None]
        y = y + moved * weight[:, width - 1 - shift]
    return y


@pytest.mark.parametrize("length", [1, 2, 3, 17])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_own_convolution_equals_the_plain_one(length, width, packed, with_bias):
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(2, length, 6, generator=generator), torch.randn(6, width, generator=generator),
              torch.randn(6, generator=generator) if with_bias else None]
    seq_idx = segments_of(length) if packed else None
    assert_close(gradients(lambda *a: (plain_conv(*a, seq_idx),), leaves, weight_of),
                 gradients(lambda *a: (causal_conv(*a, None, seq_idx=seq_idx)[0],), leaves, weight_of))


def test_convolution_never_reads_another_segment():
    x = torch.ones(1, 6, 2)
    x[:, 3] = float("nan")
    y, _ = causal_conv(x, torch.ones(2, 4), None, None, seq_idx=torch.tensor([[0, 0, 0, 1, 2, 2]]))
    assert torch.isfinite(y[:, [0, 1, 2, 4, 5]]).all(), f"a number crossed a border: {y[0, :, 0].tolist()}"


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("gated", [False, True])
def test_own_norm_equals_the_plain_one(groups, gated):
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(12, 1e-5, groups=groups)
    leaves = [torch.randn(2, 5, 12, generator=generator), torch.randn(2, 5, 12, generator=generator) if gated else None,
              torch.randn(12, generator=generator)]

    def plain(x, gate, weight):
        value = (x if gate is None else x * F.silu(gate)).unflatten(-1, (groups, -1))
        return ((value * (value.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()).flatten(-2) * weight,)

    def own(x, gate, weight):
        return (torch.func.functional_call(norm, {"weight": weight}, (x, gate)),)

    assert_close(gradients(plain, leaves, weight_of), gradients(own, leaves, weight_of))


@pytest.mark.parametrize("cuts", [[2, 3, 16, 1, 7], [29], [28, 1]])
def test_short_inserts_with_and_without_gradients_give_the_same_logits(cuts):
    model = LanguageModel(ModelConfig(block_pattern=("M", "T", "M"), vocab_size=30, n_embd=16, n_head=2, n_kv_head=1,
                                      mlp_hidden=8, d_state=4, headdim=8, n_groups=2, attention_conv=3), seed=1)
    ids = torch.randint(30, (2, 29), generator=torch.Generator().manual_seed(0))
    whole = model(ids)
    for context in (torch.no_grad, torch.enable_grad):
        with context():
            cache = model.new_cache(2)
            pieces = torch.cat([model(piece, cache) for piece in ids.split(cuts, dim=1)], dim=1)
        assert_close([whole], [pieces])


def test_bfloat16_autocast_keeps_the_scan_in_float32():
    leaves = inputs(40, 1)
    plain = gradients(lambda *a: scan.ssd_cpu(*a[:5], chunk_size=16), leaves, weight_of)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gradients(lambda *a: scan.ssd_cpu(*a[:5], chunk_size=16), leaves, weight_of)
    assert_close(plain, mixed, 1e-7)


def test_fast_products_stay_as_exact_as_float32():
    before = torch.get_float32_matmul_precision()
    try:
        use_fast_products()
        a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0))
        exact = a.double() @ b.double()
        error = ((a @ b) - exact).norm() / exact.norm()
        assert error < 2e-6, f"a product of float32 matrices is off by {error}"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("pattern", ["M", "M,T"])
def test_a_long_read_in_pieces_equals_one_forward(pattern, monkeypatch):
    monkeypatch.setattr("nanochat.model.layers.PIECE", 8)
    monkeypatch.setattr("nanochat.model.mamba.PIECE", 8)
    model = LanguageModel(ModelConfig(block_pattern=pattern, vocab_size=30, n_embd=16, n_head=2, n_kv_head=1,
                                      mlp_hidden=8, d_state=4, headdim=8), seed=1)
    ids = torch.randint(30, (2, 29), generator=torch.Generator().manual_seed(0))
    whole = model(ids)
    with torch.no_grad():
        assert_close([whole], [model(ids, model.new_cache(2))])
