"""Laws of the model in float32: any cutting, any batch, any packing and any fork gives the same numbers."""

import pytest
import torch

from nanochat.model import LanguageModel, ModelConfig
from nanochat.model.ssd import ssd_chunked, ssd_sequential

PATTERNS = ["T", "M", "T,M", "M,T", "T,T,M,M"]
VARIANTS = [
    {},
    {"attention_conv": 4, "n_kv_head": 1, "n_groups": 2, "chunk_size": 5},
    {"attention_conv": 3, "n_kv_head": 2, "conv_bias": False, "tie_embeddings": False, "logits_scaling": 3.0,
     "residual_multiplier": 0.3, "embedding_multiplier": 12.0, "attention_multiplier": 0.1, "head_dim": 10},
    {"rope_theta": 10000.0, "rope_dim": 4, "attention_bias": True, "mlp_bias": True, "mamba_bias": True, "n_groups": 4,
     "dt_floor": 0.01, "dt_ceiling": 0.05},
    {"mlp_hidden": 0, "rope_theta": 500.0},
]
# half of the ids are marks
SLOTS = {"attention_conv": 2, "slot_scale": 0.5, "slot_ids": (0, 1, 2, 23)}
TOLERANCE = 1e-5


def make_model(pattern: str, **overrides: object) -> LanguageModel:
    sizes = dict(vocab_size=50, n_embd=24, n_head=4, n_kv_head=4, mlp_hidden=40, d_state=6, headdim=6, chunk_size=7)
    return LanguageModel(ModelConfig(block_pattern=pattern, **(sizes | overrides)), seed=1).eval()


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(50, shape, generator=torch.Generator().manual_seed(seed))


def ids_for(variant: dict, *shape: int, seed: int = 0) -> torch.Tensor:
    """Random ids; where slots are known, every tenth one opens results."""
    ids = random_ids(*shape, seed=seed)
    return ids.masked_fill(ids % 10 == 3, variant["slot_ids"][0]) if "slot_ids" in variant else ids


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("variant", [*VARIANTS, SLOTS])
@pytest.mark.parametrize("cuts", [[17], [1] * 17, [5, 1, 11], [16, 1], [2, 8, 7]])
def test_forward_in_pieces_equals_forward_at_once(pattern, variant, cuts):
    model = make_model(pattern, **variant)
    ids = ids_for(variant, 3, 17)
    whole = model(ids)
    cache = model.new_cache(3)
    pieces = torch.cat([model(piece, cache) for piece in ids.split(cuts, dim=1)], dim=1)
    assert difference(whole, pieces) < TOLERANCE
    assert cache.lengths.tolist() == [17, 17, 17]


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("variant", [*VARIANTS, SLOTS])
def test_alone_equals_batched_equals_packed(pattern, variant):
    model = make_model(pattern, **variant)
    rows = [ids_for(variant, 1, length, seed=length) for length in (1, 9, 4, 23, 2)]
    alone = [model(row) for row in rows]

    packed_ids = torch.cat(rows, dim=1)
    seq_idx = torch.cat([torch.full((1, row.shape[1]), number) for number, row in enumerate(rows)], dim=1)
    packed = model(packed_ids, seq_idx=seq_idx).split([row.shape[1] for row in rows], dim=1)
    for row, (one, other) in enumerate(zip(alone, packed, strict=True)):
        assert difference(one, other) < TOLERANCE, f"packed row {row} differs by {difference(one, other)}"

    cache = model.new_cache(len(rows))
    seen = [0] * len(rows)
    while any(seen[i] < rows[i].shape[1] for i in range(len(rows))):
        live = [i for i in range(len(rows)) if seen[i] < rows[i].shape[1]]
        step = min(rows[i].shape[1] - seen[i] for i in live)
        part = cache.gather(live)
        logits = model(torch.cat([rows[i][:, seen[i] : seen[i] + step] for i in live]), part)
        cache.scatter(live, part)
        for place, i in enumerate(live):
            assert difference(alone[i][0, seen[i] : seen[i] + step], logits[place]) < TOLERANCE
            seen[i] += step
    next_ids = ids_for(variant, len(rows), 3, seed=9)
    batched = model(next_ids, cache)
    for i, row in enumerate(rows):
        expected = model(torch.cat([row, next_ids[i : i + 1]], dim=1))[0, -3:]
        assert difference(expected, batched[i]) < TOLERANCE, f"row {i} of unequal lengths"


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("variant", [{"attention_conv": 4}, SLOTS])
def test_fork_does_not_disturb_its_parent(pattern, variant):
    model = make_model(pattern, **variant)
    ids = ids_for(variant, 2, 9)
    cache = model.new_cache(2)
    model(ids, cache)
    snapshot = cache.snapshot()
    fork = cache.fork(3)
    model(ids_for(variant, 6, 5, seed=3), fork)
    model(ids_for(variant, 6, 1, seed=4), fork)
    nxt = ids_for(variant, 2, 4, seed=5)
    after_fork = model(nxt, cache)
    assert difference(after_fork, model(torch.cat([ids, nxt], dim=1))[:, -4:]) < TOLERANCE
    cache.restore(snapshot)
    assert cache.lengths.tolist() == [9, 9]
    assert difference(model(nxt, cache), after_fork) == 0.0
    assert snapshot.lengths.tolist() == [9, 9]
    assert fork.lengths.tolist() == [15] * 6


