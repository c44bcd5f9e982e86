"""The compiled path of decoding gives the numbers of the plain path, notices every change, and may be missing."""

import os
import threading

import pytest
import torch

from nanochat.model import LanguageModel, ModelConfig
from nanochat.model.cpu import build, native
from tests.test_model_laws import PATTERNS, SLOTS, TOLERANCE, VARIANTS, difference, ids_for, make_model, random_ids

needs_compiler = pytest.mark.skipif(build.library().functions is None, reason=build.library().reason)
CUTS = [1, 2, 7, 1, 1, 16, 3]
ODD = {"vocab_size": 51, "n_embd": 36, "n_head": 6, "n_kv_head": 2, "head_dim": 17, "mlp_hidden": 37, "d_state": 19,
       "headdim": 9, "n_groups": 2, "d_conv": 3, "attention_conv": 2, "rope_theta": 100.0, "rope_dim": 6}


def states_of(cache):
    """Every number a cache holds for its rows."""
    yield cache.lengths
    for layer in cache.layers:
        for name, tensor in layer.tensors().items():
            for row, length in enumerate(cache.host_lengths):
                yield tensor[row] if name in layer.recurrent else tensor[row, :, :length]


def native_features(model, ids, cache):
    """The native path, which must not refuse."""
    found = native.features(model, ids, cache)
    assert found is not None, f"refused: {native.describe(model)}"
    cache.advance(ids.shape[1])
    return found


def plain_features(model, ids, cache):
    os.environ["NANOCHAT_NATIVE"] = "0"
    try:
        return model.features(ids, cache)
    finally:
        del os.environ["NANOCHAT_NATIVE"]


def check_same(model, rows, cuts=CUTS, seed=0, variant=None):
    """Both paths over the same cuts: features and all states."""
    caches = [model.new_cache(rows), model.new_cache(rows)]
    for turn, cut in enumerate(cuts):
        ids = ids_for(variant or {}, rows, cut, seed=seed + turn)
        one, other = native_features(model, ids, caches[0]), plain_features(model, ids, caches[1])
        assert difference(one, other) < TOLERANCE, f"cut {turn} of {cut}: features differ by {difference(one, other)}"
    for one, other in zip(states_of(caches[0]), states_of(caches[1]), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=TOLERANCE), f"states {tuple(one.shape)} differ"


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("variant", [*VARIANTS, ODD, SLOTS])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_native_equals_plain(pattern, variant, rows):
    check_same(make_model(pattern, **variant), rows, variant=variant)


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_layers_and_threads_give_the_same(threads, monkeypatch):
    monkeypatch.setattr(native, "FLOATS_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = make_model("M,T,M", n_embd=256, mlp_hidden=272, d_state=64, headdim=32, n_kv_head=2, attention_conv=4)
        check_same(model, 2, cuts=[5, 1, 2])
        x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
        with monkeypatch.context() as off:
            off.setenv("NANOCHAT_NATIVE", "0")
            plain = model.head(x)
        assert 0 < difference(model.head(x), plain) < TOLERANCE, "the head does not go the native way"
    finally:
        torch.set_num_threads(before)


@needs_compiler
@torch.no_grad()
def test_two_hundred_single_tokens_stay_close():
    check_same(make_model("M,T", attention_conv=4, rope_theta=10000.0), 2, cuts=[1] * 200)


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("variant", [*VARIANTS, SLOTS])
def test_a_row_has_the_same_bits_alone_and_in_any_cutting(variant):
    model = make_model("M,T", **variant)
    ids = ids_for(variant, 5, 70)
    together = model.new_cache(5)
    whole = torch.cat([native_features(model, ids[:, at : at + 10], together) for at in range(0, 70, 10)], dim=1)
    alone = model.new_cache(1)
    single = torch.cat([native_features(model, ids[3:4, at : at + 1], alone) for at in range(70)], dim=1)
    assert torch.equal(whole[3:4], single), f"differs by {difference(whole[3:4], single)}"


@needs_compiler
@torch.no_grad()
def test_rows_of_unequal_length_in_a_view_of_a_reserved_cache():
    model = make_model("T,M,T", attention_conv=3, rope_theta=100.0)
    cache = model.new_cache(4)
    cache.reserve(90)
    rows = [random_ids(1, length, seed=length) for length in (1, 66, 4)]
    for place, row in enumerate(rows):
        part = model.new_cache(1)
        plain_features(model, row, part)
        cache.put_row(place, part)
    untouched = [tensor[3].clone() for layer in cache.layers for tensor in layer.tensors().values()]
    more = random_ids(3, 3, seed=9)
    found = native_features(model, more, cache.view(3))
    for place, row in enumerate(rows):
        expected = model.features(torch.cat([row, more[place : place + 1]], dim=1))[0, -3:]
        assert difference(expected, found[place]) < TOLERANCE, f"row {place}: {difference(expected, found[place])}"
    assert cache.host_lengths == [4, 69, 7, 0] and cache.lengths.tolist() == [4, 69, 7, 0]
    now = [tensor[3] for layer in cache.layers for tensor in layer.tensors().values()]
    assert all(map(torch.equal, untouched, now)), "a row outside of the view was written to"


@needs_compiler
@torch.no_grad()
def test_views_that_are_stale_or_full_refuse():
    model = make_model("T,M")
    cache = model.new_cache(2)
    cache.reserve(4)
    view = cache.view(1)
    with pytest.raises(AssertionError, match="reserve"):
        model.features(random_ids(1, 5), view)
    cache.reserve(9)
    with pytest.raises(AssertionError, match="out of date"):
        model.features(random_ids(1, 2), view)


@needs_compiler
@torch.no_grad()
def test_forks_and_rollbacks_give_what_was_there():
    model = make_model("T,M", attention_conv=4)
    ids, more = random_ids(2, 9), random_ids(2, 4, seed=5)
    cache = model.new_cache(2)
    native_features(model, ids, cache)
    mark, fork = cache.mark(), cache.fork(2)
    first = native_features(model, more, cache)
    native_features(model, random_ids(4, 5, seed=6), fork)
    cache.rollback(mark)
    assert torch.equal(native_features(model, more, cache), first)


def in_place(model):
    for parameter in model.parameters():
        parameter.mul_(1.1)


def through_data(model):
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.1


def new_parameters(model):
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter * 1.1))


