"""Reading published folders: spellings of all versions, sharded files, new rows for reserved ids, and damage."""

import json
import shutil
import sys

import pytest
import torch
from interop_stubs import edit_config, random_ids, randomise, tokenizer
from safetensors.torch import load_file, save_file

from nanochat import interop
from nanochat.errors import (
    CheckpointError,
    CheckpointNotFound,
    ConfigError,
    MissingDependency,
    UnsupportedModel,
    UserError,
)
from nanochat.model import LanguageModel, ModelConfig

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """One folder of each family, written by our export."""
    place = tmp_path_factory.mktemp("originals")
    sizes = dict(vocab_size=336, n_embd=48, n_head=4, n_kv_head=2, d_state=6, headdim=12)
    for name, overrides in {
        "granitemoehybrid": dict(block_pattern="M,T,M", mlp_hidden=40),
        "rope": dict(block_pattern="M,T,M", mlp_hidden=40, rope_theta=900.0),
        "bamba": dict(block_pattern="M,T,M", mlp_hidden=40, rope_theta=900.0, rope_dim=6),
        "mamba2": dict(block_pattern="M,M", mlp_hidden=0),
    }.items():
        model = LanguageModel(ModelConfig(**(sizes | overrides)))
        randomise(model)
        interop.export(model, tokenizer(), place / name)
    return place


@pytest.fixture
def folder_of(originals, tmp_path):
    def copy(family: str):
        return shutil.copytree(originals / family, tmp_path / f"copy of {family}")
    return copy


def config_of(folder):
    return interop.load(str(folder))[0].config


@pytest.mark.parametrize(("family", "drop", "changes"), [
    ("granitemoehybrid", (), {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}),
    ("granitemoehybrid", ("layer_types",), {"layers_block_type": ["mamba", "attention", "mamba"]}),
    ("granitemoehybrid", ("layer_types",), {"attn_layer_indices": [1]}),
    ("granitemoehybrid", ("position_embedding_type",), {}),
    ("granitemoehybrid", ("num_local_experts", "time_step_limit", "tie_word_embeddings"), {"hidden_act": "swish"}),
    ("granitemoehybrid", (), {"mamba_d_head": "auto", "rope_parameters": None, "rope_scaling": None}),
    ("granitemoehybrid", (), {"time_step_limit": [0.0, {"__float__": "Infinity"}], "head_dim": 12}),
    ("rope", ("rope_parameters",), {}),
    ("rope", ("rope_theta",), {"rope_parameters": {"type": "default", "rope_theta": 900}}),
    ("rope", ("rope_theta",), {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 900.0}}}),
    ("bamba", ("attn_layer_indices",), {"layers_block_type": ["linear_attention", "full_attention", "mamba"]}),
    ("bamba", ("attn_layer_indices",), {"layer_types": ["mamba", "attention", "mamba"]}),
    ("bamba", ("rope_parameters", "partial_rotary_factor", "attn_rotary_emb"), {}),
    ("mamba2", ("max_position_embeddings", "use_bias"), {"max_position_embeddings": 1024}),
])
def test_every_spelling_of_a_config_means_the_same(originals, folder_of, family, drop, changes):
    folder = folder_of(family)
    edit_config(folder, drop=drop, **changes)
    assert config_of(folder) == config_of(originals / family)


