"""Attention gives the same numbers whichever way a step lets it take."""

import pytest
import torch
from torch.nn import functional as F

from nanochat.model import LanguageModel, ModelConfig, step
from nanochat.model.attend import attend
from nanochat.model.step import plan_step

TOLERANCE = 1e-5


def make_model(block_pattern: str = "T,T", **overrides: object) -> LanguageModel:
    sizes = dict(vocab_size=50, n_embd=32, n_head=4, n_kv_head=2, mlp_hidden=40, attention_conv=4, rope_theta=10000.0)
    return LanguageModel(ModelConfig(block_pattern=block_pattern, **(sizes | overrides)), seed=1).eval()


@pytest.fixture(params=["masks", "without masks"])
def is_without_masks(request, monkeypatch) -> bool:
    """The ways of a GPU, on the CPU."""
    if request.param == "without masks":
        monkeypatch.setattr(step, "has_lower_right", lambda device: True)
        monkeypatch.setattr(step, "has_blocks", lambda device: True)
        monkeypatch.setattr(step, "LENGTH_OF_BLOCKS", 1)
    return request.param == "without masks"


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[17], [5, 1, 11], [1] * 17, [16, 1]])
def test_forward_in_pieces_equals_forward_at_once(cuts, is_without_masks):
    model = make_model()
    ids = torch.randint(50, (3, 17), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache(3)
    pieces = torch.cat([model(piece, cache) for piece in ids.split(cuts, dim=1)], dim=1)
    difference = (model(ids) - pieces).abs().max().item()
    assert difference < TOLERANCE, f"differs by {difference}"


def test_packed_rows_equal_separate_ones_forward_and_gradients(is_without_masks):
    model = make_model()
    rows = [torch.randint(50, (1, length), generator=torch.Generator().manual_seed(length)) for length in (5, 12, 1)]
    seq_idx = torch.cat([torch.full((1, row.shape[1]), number) for number, row in enumerate(rows)], dim=1)

    # flex_attention has no gradient on the CPU
    model.requires_grad_(not is_without_masks)

    def run(logits):
        if is_without_masks:
            return [logits]
        model.zero_grad()
        logits.logsumexp(-1).sum().backward()
        return [logits] + [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    separate = run(torch.cat([model(row) for row in rows], dim=1))
    assert (plan_step(1, 18, torch.device("cpu"), None, seq_idx).blocks is not None) == is_without_masks
    for one, other in zip(separate, run(model(torch.cat(rows, dim=1), seq_idx=seq_idx)), strict=True):
        difference = (one - other).abs().max().item()
        assert difference < 1e-4 * max(1.0, one.abs().max().item()), f"differs by {difference}"


@torch.no_grad()
def test_no_mask_is_built_where_lengths_are_equal(monkeypatch):
    model = make_model()
    cache = model.new_cache(2)
    cache.reserve(6)
    model(torch.zeros(2, 3, dtype=torch.long), cache)
    device = torch.device("cpu")
    assert plan_step(2, 1, device, cache, None).mask is None
    assert plan_step(2, 4, device, cache, None).mask is not None
    monkeypatch.setattr(step, "has_lower_right", lambda device: True)
    assert plan_step(2, 4, device, cache, None).mask is None
    model(torch.zeros(1, 1, dtype=torch.long), cache.view(1))
    assert plan_step(2, 1, device, cache, None).mask.shape == (2, 1, 1, 5)


@torch.no_grad()
@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("length", [1, 4])
def test_attention_equals_softmax_over_what_is_seen(repeat, length):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 2 * repeat, length, 8, generator=generator)
    k, v = torch.randn(2, 2, 2, 9, 8, generator=generator)
    lengths = torch.tensor([3, 9 - length])
    seen = torch.arange(9) <= lengths[:, None, None] + torch.arange(length)[:, None]  # (B, T, S)
    step_ = step.Step(positions=lengths[:, None] + torch.arange(length), lengths=lengths, total=9, mask=seen[:, None])
    weights = (q @ k.repeat_interleave(repeat, 1).mT * 0.3).masked_fill(~seen[:, None], float("-inf")).softmax(-1)
    difference = (weights @ v.repeat_interleave(repeat, 1) - attend(q, k, v, step_, scale=0.3)).abs().max().item()
    assert difference < TOLERANCE, f"differs by {difference}"


@torch.no_grad()
def test_under_autocast_states_stay_float32_and_logits_close():
    model = make_model(block_pattern="M,T", d_state=6, headdim=8)
    ids = torch.randint(50, (2, 19), generator=torch.Generator().manual_seed(0))
    exact, cache = model(ids), model.new_cache(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = torch.cat([model(piece, cache) for piece in ids.split([12, 1, 6], dim=1)], dim=1)
    assert cache.layers[0].ssm.dtype == torch.float32 and rough.dtype == torch.float32
    difference = F.kl_div(rough.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="batchmean").item()
    assert difference / 19 < 1e-2, f"KL divergence {difference / 19} per token"


@pytest.mark.gpu
@pytest.mark.parametrize("n_kv_head", [4, 2])
@pytest.mark.parametrize("last", [1000, 60])  # above and below LENGTH_OF_BLOCKS in all
def test_packed_rows_on_a_gpu_equal_separate_ones(n_kv_head, last):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = make_model(n_embd=128, n_kv_head=n_kv_head, attention_conv=0, rope_theta=0.0).cuda()
    rows = [torch.randint(50, (1, length), device="cuda") for length in (1500, 37, last)]
    seq_idx = torch.cat([torch.full_like(row, number) for number, row in enumerate(rows)], dim=1)

    def run(logits):
        model.zero_grad()
        logits.logsumexp(-1).sum().backward()
        return [logits] + [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    separate, packed = run(torch.cat([model(row) for row in rows], 1)), run(model(torch.cat(rows, 1), seq_idx=seq_idx))
    for one, other in zip(separate, packed, strict=True):
        difference = (one - other).abs().max().item() / max(1.0, one.abs().max().item())
        assert difference < 5e-3, f"differs by {difference}"
