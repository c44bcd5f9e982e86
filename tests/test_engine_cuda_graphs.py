"""Decoding at fixed shapes: the same features as ordinary forwards, for any number of rows, and room that grows."""

import pytest
import torch

from nanochat.engine.cuda_graphs import DecodeGraphs
from nanochat.model import LanguageModel, ModelConfig

TOLERANCE = 1e-5
SLOTS = {"slot_scale": 0.5, "slot_ids": (0, 1, 2, 18)}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def make_model(pattern: str, device: str = "cpu", **overrides: object) -> LanguageModel:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    sizes = dict(vocab_size=50, n_embd=32, n_head=4, n_kv_head=2, mlp_hidden=40, d_state=6, headdim=8, chunk_size=7,
                 attention_conv=4, rope_theta=10000.0)
    return LanguageModel(ModelConfig(block_pattern=pattern, **(sizes | overrides)), seed=1).eval().to(device)


def prefill(model: LanguageModel, cache, lengths: list[int]) -> None:
    """Rows of unequal length; each row's tokens depend on its number only."""
    for row, length in enumerate(lengths):
        ids = torch.randint(50, (1, length), generator=torch.Generator().manual_seed(row)).to(model.device)
        ids[:, 0] = 0  # opens results where slots are known
        model.features(ids, cache.view(row + 1, start=row))


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pattern", ["M,T", "M", "T"])
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("slots", [{}, SLOTS])
def test_a_static_step_gives_the_features_of_an_ordinary_one(pattern, rows, device, slots):
    model = make_model(pattern, device, **slots)
    lengths = [3, 11, 1, 7, 4][:rows]
    graphs = DecodeGraphs(model, max_rows=6, capacity=20, is_static=True)
    plain = model.new_cache(6)
    plain.reserve(20)
    for cache in (graphs.cache, plain):
        prefill(model, cache, lengths)
    ids = torch.randint(50, (8, rows, 1), generator=torch.Generator().manual_seed(9)).to(device)
    ours, theirs = graphs.cache.view(rows), plain.view(rows)
    for number, step in enumerate(ids):
        assert graphs.fits(ours)
        one, other = graphs.step(ours, step), model.features(step, theirs)
        assert one.shape == other.shape
        difference = (one - other).abs().max().item()
        assert difference < TOLERANCE, f"step {number} differs by {difference}"
    assert ours.host_lengths == graphs.cache.lengths[:rows].tolist() == [length + 8 for length in lengths]
    assert graphs.buckets == [min(6, 1 << (rows - 1).bit_length())]


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("slots", [{}, SLOTS])
def test_rows_may_join_and_leave_between_steps(device, slots):
    model = make_model("T,M", device, **slots)
    graphs = DecodeGraphs(model, max_rows=4, capacity=32, is_static=True)
    prefill(model, graphs.cache, [5, 2, 9, 3])
    alone = [model.new_cache(1) for _ in range(4)]
    for row, cache in enumerate(alone):
        cache.put_row(0, graphs.cache, row)
    order = [0, 1, 2, 3]
    generator = torch.Generator().manual_seed(3)
    for live in (4, 4, 3, 3, 1, 1):
        if live < len(order):
            # the first row leaves, the last one takes its place
            graphs.cache.copy_row(len(order) - 1, 0)
            order = [order[-1], *order[1:-1]][:live]
        ids = torch.randint(50, (live, 1), generator=generator).to(device)
        features = graphs.step(graphs.cache.view(live), ids)
        for place, row in enumerate(order):
            expected = model.features(ids[place : place + 1], alone[row])[0]
            difference = (features[place] - expected).abs().max().item()
            assert difference < TOLERANCE, f"row {row} of {live} differs by {difference}"


@torch.no_grad()
@pytest.mark.parametrize("device", DEVICES)
def test_room_grows_and_a_full_row_takes_an_ordinary_forward(device):
    model = make_model("M,T", device)
    graphs = DecodeGraphs(model, max_rows=2, capacity=8, is_static=True)
    plain = model.new_cache(2)
    plain.reserve(30)
    for cache in (graphs.cache, plain):
        prefill(model, cache, [6, 3])
    for number in range(8):
        if number == 4:
            # the ordinary forward has grown the cache by itself already
            graphs.reserve(10)
        if number == 6:
            graphs.reserve(24)
        ids = torch.full((2, 1), number, device=device)
        is_full = number in (2, 3, 4, 5)
        view = graphs.cache if is_full else graphs.cache.view(2)
        assert graphs.fits(view) == (not is_full), f"step {number}: lengths {view.host_lengths}"
        difference = (graphs.step(view, ids) - model.features(ids, plain)).abs().max().item()
        assert difference < TOLERANCE, f"step {number} differs by {difference}"


@torch.no_grad()
def test_a_free_row_without_room_does_not_disturb_the_others():
    model = make_model("M,T")
    graphs = DecodeGraphs(model, max_rows=4, capacity=8, is_static=True)
    prefill(model, graphs.cache, [2, 2, 2, 8])  # the fourth row is full and not decoded
    plain = graphs.cache.snapshot()
    ids = torch.tensor([[1], [2], [3]])
    difference = (graphs.step(graphs.cache.view(3), ids) - model.features(ids, plain.view(3))).abs().max().item()
    assert difference < TOLERANCE, f"differs by {difference}"


@torch.no_grad()
def test_other_caches_and_the_cpu_take_ordinary_forwards():
    model = make_model("M,T")
    graphs = DecodeGraphs(model, max_rows=2, capacity=8, is_static=True)
    other = model.new_cache(2)
    other.reserve(8)
    prefill(model, other, [3, 3])
    assert not graphs.fits(other)
    assert not graphs.fits(graphs.cache.view(2, start=1))
    assert graphs.step(other, torch.zeros(2, 1, dtype=torch.long)).shape == (2, 1, 32)
    assert graphs.buckets == []
    by_default = DecodeGraphs(model, max_rows=2, capacity=8)
    assert not by_default.fits(by_default.cache)