@pytest.mark.parametrize(("family", "changes", "words"), [
    ("granitemoehybrid", {"num_local_experts": 4}, "num_local_experts is 4: mixtures of experts"),
    ("granitemoehybrid", {"position_embedding_type": "alibi"}, "position_embedding_type is 'alibi'"),
    ("granitemoehybrid", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("granitemoehybrid", {"attention_multiplier": 0}, "attention_multiplier is 0"),
    ("granitemoehybrid", {"layer_types": ["mamba", "conv", "mamba"]}, "layers of type conv"),
    ("granitemoehybrid", {"mamba_n_heads": 5}, "mamba_expand is 2: 2 times width 48 is not 5 Mamba heads"),
    ("granitemoehybrid", {"mamba_n_groups": 3}, "8 Mamba heads are not a multiple of n_groups 3"),
    ("granitemoehybrid", {"num_key_value_heads": 3}, "not a multiple of n_kv_head 3"),
    ("granitemoehybrid", {"quantization_config": {"quant_method": "fp8"}}, "quantised"),
    ("granitemoehybrid", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
    ("rope", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "scaled rotary positions"),
    ("rope", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "scaled rotary positions"),
    ("bamba", {"num_attention_heads": 16, "num_key_value_heads": 16}, "rope_dim 1 is not an even number"),
    ("mamba2", {"head_dim": 7}, "not 8 Mamba heads of 7"),
])
def test_what_has_no_counterpart_is_refused_by_name(folder_of, family, changes, words):
    folder = folder_of(family)
    edit_config(folder, **changes)
    with pytest.raises(UnsupportedModel) as caught:
        interop.load(str(folder))
    assert words in caught.value.problem and "\n" not in caught.value.problem, caught.value.problem


@pytest.mark.parametrize(("changes", "words"), [
    ({"hidden_size": "wide"}, "hidden_size is 'wide', expected a whole number from 1"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"attention_bias": 1}, "attention_bias is 1, expected true or false"),
    ({"logits_scaling": float("nan")}, "logits_scaling is nan"),
    ({"layer_types": ["mamba"]}, "expected 3 words, one per layer"),
    ({"layer_types": "mamba"}, "expected a list of words"),
    ({"attn_layer_indices": [3]}, "a list of numbers below 3"),
    ({"time_step_limit": [1, 0]}, "two numbers, the smaller one first"),
    ({"position_embedding_type": "rope", "rope_parameters": []}, "rope_parameters is [], expected an object"),
    ({"position_embedding_type": "rope", "rope_parameters": {"rope_theta": -1}}, "a number above 0"),
])
def test_a_field_with_an_impossible_value_is_named(folder_of, changes, words):
    folder = folder_of("granitemoehybrid")
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError) as caught:
        interop.load(str(folder))
    assert words in caught.value.problem and str(folder / "config.json") in caught.value.problem, caught.value.problem


def damage(folder, action: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = "model.layers.1.self_attn.k_proj.weight"
    if action == "missing":
        del tensors[name]
    elif action == "extra":
        tensors["model.layers.7.extra.weight"] = torch.zeros(2)
    elif action == "shape":
        tensors[name] = tensors[name][:-1].clone()
    elif action == "experts":
        tensors["model.layers.0.block_sparse_moe.router.layer.weight"] = torch.zeros(2)
    elif action == "integers":
        tensors[name] = tensors[name].to(torch.int8)
    elif action == "head":
        tensors["lm_head.weight"] = torch.ones(336, 48)
    save_file(tensors, folder / WEIGHTS)
    if action == "truncated":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


@pytest.mark.parametrize(("action", "words"), [
    ("missing", "lacks the tensor model.layers.1.self_attn.k_proj.weight"),
    ("extra", "has the tensor model.layers.7.extra.weight, for which its config has no place"),
    ("shape", "model.layers.1.self_attn.k_proj.weight has shape (23, 48), the config says (24, 48)"),
    ("experts", "belongs to a mixture of experts"),
    ("integers", "stored as I8: quantised weights do not load"),
    ("head", "has the tensor lm_head.weight"),
    ("truncated", "is damaged"),
])
def test_a_wrong_tensor_is_named_in_one_sentence(folder_of, action, words):
    folder = folder_of("granitemoehybrid")
    damage(folder, action)
    with pytest.raises(UserError) as caught:
        interop.load(str(folder))
    assert words in caught.value.problem and "\n" not in caught.value.problem, caught.value.problem


def test_a_tied_head_stored_again_and_old_buffers_are_accepted(folder_of):
    folder = folder_of("bamba")
    tensors = load_file(folder / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.rotary_emb.inv_freq"] = torch.ones(3)
    save_file(tensors, folder / WEIGHTS)
    assert interop.load(str(folder))[0].config.tie_embeddings
    edit_config(folder, drop=("tie_word_embeddings",))
    assert not interop.load(str(folder))[0].config.tie_embeddings, "unsaid: the stored head decides"


def test_an_old_name_of_the_embedding_is_read(originals, folder_of):
    folder = folder_of("mamba2")
    tensors = load_file(folder / WEIGHTS)
    tensors["backbone.embedding.weight"] = tensors.pop("backbone.embeddings.weight")
    save_file(tensors, folder / WEIGHTS)
    expected = interop.load(str(originals / "mamba2"))[0].embed.weight
    assert torch.equal(interop.load(str(folder))[0].embed.weight, expected)


def shard(folder) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + place % 3}-of-00003.safetensors" for place, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@torch.no_grad()
def test_sharded_weights_equal_whole_ones(originals, folder_of):
    folder = folder_of("granitemoehybrid")
    shard(folder)
    ids = random_ids(2, 17)
    whole, sharded = (interop.load(str(place))[0](ids) for place in (originals / "granitemoehybrid", folder))
    assert torch.equal(whole, sharded)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointNotFound, match=r"no model-00002-of-00003\.safetensors"):
        interop.load(str(folder))


