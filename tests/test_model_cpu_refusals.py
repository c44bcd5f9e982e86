"""What the compiled path of decoding refuses: what it does not know goes the plain way, and its limits are kept."""

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from nanochat.model.cache import Cache
from nanochat.model.cpu import native
from nanochat.model.layers import RMSNorm
from nanochat.model.rows import RowChanges
from tests.test_model_cpu_native import native_features, needs_compiler, plain_features
from tests.test_model_laws import TOLERANCE, difference, make_model, random_ids


class DoublingNorm(RMSNorm):
    """A module that only its author knows."""

    def forward(self, x):
        return 2 * super().forward(x)


class OwnParameter(nn.Parameter):
    """A parameter that might do anything when it is used."""


def with_changed_rows(model):
    model.embed_changes = RowChanges(range(0, 50), model.config.n_embd)
    nn.init.normal_(model.embed_changes.delta)


def with_own_norm(model):
    norm = DoublingNorm(model.config.n_embd, model.config.norm_eps)
    norm.weight = model.norm.weight
    model.norm = norm


def with_norm_limit(model):
    model.embed.max_norm = 0.01


def with_own_parameter(model):
    linear = model.layers[0].mlp.output_linear
    linear.weight = OwnParameter(linear.weight * 3)


def with_another_eps(model):
    model.layers[0].mixer_norm.eps = 5.0


def with_another_multiplier(model):
    model.layers[0].residual_multiplier = 0.1


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize("change", [with_changed_rows, with_own_norm, with_norm_limit, with_own_parameter,
                                    with_another_eps, with_another_multiplier])
@pytest.mark.parametrize("is_new", [True, False])
def test_what_native_code_does_not_know_goes_the_plain_way(change, is_new):
    model, ids = make_model("M,T"), random_ids(2, 3)
    before = plain_features(model, ids, model.new_cache(2))
    if not is_new:
        # there is a plan, which must notice
        native_features(model, ids, model.new_cache(2))
    change(model)
    assert native.features(model, ids, model.new_cache(2)) is None, "taken although it is not plain"
    assert native.describe(model).startswith("plain path: ")
    found = model.features(ids, model.new_cache(2))
    assert torch.equal(found, plain_features(model, ids, model.new_cache(2)))
    assert difference(before, found) > 1e-3, "the change changes nothing"


@needs_compiler
@torch.no_grad()
def test_a_hook_on_all_modules_is_heard():
    model, ids = make_model("M,T"), random_ids(2, 3)
    native_features(model, ids, model.new_cache(2))
    seen = []
    handle = register_module_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    try:
        assert native.features(model, ids, model.new_cache(2)) is None
        model.features(ids, model.new_cache(2))
    finally:
        handle.remove()
    assert "Mamba" in seen and "Attention" in seen
    native_features(model, ids, model.new_cache(2))


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize(("rows", "length", "taken"), [
    (1, native.MAX_TOKENS, True), (1, native.MAX_TOKENS + 1, False), (native.MAX_ROWS // 16, 16, True),
    (native.MAX_ROWS // 16 + 1, 16, False), (native.MAX_ROWS, 1, True), (native.MAX_ROWS + 1, 1, False),
])
def test_forwards_of_many_tokens_are_left_to_the_libraries_behind_torch(rows, length, taken):
    model = make_model("M,T")
    found = native.features(model, random_ids(rows, length), model.new_cache(rows))
    assert (found is not None) == taken


@needs_compiler
@torch.no_grad()
def test_ids_and_caches_of_another_type_are_left_alone():
    class OwnCache(Cache):
        """A cache that only its author knows."""

    model, ids = make_model("M,T"), random_ids(2, 3)
    cache = model.new_cache(2)
    assert native.features(model, ids.int(), cache) is None
    assert native.features(model, ids, OwnCache(cache.lengths, cache.layers)) is None
    wide = random_ids(2, 6)
    # every second id: not one behind the other in memory
    assert difference(native_features(model, wide[:, ::2], model.new_cache(2)),
                      plain_features(model, wide[:, ::2].contiguous(), model.new_cache(2))) < TOLERANCE


@needs_compiler
@torch.no_grad()
def test_a_product_is_taken_where_it_is_one_of_plain_float32_matrices():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(9, 8, generator=generator)
    x = torch.randn(3, 2, 8, generator=generator)
    wide = torch.randn(3, 16, generator=generator)
    for given in (x, x.transpose(0, 1), wide[:, ::2], wide[:, :8]):
        found = native.linear(given, weight)
        assert found is not None and difference(found, nn.functional.linear(given, weight)) < TOLERANCE
    column_wise = weight.t().contiguous().t()
    refused = [(x.double(), weight), (x, weight.double()), (x, column_wise), (wide, weight), (x[:0], weight),
               (torch.randn(native.MAX_PRODUCT_ROWS + 1, 8), weight), (nn.Parameter(x), weight)]
    for given, matrix in refused:
        assert native.linear(given, matrix) is None, f"{given.dtype} {tuple(given.shape)} was taken"
    with torch.enable_grad():
        assert native.linear(x, weight) is None
