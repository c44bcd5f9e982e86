"""Choosing tokens: greedy, temperature, top-k, forbidden ids."""

import pytest
import torch

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


def test_logprobs_are_the_models_own():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([0, 8, 3, 3])
    assert torch.allclose(logprobs_of(logits, ids), logits.softmax(-1)[range(4), ids].log(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", -1.0), ("temperature", float("nan")), ("top_k", -1), ("max_tokens", 0)]
)
def test_values_that_cannot_work_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        SamplingParams(**{name: value})
