"""The memory estimate is what a training step takes, and the batch it names is the largest that fits."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from nanochat.config import load_config
from nanochat.errors import ConfigError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.training import Batch, build_optimizer, language_model_loss
from nanochat.training.lora import LoraSettings, adapter_settings, add_adapters
from nanochat.training.memory import cache_bytes, estimate, memory_limit
from nanochat.training.metering import Meter
from scripts.rag_finetune import RagFinetuneConfig
from scripts.training_plan import prepare

SHAPES = [
    {"block_pattern": "T,T"}, {"block_pattern": "M,M"}, {"block_pattern": "M,T,M"}, {"block_pattern": "T,M,M,M"},
    {"block_pattern": "M,T", "attention_conv": 4}, {"block_pattern": "M,T", "n_embd": 128, "mlp_hidden": 384},
    {"block_pattern": "M,T", "vocab_size": 8000}, {"block_pattern": "M,M", "mlp_hidden": 0, "d_state": 64},
    {"block_pattern": "T,M", "tie_embeddings": False, "n_kv_head": 1},
    {"block_pattern": "T,M", "slot_scale": 0.5, "slot_ids": (1, 2, 3, 32)},
]


def shape(settings):
    return ModelConfig(**{"vocab_size": 500, "n_embd": 64, "n_head": 4, "n_kv_head": 2, "mlp_hidden": 160,
                          "d_state": 16, "headdim": 32, "chunk_size": 32, **settings})


def metered(config, rows, row_len, *, dtype="float32", checkpointing=False, accumulates=False, lora=None):
    """Most bytes of tensors alive during the second of two training steps, weights included."""
    model = LanguageModel(config)
    if lora is not None:
        add_adapters(model, lora)
    model.checkpointing = checkpointing
    with Meter() as meter:
        optimizer = build_optimizer(model)
        for _ in range(2):
            meter.peak = meter.now
            for _ in range(1 + accumulates):
                ids = torch.randint(0, config.vocab_size, (rows, row_len))
                batch = Batch(ids=ids, targets=ids.roll(-1, 1), seq_idx=(torch.arange(row_len) // 50).expand(rows, -1))
                with nullcontext() if dtype == "float32" else torch.autocast("cpu", getattr(torch, dtype)):
                    loss = language_model_loss(model, batch, group=range(8, 40)).loss
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return meter.peak + 4 * model.num_parameters


@pytest.mark.parametrize("settings", SHAPES)
@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"accumulates": True}], ids=str)
def test_the_estimate_is_within_a_fifth_of_what_a_step_takes(settings, options):
    config = shape(settings)
    guess = estimate(config, rows=3, row_len=160, **options).total
    measured = metered(config, 3, 160, **options)
    assert guess == pytest.approx(measured, rel=0.2), f"{guess / 1e6:.1f} MB, not {measured / 1e6:.1f}"


@pytest.mark.parametrize("settings", [SHAPES[2], SHAPES[4], SHAPES[5], SHAPES[6], SHAPES[8]])
@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"accumulates": True}], ids=str)
@pytest.mark.parametrize("whole", [False, True])
def test_the_estimate_knows_that_adapters_alone_are_trained(settings, options, whole):
    config = shape(settings)
    lora = LoraSettings(rank=4, alpha=8.0, row_ids=() if whole else (1, 2, 5), train_embeddings=whole)
    guess = estimate(config, rows=3, row_len=160, lora=lora, **options)
    measured = metered(config, 3, 160, lora=lora, **options)
    assert guess.total == pytest.approx(measured, rel=0.2), f"{guess.total / 1e6:.1f} MB, not {measured / 1e6:.1f}"
    model = LanguageModel(config)
    add_adapters(model, lora)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert guess.weights == 4 * model.num_parameters and guess.gradients == 4 * trained
    assert guess.optimizer == 8 * trained
    plain = estimate(config, rows=3, row_len=160, **options)
    assert plain.optimizer > guess.optimizer and plain.total > guess.total


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, alpha=8.0, row_ids=(1, 2))])
def test_shares_of_many_processes_need_less_in_each(lora):
    config = shape({"block_pattern": "M,T,M,M,T,M,M,M"})
    options = {"rows": 2, "row_len": 64, "lora": lora}
    alone, *shared = (estimate(config, processes=processes, **options) for processes in (1, 2, 8))
    for processes, one in zip((2, 8), shared, strict=True):
        assert one.optimizer == alone.optimizer / processes
        assert alone.weights / processes < one.weights < alone.weights
        assert one.gradients > alone.gradients / processes
    assert shared[1].total < shared[0].total < alone.total
    limit = shared[1].total * 1.5
    assert shared[1].largest(limit) > shared[0].largest(limit)


def test_what_is_printed_before_training_is_of_what_is_trained(monkeypatch, capsys):
    model = LanguageModel(shape({"block_pattern": "M,T"}))
    config = RagFinetuneConfig(device_batch_size=2, compile="false")
    whole = prepare(config, model, row_len=64)
    first = capsys.readouterr().out
    add_adapters(model, LoraSettings(rank=2, alpha=4.0, row_ids=(0, 1)))
    adapted = prepare(config, model, row_len=64)
    second = capsys.readouterr().out
    assert adapted["flops_per_token"] < 0.8 * whole["flops_per_token"]
    words = [estimate(model.config, rows=2, row_len=64, lora=adapter_settings(model) if out == second else None)
             .report(1.0).splitlines()[0] for out in (first, second)]
    assert words[0] in first and words[1] in second and words[0] != words[1]


def test_bfloat16_and_checkpointing_need_less():
    config = shape({"block_pattern": "M,T,M,T"})
    sizes = [estimate(config, rows=4, row_len=256, dtype=dtype, checkpointing=checkpointing).total
             for dtype in ("float32", "bfloat16") for checkpointing in (False, True)]
    assert sizes[0] > sizes[2] > sizes[3] and sizes[1] > sizes[3] and sizes[0] > 1.5 * sizes[1], sizes


@pytest.mark.parametrize("settings", [{}, {"n_embd": 256, "mlp_hidden": 2000, "vocab_size": 9000}], ids=str)
def test_the_batch_that_is_named_fits_and_one_row_more_does_not(settings):
    config = shape({"block_pattern": "M,T", **settings})
    wide = estimate(config, rows=64, row_len=128)
    limit = 0.3 * wide.total
    rows = wide.largest(limit)
    assert 1 <= rows < 64
    assert estimate(config, rows=rows, row_len=128).total <= limit < estimate(config, rows=rows + 1, row_len=128).total
    assert f"Fits in {limit / 1e9:.1f} GB: no; yes with --device_batch_size {rows}" in wide.report(limit / 1e9)
    assert wide.report(limit / 1e9).splitlines()[1].startswith("Warning: ")
    assert wide.report(1e3).endswith("Fits in 1000.0 GB: yes") and "Warning" not in wide.report(1e3)
    assert "no, not even with --device_batch_size 1" in wide.report(1e-4)


@pytest.mark.parametrize("slots", [{}, {"slot_scale": 0.5, "slot_ids": (1, 2, 3, 32)}])
def test_the_state_of_an_answer_is_that_of_the_cache(slots):
    config = shape({"block_pattern": "M,T,M", "attention_conv": 4, **slots})
    cache = LanguageModel(config).new_cache(1)
    lengths = cache.lengths.numel() * cache.lengths.element_size()
    assert cache_bytes(config, 0) == pytest.approx(cache.num_bytes, abs=lengths)
    assert not slots or cache_bytes(config, 0) > cache_bytes(shape({"block_pattern": "M,T,M", "attention_conv": 4}), 0)
    assert cache_bytes(config, 100) - cache_bytes(config, 0) == 100 * 2 * 2 * 16 * 4


def test_the_settings_for_12_gb_fit_into_12_gb():
    path = Path(__file__).parents[1] / "configs" / "rag_12gb.py"
    config = load_config(RagFinetuneConfig, [str(path)], prog="scripts.rag_finetune")
    # the shape of Granite 4.0 H 350M
    model = ModelConfig(
        block_pattern=["T" if layer in (10, 13, 17, 27) else "M" for layer in range(32)], vocab_size=100_352,
        n_embd=768, n_head=12, n_kv_head=4, mlp_hidden=2048, d_state=128, headdim=32, chunk_size=256,
    )
    options = {"row_len": config.max_seq_len, "dtype": "bfloat16", "accumulates": config.grad_accum_steps > 1}
    plain = estimate(model, rows=config.device_batch_size, **options)
    spare = estimate(model, rows=config.device_batch_size, checkpointing=True, **options)
    assert spare.fits(12e9), spare.report(12.0)
    assert spare.total < plain.total


def test_the_limit_is_that_of_this_machine():
    assert 1e8 < memory_limit(torch.device("cpu")) < 1e14


def test_what_is_far_beyond_the_memory_of_a_cpu_is_refused_with_the_flags_that_help(monkeypatch, capsys):
    model = LanguageModel(shape({"block_pattern": "M,T"}))
    need = estimate(model.config, rows=64, row_len=64, dtype="float32", accumulates=False).total
    config = RagFinetuneConfig(device_batch_size=64, compile="false", activation_checkpointing="false")
    monkeypatch.setattr("nanochat.training.memory.memory_limit", lambda device: need / 1.5)
    prepare(config, model, row_len=64)
    assert "To need less, one after the other" in capsys.readouterr().out
    monkeypatch.setattr("nanochat.training.memory.memory_limit", lambda device: need / 5)
    with pytest.raises(ConfigError, match="This run needs about .* GB of memory, and .* GB are free") as refused:
        prepare(config, model, row_len=64)
    assert "--device_batch_size 32" in refused.value.hint
