"""Choosing tokens: greedy, temperature, top-k, top-p, min-p, forbidden ids; rows of one batch each in their own way."""

import random

import pytest
import torch

from nanochat.engine import sampling
from nanochat.engine.sampling import SamplingParams, choose, logprobs_of
from nanochat.errors import ConfigError


def uniforms(count: int) -> list[float]:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()


def test_greedy_takes_the_likeliest_allowed_id_and_the_lowest_of_equals():
    logits = torch.tensor([[0.0, 3.0, 3.0, 9.0]])
    allowed = torch.tensor([[True, True, True, False]])
    assert choose(logits, SamplingParams(temperature=0), [0.5], allowed=allowed).tolist() == [1]
    assert choose(logits, SamplingParams(temperature=0), [0.5]).tolist() == [3]


@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_frequencies_follow_the_distribution(temperature, top_k):
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0, 0.5])
    allowed = torch.tensor([True, True, True, True, False])
    draws = choose(
        logits.expand(20000, 5), SamplingParams(temperature=temperature, top_k=top_k), uniforms(20000),
        allowed=allowed.expand(20000, 5),
    )
    scaled = (logits / temperature).masked_fill(~allowed, float("-inf"))
    if top_k:
        scaled[3] = float("-inf")
    difference = (torch.bincount(draws, minlength=5) / 20000 - scaled.softmax(0)).abs().max()
    assert difference < 0.015, f"frequencies are off by {difference:.3f}"


@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_extreme_draws_never_take_a_forbidden_id(uniform, top_k):
    allowed = torch.tensor([[False, True, True, False]])
    picked = choose(torch.zeros(1, 4), SamplingParams(top_k=top_k), [uniform], allowed=allowed)
    assert picked.item() in (1, 2)


def reference_distribution(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities (V,) by the definitions, one filter after the other, each on what the one before has left."""
    probs = torch.softmax(logits.double() / params.temperature, dim=-1)
    order = probs.argsort(descending=True).tolist()
    kept = order[: params.top_k] if params.top_k else order
    total, held, nucleus = sum(probs[id].item() for id in kept), 0.0, []
    for id in kept:
        if held < params.top_p * total:
            nucleus.append(id)
        held += probs[id].item()
    likely = [id for id in nucleus if probs[id] >= params.min_p * probs[order[0]]]
    result = torch.zeros_like(probs)
    result[likely] = probs[likely]
    return result / result.sum()


@pytest.mark.parametrize("filters", [
    {"top_p": 0.7}, {"top_p": 0.999}, {"top_p": 1e-9}, {"min_p": 0.2}, {"min_p": 1.0}, {"top_k": 5, "top_p": 0.6},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.05, "temperature": 1.7}, {"top_k": 3000},
    {"top_p": 0.9, "temperature": 0.05},
])
def test_filters_keep_what_their_definitions_keep(filters, monkeypatch):
    # a small pool, so that flat rows take the long way
    monkeypatch.setattr(sampling, "POOL", 8)
    params, count = SamplingParams(**{"temperature": 1.0, **filters}), 4000
    for scale in (0.1, 2.0):
        logits = torch.randn(37, generator=torch.Generator().manual_seed(2)) * scale
        expected = reference_distribution(logits, params)
        draws = choose(logits.expand(count, 37), params, [(draw + 0.5) / count for draw in range(count)])
        difference = (torch.bincount(draws, minlength=37) / count - expected).abs().max().item()
        assert difference < 2 / count, f"probabilities are off by {difference:.5f} at scale {scale}"


def test_a_row_draws_the_same_alone_and_in_any_company(monkeypatch):
    monkeypatch.setattr(sampling, "POOL", 8)
    generator, rng = torch.Generator().manual_seed(3), random.Random(0)
    logits = torch.randn(64, 50, generator=generator) * torch.rand(64, 1, generator=generator) * 4
    # whole numbers tie often
    logits[::3] = logits[::3].round()
    allowed = torch.rand(64, 50, generator=generator) < 0.7
    numbers = uniforms(64)
    params = [SamplingParams(temperature=rng.choice([0, 0.3, 1.0]), top_k=rng.choice([0, 0, 3, 20]),
                             top_p=rng.choice([1.0, 0.5, 0.99]), min_p=rng.choice([0.0, 0.1])) for _ in range(64)]
    together = choose(logits, params, numbers, allowed=allowed).tolist()
    for row in range(64):
        alone = choose(logits[[row]], params[row], [numbers[row]], allowed=allowed[[row]]).item()
        assert alone == together[row], f"row {row}, {params[row]}: {together[row]} in company, {alone} alone"
        assert allowed[row, alone]
    assert len(set(together)) > 20


def test_the_largest_temperature_and_logits_stay_finite():
    logits = torch.tensor([[1e30, -1e30, 0.0], [5.0, float("-inf"), 5.0]])
    for temperature in (1e-300, 1e300):
        ids = choose(logits, SamplingParams(temperature=temperature, top_p=0.9), [0.1, 0.9]).tolist()
        assert ids[1] in (0, 2) and (temperature > 1 or ids[0] == 0)


def test_logprobs_are_the_models_own():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([0, 8, 3, 3])
    assert torch.allclose(logprobs_of(logits, ids), logits.softmax(-1)[range(4), ids].log(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", -1.0), ("temperature", float("nan")), ("top_k", -1), ("max_tokens", 0),
     ("top_p", 0.0), ("top_p", 1.5), ("top_p", float("nan")), ("min_p", -0.1), ("min_p", 2.0), ("stop_ids", (-1,)),
     ("stop_ids", (1.5,))]
)
def test_values_that_cannot_work_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        SamplingParams(**{name: value})