@pytest.mark.parametrize("length", [1, 2, 7, 17, 63, 64, 65])
@pytest.mark.parametrize("chunk_size", [1, 8, 64])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_chunked_equals_sequential_forward_and_gradients(length, chunk_size, groups, packed):
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(2, length, 4, 5, generator=generator)
    dt = torch.rand(2, length, 4, generator=generator)
    decay = -torch.rand(4, generator=generator)
    b, c = torch.randn(2, 2, length, groups, 3, generator=generator)
    state = torch.randn(2, 4, 5, 3, generator=generator)
    seq_idx = torch.randint(2, (2, length), generator=generator).cumsum(1) if packed else None
    weights = torch.randn(2, length, 4, 5, generator=generator)

    def run(form, **options):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, dt, decay, b, c, state)]
        y, final = form(*leaves[:5], state=leaves[5], seq_idx=seq_idx, **options)
        ((y * weights).sum() + final.pow(2).sum()).backward()
        return [y, final] + [leaf.grad for leaf in leaves]

    names = ["y", "state", "dx", "ddt", "dA", "dB", "dC", "dstate"]
    for name, one, other in zip(names, run(ssd_sequential), run(ssd_chunked, chunk_size=chunk_size), strict=True):
        scale = max(1.0, one.abs().max().item())
        assert difference(one, other) / scale < TOLERANCE, f"{name} differs by {difference(one, other)} of {scale}"


def test_long_decay_does_not_overflow():
    x = torch.ones(1, 256, 1, 1)
    y, state = ssd_chunked(x, 10 * torch.ones(1, 256, 1), -16 * torch.ones(1), torch.ones(1, 256, 1, 1),
                           torch.ones(1, 256, 1, 1), chunk_size=64)
    assert torch.isfinite(y).all() and torch.isfinite(state).all()


def test_time_steps_start_in_the_published_range():
    model = make_model("M,M")
    for block in model.layers:
        dt = torch.nn.functional.softplus(block.mixer.dt_bias)
        assert dt.min() >= 0.0009 and dt.max() <= 0.11, f"dt starts in [{dt.min()}, {dt.max()}]"


@pytest.mark.parametrize("variant", [{"attention_conv": 4}, SLOTS])
def test_packed_gradients_equal_separate_rows(variant):
    model = make_model("M,T", **variant)
    rows = [ids_for(variant, 1, length, seed=length) for length in (5, 12)]

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    separate = gradients(sum(model(row).logsumexp(-1).sum() for row in rows))
    seq_idx = torch.tensor([[0] * 5 + [1] * 12])
    packed = gradients(model(torch.cat(rows, dim=1), seq_idx=seq_idx).logsumexp(-1).sum())
    for one, other in zip(separate, packed, strict=True):
        assert difference(one, other) < 1e-4 * max(1.0, one.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["T", "M"])
def test_a_segment_number_that_comes_back_is_another_segment(pattern):
    model, ids = make_model(pattern, attention_conv=3), random_ids(1, 12)
    back, onward = (torch.tensor([[0] * 4 + [1] * 3 + [last] * 5]) for last in (0, 2))
    assert difference(model(ids, seq_idx=back), model(ids, seq_idx=onward)) == 0.0