def new_modules(model):
    other = make_model("M,T", attention_conv=3)
    new_parameters(other)
    model.embed, model.layers, model.norm = other.embed, other.layers, other.norm


def attributes(model):
    model.layers[1].mixer.scale = 0.7
    model.layers[0].mixer.dt_limit = (0.03, 0.04)


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("change", [in_place, through_data, new_parameters, new_modules, attributes])
def test_changed_weights_are_noticed(change):
    model = make_model("M,T", attention_conv=3)
    ids = random_ids(2, 3)
    before = native_features(model, ids, model.new_cache(2))
    change(model)
    expected = plain_features(model, ids, model.new_cache(2))
    assert difference(before, expected) > 1e-3, "the change changes nothing"
    assert difference(native_features(model, ids, model.new_cache(2)), expected) < TOLERANCE


def with_lora(model):
    from nanochat.training.lora import LoraSettings, add_adapters

    add_adapters(model, LoraSettings(rank=2, alpha=4.0, row_ids=(3,)))
    for name, parameter in model.named_parameters():
        if "lora_b" in name or "delta" in name:
            parameter.data.normal_()


def with_hook(model):
    model.layers[0].mixer.register_forward_hook(lambda module, args, output: output * 2)


def with_own_forward(model):
    plain = model.layers[0].mlp.forward
    model.layers[0].mlp.forward = lambda x: plain(x) * 2


def with_float64(model):
    model.double()


def with_bias_like_a_column(model):
    weight = model.layers[0].mlp.input_linear.weight
    weight.data = (weight.data.t().contiguous() * 2).t()


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("change", [with_lora, with_hook, with_own_forward, with_float64, with_bias_like_a_column])
def test_what_native_code_does_not_know_goes_the_plain_way(change):
    model = make_model("M,T", tie_embeddings=False)
    ids = random_ids(2, 3)
    before = native_features(model, ids, model.new_cache(2))
    change(model)
    cache = model.new_cache(2)
    assert native.features(model, ids, cache) is None, "taken although it is not plain"
    assert native.describe(model).startswith("plain path: ")
    found = model.features(ids, cache)
    assert torch.equal(found, plain_features(model, ids, model.new_cache(2)))
    assert change is with_float64 or difference(before, found) > 1e-3, "the change changes nothing"


@needs_compiler
@torch.no_grad()
def test_an_id_outside_of_the_vocabulary_is_refused_before_anything_is_written():
    model = make_model("M,T")
    cache = model.new_cache(1)
    model.features(random_ids(1, 3), cache)
    kept = [tensor.clone() for tensor in states_of(cache)]
    for wrong in (50, -1):
        with pytest.raises(IndexError):
            model.features(torch.tensor([[wrong]]), cache)
    assert all(map(torch.equal, kept, states_of(cache)))


@needs_compiler
@torch.no_grad()
def test_the_cache_of_another_shape_is_not_written_to():
    model, other = make_model("M,T"), make_model("M,T", d_state=5, n_kv_head=2)
    assert native.features(model, random_ids(1, 2), other.new_cache(1)) is None


@needs_compiler
def test_gradients_dispatchers_and_autocast_see_the_plain_path():
    model, ids = make_model("M,T"), random_ids(1, 2)
    assert native.features(model, ids, model.new_cache(1)) is None, "taken with gradients on"
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert native.features(model, ids, model.new_cache(1)) is None, "taken under autocast"


@needs_compiler
@torch.no_grad()
def test_threads_of_python_may_decode_at_once():
    model = make_model("M,T", n_embd=96)
    ids = [random_ids(1, 40, seed=seed) for seed in range(4)]
    found: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def work(number):
        cache = model.new_cache(1)
        found[number] = torch.cat([native_features(model, part, cache) for part in ids[number].split(1, dim=1)], dim=1)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number in range(4):
        assert difference(found[number], model.features(ids[number])) < TOLERANCE


@needs_compiler
@torch.no_grad()
def test_models_are_freed():
    model = LanguageModel(ModelConfig(block_pattern="T", vocab_size=20))
    native_features(model, random_ids(1, 1) % 20, model.new_cache(1))
    count = len(native._plans)
    del model
    assert len(native._plans) == count - 1
