"""The part of refrag_finetune with rewards: rolling back, adapters, and what is said about unusual rewards."""

import json
from types import SimpleNamespace

import pytest
import torch
from refrag_stubs import ask, hash_of, log_of, make_model, make_refrag_place, steps_of
from safetensors.torch import load_file

from nanochat.common import base_dir
from nanochat.refrag import monitors
from nanochat.refrag.episode_log import log_path
from nanochat.tokenizer import Tokenizer
from nanochat.training import build_optimizer
from scripts import refrag_learner, refrag_rewards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        make_refrag_place(folder)
        ask(folder, "begin", "--use_rewards", "false")
        yield folder


def again(folder, tag, *flags):
    return ask(folder, tag, "--source", "refrag", "--source_tag", "begin", "--num_steps", "0", "--world_share", "1",
               "--dev_questions", "4", *flags)


def test_rolling_back_brings_back_the_best_weights_and_half_the_rate(folder, monkeypatch):
    back = monitors.Signal(lambda history: "a test says so" if history.updates else "", (monitors.ROLL_BACK,))
    monkeypatch.setattr(monitors, "SIGNALS", {"back": back})
    printed = again(folder, "back", "--rl_steps", "1", "--rl_lr", "0.03", "--rl_eval_every", "1")
    assert "Alarm at step 1, back: a test says so; back to the best checkpoint, with half the rate" in printed
    # the only better checkpoint was the model that it began with
    assert hash_of("back") == hash_of("begin")
    assert [record["rate"] for record in log_of("back") if "rate" in record] == [0.5]


def test_without_a_best_checkpoint_the_weights_stay_and_that_is_said(folder, capsys):
    learner = refrag_learner.RewardLearner(SimpleNamespace(
        restore_memory=pytest.fail, loss=None, model=make_model(), forget_episodes=lambda: None), 1, 1e-3)
    before = learner.policy.model.embed.weight.clone()
    learner.roll_back("nobody")
    assert "There is no best checkpoint refrag/nobody.best to go back to" in capsys.readouterr().out
    assert torch.equal(learner.policy.model.embed.weight, before)


def test_what_rolled_back_while_resuming_begins_with_an_optimizer_that_knows_nothing(folder, plain_optimizer):
    again(folder, "kept", "--rl_steps", "1", "--rl_eval_every", "1", "--rl_lr", "0.03")
    tag = "kept"
    (base_dir() / "checkpoints" / "refrag" / tag).rename(base_dir() / "checkpoints" / "refrag" / f"{tag}.best")
    model = make_model(3, Tokenizer.load(base_dir() / "checkpoints" / "rag" / "loose" / "step_000001"))
    kept = []
    policy = SimpleNamespace(loss=None, model=model, control=SimpleNamespace(rate=1.0, paused=""),
                             forget_episodes=lambda: None, restore_memory=kept.append)
    learner = refrag_learner.RewardLearner(policy, 1, 1e-3)
    learner.roll_back(tag)
    optimizer = plain_optimizer(model)
    assert optimizer.state_tensors()
    learner.settings(optimizer, print, {"log_every": 1})
    assert not optimizer.state_tensors()
    # right episodes and baselines, too, are those of the best checkpoint
    assert [record.keys() for record in kept] == [{"guard", "critic", "control"}]


@pytest.fixture
def plain_optimizer():
    """An optimizer that has taken a step."""
    def make(model):
        optimizer = build_optimizer(model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer

    return make


def test_a_halved_rate_is_the_rate_of_the_next_step(folder, monkeypatch):
    halve = monitors.Signal(lambda history: "a test says so" if history.updates else "", (monitors.HALVE,))
    monkeypatch.setattr(monitors, "SIGNALS", {"halve": halve})
    again(folder, "halved", "--rl_steps", "2", "--decay_frac", "0")
    assert [record["lr_scale"] for record in log_of("halved") if "lr_scale" in record] == [1.0, 0.5]


def test_adapters_learn_from_rewards_and_the_rest_stays(folder, monkeypatch):
    back = monitors.Signal(lambda history: "so" if len(history.updates) == 2 else "", (monitors.ROLL_BACK,))
    monkeypatch.setattr(monitors, "SIGNALS", {"back": back})
    again(folder, "adapted", "--lora_rank", "2", "--rl_steps", "3", "--rl_lr", "3e-3", "--rl_eval_every", "3")
    kept = base_dir() / "checkpoints" / "refrag"
    tags = [tag for tag in ("adapted", "adapted.1") if (kept / tag).is_dir()]
    paths = [kept / tag / step for tag in tags for step in steps_of(tag)]
    last = next(path for path in paths if path.name == "step_000003")
    before = load_file(kept / "begin" / steps_of("begin")[-1] / "model.safetensors")
    after = load_file(last / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    factors = {name: tensor for path in last.glob("*adapter*.safetensors") for name, tensor in load_file(path).items()}
    assert any("lora_b" in name and tensor.abs().max() > 0 for name, tensor in factors.items())


@pytest.mark.parametrize(("mode", "words"), [
    ("legacy", "Warning: the weighted sum pays for wrong answers"), ("constant", "--reward_mode constant is a control"),
])
def test_unusual_rewards_are_warned_of(folder, mode, words):
    assert words in again(folder, mode, "--reward_mode", mode, "--rl_steps", "1")


def test_a_constant_reward_leaves_the_weights_alone(folder):
    again(folder, "still", "--reward_mode", "constant", "--gold_steps", "0")
    assert hash_of("still") == hash_of("begin")
    assert log_path("still").is_file() and all(
        json.loads(line)["reward"] == 0.0 for line in log_path("still").read_text().splitlines())


def test_resuming_goes_on_with_what_alarms_have_changed(folder, monkeypatch):
    raised = monitors.Signal(lambda history: "so" if len(history.updates) == 1 else "", (monitors.RAISE_KL,))
    monkeypatch.setattr(monitors, "SIGNALS", {"raised": raised})
    again(folder, "raised", "--rl_steps", "1", "--rl_eval_every", "1")
    kept = base_dir() / "checkpoints" / "refrag"
    path = next(path for tag in ("raised", "raised.1") for path in [kept / tag / "step_000001"] if path.is_dir())
    record = json.loads((path / "meta.json").read_text())["rewards"]["control"]
    assert record["doubled"]["raise_kl"] == 1 and record["monitors"]["sounded"] == {"raised": [1]}
    assert refrag_rewards.FOREVER > 10**6, "without patience nothing ends the run"
