"""Published checkpoints in the native model: the same logits and the same generation as transformers."""

import json
from dataclasses import replace

import pytest
import torch
from interop_stubs import SHAPES, difference, make_published, random_ids, save_published

from nanochat import interop

pytest.importorskip("transformers")
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=SHAPES)
def pair(request, tmp_path_factory):
    published = make_published(request.param)
    folder = save_published(published, tmp_path_factory.mktemp("hf"))
    return published, interop.load(str(folder), "cpu", "eval")[0]


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 17, 63])
def test_logits_equal_transformers(pair, length):
    published, native = pair
    ids = random_ids(2, length, seed=length)
    expected = published(ids).logits
    assert expected.std() > 0.1, f"logits spread {expected.std():.3f}: the comparison would say nothing"
    assert difference(native(ids), expected) < TOLERANCE


@torch.no_grad()
def test_greedy_generation_with_cache_equals_transformers(pair):
    published, native = pair
    ids = random_ids(2, 9, seed=3)
    expected = published.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, use_cache=True,
                                  return_dict_in_generate=True, output_logits=True)
    cache = native.new_cache(2)
    logits, tokens = native(ids, cache)[:, -1], []
    for theirs in expected.logits:
        assert difference(logits, theirs.float()) < TOLERANCE
        tokens.append(logits.argmax(-1, keepdim=True))
        logits = native(tokens[-1], cache)[:, -1]
    assert torch.cat(tokens, 1).tolist() == expected.sequences[:, 9:].tolist()


@torch.no_grad()
@pytest.mark.parametrize("shape", ["granite", "bamba", "mamba2"])
def test_limits_of_the_time_step_are_kept_both_ways(shape, tmp_path):
    """Without a cache only: the cached step of transformers 5.23 forgets the limits."""
    import transformers

    published = make_published(shape, time_step_limit=(0.2, 0.5))
    native, tokenizer, _ = interop.load(str(save_published(published, tmp_path / "in")))
    ids = random_ids(2, 17)
    expected = published(ids, use_cache=False).logits
    if difference(make_published(shape)(ids, use_cache=False).logits, expected) < 100 * TOLERANCE:
        pytest.skip(f"transformers {transformers.__version__} ignores the limits of this class")
    assert difference(native(ids), expected) < TOLERANCE
    interop.export(native, tokenizer, tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert difference(again(ids, use_cache=False).logits, expected) < TOLERANCE
    native.config = replace(native.config, dt_ceiling=0.0)
    interop.export(native, tokenizer, tmp_path / "floor")
    record = json.loads((tmp_path / "floor" / "config.json").read_text())
    assert record["time_step_limit"] == [0.2, 1e9]
    assert interop.load(str(tmp_path / "floor"))[0].config.dt_ceiling == 0.0