@pytest.mark.parametrize("weight_map", [{"a": "../../secret.safetensors"}, {"a": 3}, {}, None, {"a": "/etc/passwd"}])
def test_an_index_cannot_name_files_elsewhere(folder_of, weight_map):
    folder = folder_of("granitemoehybrid")
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="does not name files of this folder"):
        interop.load(str(folder))


@pytest.mark.parametrize(("name", "content", "words"), [
    ("config.json", None, "has no config.json"),
    ("config.json", "{", "config.json is damaged"),
    ("config.json", "[]", "not a JSON object"),
    (WEIGHTS, None, f"has no {WEIGHTS}"),
])
def test_a_missing_or_damaged_file_is_named(folder_of, name, content, words):
    folder = folder_of("mamba2")
    (folder / name).unlink()
    if content:
        (folder / name).write_text(content)
    with pytest.raises(UserError) as caught:
        interop.load(str(folder))
    assert words in caught.value.problem


def test_weights_are_float32_on_the_cpu_unless_asked(folder_of):
    folder = folder_of("granitemoehybrid")
    save_file({name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    model, _, meta = interop.load(str(folder), "cpu", "train")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32} and model.training
    assert meta["source"] == f"hf:{folder}" and (meta["tag"], meta["step"]) == ("copy-of-granitemoehybrid", 0)
    half = interop.load(str(folder), dtype=torch.bfloat16)[0]
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16} and not half.training
    ids = random_ids(2, 17)
    with torch.no_grad():
        error, spread = (half(ids) - model(ids)).std(), model(ids).std()
    assert error < 0.05 * spread, f"bfloat16 is {error:.4f} away, logits spread {spread:.4f}"


def test_neither_folder_nor_id_says_what_a_source_is(tmp_path):
    with pytest.raises(CheckpointNotFound, match="Folder not found"):
        interop.load(str(tmp_path / "nowhere" / "at" / "all"))


def test_an_id_needs_the_hub_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependency, match=r"nanochat-rag\[hf\]"):
        interop.load("ibm-granite/granite-4.0-h-350m")


def test_an_id_without_network_says_how_to_download(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        interop.load("nobody/no-such-model")
    assert "cannot be downloaded" in caught.value.problem
    assert "hf download nobody/no-such-model --local-dir" in caught.value.hint


def test_an_unknown_device_is_named(folder_of):
    with pytest.raises(ConfigError, match="Device 'tpu'"):
        interop.load(str(folder_of("mamba2")), "tpu")
