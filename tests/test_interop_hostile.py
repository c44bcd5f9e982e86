"""Published folders written by somebody who means harm, or by a broken program: one sentence with file and field."""

import json

import pytest
import torch
from interop_stubs import edit_config, randomise, tokenizer

from nanochat import interop
from nanochat.errors import CheckpointError, UnsupportedModel
from nanochat.model import LanguageModel, ModelConfig

FAMILIES = {
    "granitemoehybrid": dict(block_pattern="M,T,M", mlp_hidden=40),
    "rope": dict(block_pattern="M,T,M", mlp_hidden=40, rope_theta=900.0),
    "bamba": dict(block_pattern="M,T,M", mlp_hidden=40, rope_theta=900.0, rope_dim=6),
    "mamba2": dict(block_pattern="M,M", mlp_hidden=0),
}


@pytest.fixture
def folder_of(tmp_path):
    """A function: family -> a folder written by our export."""
    def make(family: str):
        model = LanguageModel(ModelConfig(**dict(vocab_size=336, n_embd=48, n_head=4, n_kv_head=2, d_state=6,
                                                 headdim=12), **FAMILIES[family]))
        randomise(model)
        interop.export(model, tokenizer(), tmp_path / family)
        return tmp_path / family
    return make


@pytest.mark.parametrize(("family", "name", "value"), [
    *[("granitemoehybrid", name, value) for value in (0, -2.0, 0.0, float("inf"), "1", [1], 10**400, True)
      for name in ("logits_scaling", "rms_norm_eps", "embedding_multiplier", "residual_multiplier")],
    ("granitemoehybrid", "attention_multiplier", -0.1), ("granitemoehybrid", "attention_multiplier", [0]),
    ("mamba2", "layer_norm_epsilon", -1e-5), ("mamba2", "layer_norm_epsilon", 0),
    ("bamba", "rms_norm_eps", -1e-5),
])
def test_a_number_that_must_be_above_zero_is_named(folder_of, family, name, value):
    folder = folder_of(family)
    edit_config(folder, **{name: value})
    with pytest.raises(CheckpointError) as caught:
        interop.load(str(folder))
    problem = caught.value.problem
    assert problem.startswith(f"{folder / 'config.json'}: {name} is ") and "a number above 0" in problem, problem
    assert len(problem) < 300 and "\n" not in problem


@pytest.mark.parametrize(("family", "changes", "words"), [
    ("granitemoehybrid", {"model_type": ["granitemoehybrid"]}, "architecture ['GraniteMoeHybridForCausalLM'] is not"),
    ("granitemoehybrid", {"model_type": {"a": 1}, "architectures": None}, "architecture {'a': 1} is not"),
    ("granitemoehybrid", {"architectures": ["A" * 9999], "model_type": 7}, "AAA... is not one that loads"),
    ("granitemoehybrid", {"attn_layer_indices": [[1]]}, "attn_layer_indices is [[1]], expected a list of numbers"),
    ("granitemoehybrid", {"attn_layer_indices": [{}]}, "attn_layer_indices is [{}]"),
    ("granitemoehybrid", {"attn_layer_indices": [True]}, "attn_layer_indices is [True]"),
    ("granitemoehybrid", {"attn_layer_indices": [-1]}, "attn_layer_indices is [-1]"),
    ("granitemoehybrid", {"layer_types": [["mamba"]] * 3}, "layer_types is "),
    ("granitemoehybrid", {"hidden_act": ["silu"]}, "hidden_act is ['silu']"),
    ("granitemoehybrid", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, expected a whole number from "
                                                       "1 to 4096"),
    ("mamba2", {"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
    ("mamba2", {"vocab_size": 10**30}, "vocab_size is 1000000000000000000000000000000, expected a whole number from 1"),
    ("granitemoehybrid", {"vocab_size": 2**31 - 1}, "vocab_size is 2147483647, but model.embed_tokens.weight has shape "
                                                    "(336, 48) in model.safetensors"),
    ("granitemoehybrid", {"shared_intermediate_size": 2**31 - 1}, "shared_mlp.input_linear.weight has shape (80, 48)"),
    ("granitemoehybrid", {"hidden_size": 2**30, "mamba_d_head": 2**28, "shared_intermediate_size": 2**31 - 1},
     "no tensor can have the sizes it says"),
    ("granitemoehybrid", {"time_step_limit": [0, 10**400]}, "time_step_limit is [0, 1000"),
    ("granitemoehybrid", {"time_step_limit": [[0], 1]}, "time_step_limit is [[0], 1]"),
    ("rope", {"rope_parameters": {"rope_type": ["default"]}}, "scaled rotary positions"),
    ("rope", {"rope_parameters": {"rope_theta": 10**400}}, "a number above 0"),
    ("bamba", {"rope_parameters": {"partial_rotary_factor": 1e308}}, "partial_rotary_factor is 1e+308"),
])
def test_a_config_of_any_make_gives_one_sentence(folder_of, family, changes, words):
    folder = folder_of(family)
    edit_config(folder, **changes)
    with pytest.raises((CheckpointError, UnsupportedModel)) as caught:
        interop.load(str(folder))
    problem = caught.value.problem
    assert words in problem and str(folder) in problem, problem
    assert len(problem) < 400 and "\n" not in problem


def test_sizes_are_held_against_the_weights_before_memory_is_asked_for(folder_of, monkeypatch):
    folder = folder_of("granitemoehybrid")
    edit_config(folder, vocab_size=2**30)

    def refuse(*arguments, **options):
        raise AssertionError("memory for weights was asked for")

    monkeypatch.setattr(LanguageModel, "to_empty", refuse)
    with pytest.raises(CheckpointError, match="vocab_size is 1073741824"):
        interop.load(str(folder))


@pytest.mark.parametrize("weight_map", [
    {"a": ["model.safetensors"]}, {"a": "model.safetensors", "b": 3}, {"a": {}, "b": "x"}, {"a": None}, ["a"], "a",
])
def test_an_index_of_any_make_gives_one_sentence(folder_of, weight_map):
    folder = folder_of("granitemoehybrid")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="its weight_map does not name files of this folder") as caught:
        interop.load(str(folder))
    assert "model.safetensors.index.json" in caught.value.problem


def test_json_without_an_end_is_damaged(folder_of):
    folder = folder_of("mamba2")
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="config.json is damaged"):
        interop.load(str(folder))


def test_weights_in_another_type_still_load(folder_of):
    model, _, _ = interop.load(str(folder_of("granitemoehybrid")), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
