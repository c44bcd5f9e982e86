"""How a run computes: checkpointing, bfloat16 and compilation change speed and memory, not what is learned."""

import copy

import pytest
import torch
from training_stubs import tiny_model

from nanochat.errors import ConfigError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.training import Batch, build_optimizer, fit, language_model_loss
from nanochat.training.precision import autocast, compile_blocks, pick_dtype

CPU = torch.device("cpu")


def batch_of(*, is_packed: bool) -> Batch:
    ids = torch.randint(64, (3, 22), generator=torch.Generator().manual_seed(0))
    seq_idx = (torch.arange(21) // 8).expand(3, 21) if is_packed else None
    return Batch(ids=ids[:, :-1], targets=ids[:, 1:], seq_idx=seq_idx)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("pattern", ["M,T", "T,M,M"])
def test_gradients_with_activation_checkpointing_are_those_without(pattern, is_packed):
    plain = LanguageModel(ModelConfig(block_pattern=pattern, vocab_size=64, n_embd=32, n_head=2, n_kv_head=1,
                                      mlp_hidden=48, d_state=8, headdim=16, chunk_size=8, attention_conv=3))
    saving = copy.deepcopy(plain)
    saving.checkpointing = True
    calls = []
    saving.layers[0].register_forward_pre_hook(lambda *args: calls.append(1))
    for model in (plain, saving):
        language_model_loss(model, batch_of(is_packed=is_packed)).loss.backward()
    assert len(calls) == 2, "the block was not computed again"
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        difference = (one.grad - other.grad).abs().max().item()
        assert difference < 1e-6, f"{name}: {difference}"


def test_checkpointing_leaves_inference_alone():
    model = tiny_model().eval()
    ids = torch.arange(30).reshape(2, 15)
    with torch.no_grad():
        expected = model(ids)
        model.checkpointing = True
        assert torch.equal(model(ids), expected)
        assert (model(ids, model.new_cache(2)) - expected).abs().max() < 1e-5


def test_dtypes():
    assert pick_dtype("auto", CPU) == torch.float32 and pick_dtype("bfloat16", CPU) == torch.bfloat16
    with pytest.raises(ConfigError, match="Device mps has no bfloat16"):
        pick_dtype("bfloat16", torch.device("mps"))


def test_bfloat16_learns_the_same_with_weights_in_float32():
    results = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model()
        results[dtype] = fit(model, lambda step, micro: batch_of(is_packed=True), language_model_loss,
                             build_optimizer(model), num_steps=12, log=lambda record: None,
                             context=autocast(CPU, dtype))["losses"]
        assert all(p.dtype == torch.float32 for p in model.parameters())
    one, other = results.values()
    assert one != other, "autocast had no effect"
    assert other == pytest.approx(one, abs=0.03) and other[-1] < one[0] - 0.2, (one, other)


def test_a_compiled_block_that_cannot_be_compiled_runs_as_it_is(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    model, plain = tiny_model(), tiny_model()
    assert not compile_blocks(model.layers, "false", CPU) and not compile_blocks(model.layers, "auto", CPU)
    monkeypatch.setattr("nanochat.training.precision.BACKEND", broken)
    assert compile_blocks(model.layers, "true", CPU)
    assert model.state_dict().keys() == plain.state_dict().keys()
    ids = torch.arange(30).reshape(2, 15)
    assert torch.allclose(model(ids), plain(ids), atol=1e-6)
