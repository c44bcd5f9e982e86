"""Forwards of nothing: no rows, or no new tokens, give results of the right shape and change no state."""

import pytest
import torch
from engine_stubs import PATTERNS, make_model


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("has_gradients", [True, False])
def test_no_rows_or_no_tokens_give_empty_results(pattern, shape, has_gradients):
    model = make_model(pattern)
    ids = torch.zeros(*shape, dtype=torch.long)
    with torch.set_grad_enabled(has_gradients):
        for cache in (None, model.new_cache(shape[0])):
            assert model.features(ids, cache).shape == (*shape, model.config.n_embd)
            logits = model(ids, cache)
            assert logits.shape == (*shape, model.config.vocab_size) and logits.dtype == torch.float32
        assert model(ids, seq_idx=ids).shape == logits.shape


@torch.no_grad()
@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_empty_piece_in_the_middle_changes_nothing(pattern):
    model = make_model(pattern)
    ids = torch.arange(24).reshape(2, 12)
    cache = model.new_cache(2)
    pieces = [model(piece, cache) for piece in (ids[:, :5], ids[:, :0], ids[:, 5:])]
    assert cache.host_lengths == [12, 12]
    assert (torch.cat(pieces, dim=1) - model(ids)).abs().max() < 1e-5
