"""Exports: transformers computes what we compute, and export, import, export gives the same bytes."""

import json

import pytest
import torch
from interop_stubs import (
    SHAPES,
    difference,
    make_published,
    random_ids,
    randomise,
    save_published,
    tokenizer,
)

from nanochat import interop
from nanochat.errors import UnsupportedModel, UserError
from nanochat.model import LanguageModel, ModelConfig

TOLERANCE = 1e-4
NATIVE = {
    "hybrid": dict(block_pattern="M,T,M,M", n_groups=2, n_kv_head=2, residual_multiplier=0.4, logits_scaling=2.0,
                   embedding_multiplier=3.0),
    "biases, untied, rope": dict(block_pattern="T,M", attention_bias=True, mamba_bias=True, conv_bias=False,
                                 tie_embeddings=False, rope_theta=900.0, attention_multiplier=0.3),
    "other head size": dict(block_pattern="T,M", head_dim=10, n_head=3, n_kv_head=1),
    "attention only": dict(block_pattern="T,T"),
    "bamba": dict(block_pattern="M,T", rope_theta=900.0, rope_dim=6, mlp_bias=True, tie_embeddings=False),
    "mamba only": dict(block_pattern="M,M", d_conv=2),
    "mamba2": dict(block_pattern="M,M,M", mlp_hidden=0, n_groups=4, mamba_bias=True),
}


def make_native(**overrides):
    sizes = dict(vocab_size=336, n_embd=48, n_head=4, n_kv_head=4, mlp_hidden=40, d_state=6, headdim=12, chunk_size=7)
    model = LanguageModel(ModelConfig(**(sizes | overrides))).eval()
    randomise(model)
    return model


@torch.no_grad()
@pytest.mark.parametrize("shape", NATIVE)
def test_transformers_computes_what_an_export_computes(shape, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = make_native(**NATIVE[shape])
    interop.export(model, tokenizer(), tmp_path / "out")
    published = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert published.dtype == torch.float32
    for length in (1, 17):
        ids = random_ids(2, length)
        expected = model(ids)
        assert expected.std() > 0.1
        assert difference(published(ids).logits, expected) < TOLERANCE
    generated = published.generate(random_ids(2, 9), max_new_tokens=8, eos_token_id=None)
    ids = random_ids(2, 9)
    for _ in range(8):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
    assert generated.tolist() == ids.tolist()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for name, mark in [("bos_token_id", "bos"), ("eos_token_id", "assistant_end"), ("pad_token_id", "spare_15")]:
        said = [getattr(part, name) for part in (published.config, published.generation_config, words)]
        assert said == [tokenizer().special(mark)] * 3, name


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", NATIVE)
def test_export_import_export_gives_the_same_bytes(shape, dtype, tmp_path):
    model = make_native(**NATIVE[shape])
    interop.export(model, tokenizer(), tmp_path / "one", dtype=dtype)
    again, again_tokenizer, meta = interop.load(str(tmp_path / "one"))
    interop.export(again, again_tokenizer, tmp_path / "two", dtype=dtype)
    for name in ("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert again.config.chunk_size == model.config.chunk_size
    assert meta["new_rows"] == 0, "an export knows our reserved ids"
    if dtype == "float32":
        ids = random_ids(2, 17)
        assert torch.equal(again(ids), model(ids))


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_published_weights_survive_import_and_export(shape, tmp_path):
    pytest.importorskip("transformers")
    from safetensors.torch import load_file

    folder = save_published(make_published(shape), tmp_path / "published")
    model, own_tokenizer, meta = interop.load(str(folder))
    interop.export(model, own_tokenizer, tmp_path / "out")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [], changed
    old, new = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path / "out"))
    for name in ("model_type", "architectures", "chunk_size" if "chunk_size" in old else "mamba_chunk_size"):
        assert new[name] == old[name], name
    assert meta["family"] == old["model_type"]


@pytest.mark.parametrize(("overrides", "words"), [
    (dict(block_pattern="T,M", attention_conv=4), "--attention_conv 0"),
    (dict(block_pattern="T,M", slot_scale=0.5, slot_ids=(1, 2, 3, 4)), "adds a document's slot to its tokens"),
    (dict(block_pattern="T,M", attention_conv=4, slot_scale=0.5, slot_ids=(1, 2, 3, 4)), "_conv 0 --slot_scale 0"),
    (dict(block_pattern="T,M", mlp_hidden=0), "no attention"),
    (dict(block_pattern="T,M", mlp_bias=True), "half of each head"),
    (dict(block_pattern="T,M", rope_theta=10.0, rope_dim=4), "half of each head"),
    (dict(block_pattern="T,M", rope_theta=10.0, rope_dim=6, logits_scaling=2.0), "logits_scaling"),
    (dict(block_pattern="T,M", rope_theta=10.0, rope_dim=6, attention_multiplier=2.0), "attention_multiplier"),
    (dict(block_pattern="M", mlp_hidden=0, embedding_multiplier=2.0), "embedding_multiplier"),
])
def test_a_shape_that_nobody_publishes_is_refused_and_nothing_is_written(overrides, words, tmp_path):
    with pytest.raises(UnsupportedModel) as caught:
        interop.export(make_native(**overrides), tokenizer(), tmp_path / "out")
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_values_beyond_float16_are_refused(tmp_path):
    model = make_native(block_pattern="M")
    model.embed.weight.data[3, 4] = 1e5
    with pytest.raises(UnsupportedModel, match=r"embed_tokens.* has values beyond float16"):
        interop.export(model, tokenizer(), tmp_path / "out", dtype="float16")


def test_an_export_replaces_an_export_and_nothing_else(tmp_path):
    model = make_native(block_pattern="M")
    folder = tmp_path / "out"
    folder.mkdir()
    interop.export(model, tokenizer(), folder)
    interop.export(model, tokenizer(), folder, dtype="bfloat16")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        interop.export(model, tokenizer(), folder)
    assert (folder / "notes.txt").read_text() == "mine"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no export of ours"):
        interop.export(model, tokenizer(), foreign)


def test_what_llama_cpp_cannot_do_is_said(tmp_path):
    assert interop.export(make_native(block_pattern="M,T"), tokenizer(), tmp_path / "fits") == []
    for overrides, words in [
        (dict(block_pattern="M,T", vocab_size=331), "multiple of 8"),
        (dict(block_pattern="M,T", rope_theta=10.0), "llama.cpp uses rotary positions"),
        (dict(block_pattern="T,T"), "llama.cpp uses rotary positions"),
        (dict(block_pattern="M,T", dt_floor=0.01), "limits of the time step"),
        (dict(block_pattern="M,T", head_dim=10), "vLLM"),
        (dict(block_pattern="M,M"), "without a cache"),
    ]:
        said = interop.export(make_native(**overrides), tokenizer(), tmp_path / "noted")
        assert len(said) == 1 and words in said[0], said
