"""LoRA: nothing changes at the start, only what shall learn learns, merged = unmerged, checkpoints go on exactly."""

import copy

import pytest
import torch
from training_stubs import tiny_model

from nanochat import checkpoint_manager as checkpoints
from nanochat.errors import ConfigError
from nanochat.model import LanguageModel, ModelConfig
from nanochat.tokenizer import Tokenizer
from nanochat.training import Batch, build_optimizer, fit, language_model_loss
from nanochat.training.lora import (
    AdaptedLinear,
    LoraSettings,
    adapter_settings,
    add_adapters,
    coverage,
    idle_adapters,
    merge_adapters,
)

SETTINGS = LoraSettings(rank=4, alpha=8.0, row_ids=(0, 1, 60))


def model_of(*, tie: bool = True, pattern: str = "M,T") -> LanguageModel:
    return LanguageModel(ModelConfig(block_pattern=pattern, vocab_size=64, n_embd=32, n_head=2, n_kv_head=1,
                                     mlp_hidden=48, d_state=8, headdim=16, chunk_size=8, tie_embeddings=tie))


def batches(step: int, micro: int) -> Batch:
    ids = (torch.arange(13) * (1 + step % 3) + torch.arange(3)[:, None] * (5 + step)) % 64
    return Batch(ids=ids[:, :-1], targets=ids[:, 1:])


def train(model, num_steps: int = 4, **settings) -> dict:
    optimizer = settings.pop("optimizer", None) or build_optimizer(model, embedding_lr=0.01, adapter_lr=0.01)
    return fit(model, batches, language_model_loss, optimizer, num_steps=num_steps, log=lambda record: None, **settings)


@pytest.mark.parametrize("tie", [True, False])
def test_adapters_change_nothing_at_the_start_and_merged_equals_unmerged(tie):
    model, ids = model_of(tie=tie), torch.arange(40).reshape(2, 20)
    before = model(ids)
    add_adapters(model, SETTINGS)
    assert torch.equal(model(ids), before)
    train(model)
    trained = model(ids)
    assert (trained - before).abs().max() > 1e-3
    merged = copy.deepcopy(model)
    merge_adapters(merged)
    difference = (merged(ids) - trained).abs().max().item()
    assert difference < 1e-5, difference
    assert merged.state_dict().keys() == model_of(tie=tie).state_dict().keys()
    assert not any(isinstance(module, AdaptedLinear) for module in merged.modules())
    cached = merged(ids, merged.new_cache(2))
    assert (cached - trained).abs().max() < 1e-5


@pytest.mark.parametrize("tie", [True, False])
def test_only_adapters_and_the_named_rows_learn(tie):
    model = model_of(tie=tie)
    before = copy.deepcopy(model)
    add_adapters(model, SETTINGS)
    train(model)
    merge_adapters(model)
    old = before.state_dict()
    for name, tensor in model.state_dict().items():
        changed = (tensor != old[name]).reshape(len(tensor), -1).any(dim=1)
        if name in ("embed.weight", "lm_head.weight"):
            assert set(changed.nonzero().flatten().tolist()) <= {0, 1, 60} and changed.any(), name
        else:
            is_target = name.rpartition(".")[0].rpartition(".")[2] in (
                "q_proj", "k_proj", "v_proj", "o_proj", "input_linear", "output_linear", "in_proj")
            assert bool(changed.any()) == is_target, f"{name} {'stayed' if is_target else 'changed'}"


def test_whole_embeddings_learn_when_asked():
    model = model_of()
    add_adapters(model, LoraSettings(rank=2, alpha=4, train_embeddings=True))
    assert model.embed.weight.requires_grad and model.embed_changes is None and model.norm.weight.requires_grad
    assert adapter_settings(model) == LoraSettings(rank=2, alpha=4, train_embeddings=True)


def test_a_table_tells_the_coverage_and_idle_adapters_are_named():
    model = model_of(pattern="M,T,M")
    add_adapters(model, SETTINGS)
    table = coverage(model).splitlines()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{trained:,} of " in table[0]
    assert table[2].split()[:2] == ["M", "x"] and "6 of 8 (not out_proj)" in table[2] and "6 of 6" in table[3]
    assert sum(int(line.split()[-1].replace(",", "")) for line in table[2:]) == trained
    assert len(idle_adapters(model)) == 6 + 6 + 1
    train(model)
    assert idle_adapters(model) == []
    with torch.no_grad():
        model.layers[1].mixer.v_proj.lora_b.zero_()
    assert idle_adapters(model) == ["layers.1.mixer.v_proj"]


def test_impossible_settings_are_refused():
    for settings in (LoraSettings(rank=0, alpha=1), LoraSettings(rank=4, alpha=0)):
        with pytest.raises(ConfigError, match="LoRA with rank"):
            add_adapters(model_of(), settings)


def test_optimizer_state_is_kept_for_adapters_only():
    model = model_of()
    add_adapters(model, SETTINGS)
    optimizer = build_optimizer(model)
    train(model, optimizer=optimizer)
    names = {name.rpartition("/")[0] for name in optimizer.state_tensors()}
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith("embed.") for name in names)


def test_a_resumed_run_equals_a_straight_one_and_eval_merges(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    words = Tokenizer.train(["the red kite flies over the red hill"] * 3, vocab_size=330)
    shape = model_of().config.to_dict() | {"vocab_size": words.vocab_size}

    def fresh():
        model = LanguageModel(ModelConfig.from_dict(shape))
        add_adapters(model, SETTINGS)
        return model, build_optimizer(model, embedding_lr=0.01, adapter_lr=0.01)

    straight, optimizer = fresh()
    whole = train(straight, 6, optimizer=optimizer)
    model, optimizer = fresh()
    train(model, 3, optimizer=optimizer, save=lambda step, progress: checkpoints.save_checkpoint(
        "mid", "lora", step, model=model, tokenizer=words, meta={"progress": progress}, optimizer=optimizer))

    resumed, _, meta = checkpoints.load_model("mid", phase="train")
    assert adapter_settings(resumed) == SETTINGS
    state = checkpoints.load_training_state(meta["path"])
    optimizer = build_optimizer(resumed, embedding_lr=0.01, adapter_lr=0.01)
    optimizer.load_state(state["optimizer_tensors"], state["optimizer_record"], where=meta["path"])
    rest = train(resumed, 6, optimizer=optimizer, start_step=3, progress=meta["progress"])
    assert rest["losses"] == whole["losses"][3:]
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name

    merged, _, _ = checkpoints.load_model("mid", phase="eval")
    assert adapter_settings(merged) is None
    ids = torch.arange(40).reshape(2, 20)
    assert (merged(ids) - model.eval()(ids)).abs().max() < 1e-5


def test_gradients_reach_adapters_through_activation_checkpointing():
    plain, saving = model_of(), model_of()
    for model in (plain, saving):
        add_adapters(model, SETTINGS)
    saving.checkpointing = True
    first, second = train(plain), train(saving)
    assert first["losses"] == pytest.approx(second["losses"], abs=1e-6)


def test_a_plain_model_has_no_adapters():
    assert adapter_settings(tiny_model()) is None
