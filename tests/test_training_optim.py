"""Optimizer groups, Muon against torch's own, and state that leaves and enters exactly."""

import copy
import json

import pytest
import torch

from nanochat.errors import CheckpointError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.training.muon import Muon, orthogonalize
from nanochat.training.optim import build_optimizer, parameter_groups


def tiny_model(pattern: str = "M,T", **changes) -> LanguageModel:
    settings = {
        "vocab_size": 64,
        "n_embd": 32,
        "n_head": 2,
        "n_kv_head": 1,
        "mlp_hidden": 48,
        "d_state": 8,
        "headdim": 16,
        "attention_conv": 4,
        "chunk_size": 8,
        **changes,
    }
    return LanguageModel(ModelConfig(block_pattern=pattern, **settings))


def step(model, optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("tie", [True, False])
def test_every_parameter_is_in_the_group_of_its_module(tie):
    model = tiny_model(tie_embeddings=tie)
    groups = parameter_groups(model)
    assert sum(len(group) for group in groups.values()) == len(list(model.parameters()))
    assert set(groups["embedding"]) == ({"embed.weight"} if tie else {"embed.weight", "lm_head.weight"})
    assert all("proj" in name or "linear" in name for name in groups["matrix"])
    assert {name.rpartition(".")[2] for name in groups["kernel"]} == {"conv_weight"}
    for name in ("A_log", "D", "dt_bias", "conv_bias", "weight"):
        assert any(key.endswith("." + name) for key in groups["scalar"]), f"no {name} among {list(groups['scalar'])}"


def test_tied_weight_belongs_to_the_embedding_whichever_module_comes_first():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.nn.Linear(4, 8, bias=False)
            self.embed = torch.nn.Embedding(8, 4)
            self.embed.weight = self.out.weight

    groups = parameter_groups(Tied())
    assert list(groups["embedding"]) == ["out.weight"] and not groups["matrix"]


def test_weight_decay_touches_matrices_and_kernels_only():
    model = tiny_model()
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = build_optimizer(model, matrix_lr=0.1, embedding_lr=0.1, scalar_lr=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    groups = parameter_groups(model)
    for group, parameters in groups.items():
        factor = 0.95 if group in ("matrix", "kernel") else 1.0
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter, before[name] * factor)


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (17, 17), (1, 5)])
def test_muon_equals_torch_muon(shape):
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = copy.deepcopy(mine)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    pair = Muon(mine, **settings), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(3):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(shape)
            b.grad = a.grad.clone()
        pair[0].step()
        pair[1].step()
    for a, b in zip(mine, theirs, strict=True):
        # theirs computes in bfloat16; three steps move an entry by up to about 0.05
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(2, 24, 8), (2, 8, 24), (1, 16, 16)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert values.min() > 0.3 and values.max() < 1.3, values


def test_zero_gradient_is_finite():
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def test_lr_scale_multiplies_base_rates():
    model = tiny_model()
    optimizer = build_optimizer(model, matrix_lr=0.1, embedding_lr=0.2, scalar_lr=0.3)
    for scale in (0.5, 0.25):
        optimizer.set_lr_scale(scale)
    rates = {group["name"]: group["lr"] for part in optimizer.optimizers for group in part.param_groups}
    assert rates == pytest.approx({"matrix": 0.025, "embedding": 0.05, "kernel": 0.075, "scalar": 0.075})
    before = copy.deepcopy(model.state_dict())
    optimizer.set_lr_scale(0.0)
    step(model, optimizer, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_state_round_trip_is_exact():
    model = tiny_model()
    optimizer = build_optimizer(model, weight_decay=0.1)
    for seed in range(3):
        step(model, optimizer, seed)
    tensors = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    record = json.loads(json.dumps(optimizer.state_record()))
    twin = copy.deepcopy(model)
    other = build_optimizer(twin, weight_decay=0.1)
    other.load_state(tensors, record, where="here")
    again = other.state_tensors()
    assert again.keys() == tensors.keys() and all(torch.equal(again[name], tensors[name]) for name in tensors)
    for seed in range(3, 5):
        step(model, optimizer, seed)
        step(twin, other, seed)
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_loaded_state_shares_no_memory():
    model = tiny_model()
    optimizer = build_optimizer(model)
    step(model, optimizer, 0)
    tensors = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    optimizer.load_state(tensors, optimizer.state_record(), where="here")
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    step(model, optimizer, 1)
    assert all(torch.equal(tensors[name], kept[name]) for name in kept)


def test_state_of_another_model_is_refused():
    small, large = tiny_model(), tiny_model(mlp_hidden=64)
    optimizer = build_optimizer(small)
    step(small, optimizer, 0)
    with pytest.raises(CheckpointError, match="shape"):
        build_optimizer(large).load_state(optimizer.state_tensors(), optimizer.state_record(), where="here")
    with pytest.raises(CheckpointError, match="here does not fit this model: its parameter groups differ"):
        build_optimizer(tiny_model("T")).load_state(optimizer.state_tensors(), optimizer.state_record(), where="here")
