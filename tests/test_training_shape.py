"""The depth dial: shapes fit together at every depth, counts are the model's, what is given by hand stays."""

import pytest
import torch

from nanochat.config import load_config, origins
from nanochat.errors import ConfigError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.training.shape import (
    MIN_STEPS,
    count_parameters,
    dial_batch,
    dial_rates,
    dial_shape,
    expand_pattern,
    scaling_parameters,
    step_tokens,
)
from scripts.base_train import BaseTrainConfig
from scripts.depth_dial import turn_dial

CPU = torch.device("cpu")


def config_of(*flags):
    return load_config(BaseTrainConfig, [*map(str, flags)], prog="scripts.base_train")


@pytest.mark.parametrize("depth", [*range(1, 25), 32])
def test_every_depth_gives_a_shape_that_fits_together_and_grows(depth):
    shape = ModelConfig(block_pattern=expand_pattern("spread", depth, 0.25), vocab_size=4096, **dial_shape(depth))
    assert shape.n_embd == 64 * depth and shape.n_layer == depth and shape.attention_head_dim == 64
    assert shape.n_head % shape.n_kv_head == 0 and shape.n_kv_head >= min(2, shape.n_head)
    larger = ModelConfig(block_pattern="M," * depth + "T", vocab_size=4096, **dial_shape(depth + 1))
    assert count_parameters(larger) > count_parameters(shape)


@pytest.mark.parametrize("settings", [
    {"block_pattern": "T"}, {"block_pattern": "M"}, {"block_pattern": "M,T,M", "tie_embeddings": False},
    {"block_pattern": "T,M", "mlp_hidden": 0, "n_groups": 2, "conv_bias": False}, {"block_pattern": "T,M",
     "attention_bias": True, "mlp_bias": True, "mamba_bias": True, "attention_conv": 4, "head_dim": 24},
])
def test_counted_parameters_are_the_models(settings):
    config = ModelConfig(**{"vocab_size": 77, "n_embd": 48, "n_head": 4, "n_kv_head": 2, "mlp_hidden": 40, "d_state": 8,
                            "headdim": 12, **settings})
    assert count_parameters(config) == LanguageModel(config).num_parameters
    assert count_parameters(config) - scaling_parameters(config) == (0 if config.tie_embeddings else 77 * 48)


@pytest.mark.parametrize(("preset", "layers", "share", "letters"), [
    ("spread", 4, 0.25, "MMTM"), ("spread", 8, 0.25, "MMTMMMTM"), ("first", 8, 0.25, "TTMMMMMM"),
    ("last", 4, 0.25, "MMMT"),
    ("spread", 3, 0.01, "MTM"), ("first", 2, 1.0, "TT"), ("attention", 3, 0.25, "TTT"), ("mamba", 3, 0.9, "MMM"),
    ("T, M", 7, 0.25, "TM"),
])
def test_presets_become_letters(preset, layers, share, letters):
    assert expand_pattern(preset, layers, share) == ",".join(letters)


def test_a_preset_that_is_none_is_refused_with_what_may_be_written():
    with pytest.raises(ConfigError, match="Block pattern 'middle' is not made of the letters T and M"):
        expand_pattern("middle", 4, 0.25)


@pytest.mark.parametrize("layers", range(1, 33))
@pytest.mark.parametrize("share", [0.1, 0.125, 0.25, 0.5])
def test_spread_first_and_last_hold_the_same_number_of_attention_layers(layers, share):
    counts = {preset: expand_pattern(preset, layers, share).count("T") for preset in ("spread", "first", "last")}
    # a single layer is M
    expected = min(layers, max(1, round(layers * share))) if layers > 1 else 0
    assert set(counts.values()) == {expected}, counts


def test_rates_are_those_tuned_at_width_128_and_fall_with_the_root_of_the_width():
    rates = {"matrix_lr": 9e-3, "embedding_lr": 3e-3}
    assert dial_rates(128, rates) == rates
    assert dial_rates(512, rates) == {"matrix_lr": 4.5e-3, "embedding_lr": 1.5e-3}


@pytest.mark.parametrize("horizon", [1e5, 1e7, 1e9, 1e11])
@pytest.mark.parametrize("processes", [1, 8])
def test_a_batch_has_about_the_tokens_of_the_rule_and_rows_that_fit(horizon, processes):
    batch = dial_batch(horizon, 512, processes=processes, max_rows=8)
    tokens = batch["device_batch_size"] * batch["grad_accum_steps"] * processes * 512
    assert 1 <= batch["device_batch_size"] <= 8
    least = processes * 512
    assert tokens == pytest.approx(max(step_tokens(horizon), least), rel=0.5), batch
    assert step_tokens(horizon) <= horizon / MIN_STEPS


def test_the_dial_fills_what_was_not_given_and_says_so():
    config = turn_dial(config_of("--depth", 4, "--matrix_lr", 0.001), 1000, CPU)
    assert (config.n_embd, config.n_head, config.block_pattern.count("T")) == (256, 4, 1)
    assert config.matrix_lr == 0.001 and config.scalar_lr == pytest.approx(3e-3 / 2**0.5, rel=1e-2)
    where = origins(config)
    assert (where["n_embd"], where["matrix_lr"], where["seed"]) == ("depth 4", "flag", "default")
    assert where["block_pattern"] == "spread, depth 4" and where["num_steps"] == "tokens_per_parameter"


def test_sizes_given_by_hand_win_over_the_dial_and_the_rest_follows_the_width():
    config = turn_dial(config_of("--depth", 4, "--n_embd", 128, "--sequence_len", 64, "--block_pattern", "T,M,T,T",
                                 "--num_steps", 7, "--device_batch_size", 3), 1000, CPU)
    assert (config.n_embd, config.n_head, config.mlp_hidden, config.sequence_len) == (128, 2, 384, 64)
    assert (config.block_pattern, config.num_steps, config.device_batch_size) == ("T,M,T,T", 7, 3)


def test_without_a_depth_nothing_changes_but_a_horizon_asked_for():
    assert turn_dial(config_of(), 1000, CPU) == config_of()
    config = turn_dial(config_of("--num_tokens", 409_600), 1000, CPU)
    assert config.num_steps == 100, f"{config.num_steps} steps of 8 x 512 tokens"
    with pytest.raises(ConfigError, match="--block_pattern spread needs the number of layers"):
        turn_dial(config_of("--block_pattern", "spread"), 1000, CPU)


def test_the_horizon_is_tokens_per_parameter():
    config = turn_dial(config_of("--depth", 2, "--tokens_per_parameter", 3), 1000, CPU)
    shape = ModelConfig(vocab_size=1000, block_pattern=config.block_pattern, attention_conv=4, **dial_shape(2))
    tokens = config.num_steps * config.device_batch_size * config.grad_accum_steps * config.sequence_len
    assert tokens == pytest.approx(3 * count_parameters(shape), rel=0.01)
