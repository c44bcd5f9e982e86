"""Guards: faults are cut, skipped or end the run, and are counted; normal runs and new stages are left alone."""

import json
import math
import random

import pytest
import torch
from training_stubs import tiny_model

from nanochat.errors import UserError
from nanochat.training import Batch, build_optimizer, fit, language_model_loss
from nanochat.training.guards import LEAST, MAX_SPIKES_IN_A_ROW, SKIPPED_SPIKES, Guard

NUM_STEPS = 80
FAULT = 50


def batches(step: int, micro: int, *, seed: int = 0) -> Batch:
    """Counting sequences with a little noise."""
    generator = torch.Generator().manual_seed(step * 1000 + micro + seed * 10**6)
    start = torch.randint(64, (4, 1), generator=generator)
    ids = (start + torch.arange(17)) % 64
    noise = torch.randint(64, ids.shape, generator=generator)
    ids = torch.where(torch.rand(ids.shape, generator=generator) < 0.1, noise, ids)
    return Batch(ids=ids[:, :-1], targets=ids[:, 1:])


def garbage(step: int, micro: int) -> Batch:
    """From FAULT on, targets that nothing predicts."""
    batch = batches(step, micro)
    if step < FAULT:
        return batch
    return Batch(ids=batch.ids, targets=torch.randint(64, batch.targets.shape))  # fit seeds each micro-batch


def train(model, data=batches, **settings) -> dict:
    optimizer = build_optimizer(model, matrix_lr=0.02, embedding_lr=0.02, scalar_lr=0.01)
    return fit(model, data, language_model_loss, optimizer,
               **{"num_steps": NUM_STEPS, "log": lambda record: None, **settings})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_normal_run_triggers_nothing(seed):
    result = train(tiny_model(), lambda step, micro: batches(step, micro, seed=seed))
    assert result["losses"][-1] < 0.5 * result["losses"][0]
    assert {name: number for name, number in result.items() if name.startswith("num_") and number} == {}


def test_bad_batches_are_skipped_and_counted_in_result_and_log():
    bad = {FAULT, FAULT + 1, FAULT + 10}
    model, records, kept = tiny_model(), [], []

    def data(step: int, micro: int) -> Batch:
        kept.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return garbage(step, micro) if step in bad else batches(step, micro)

    result = train(model, data, log=records.append, log_every=10)
    assert result["num_loss_spikes"] == result["num_spikes_skipped"] == 3
    assert records[-1]["num_loss_spikes"] == 3 and "num_loss_spikes" not in records[0]
    for step in bad:
        assert all(torch.equal(tensor, kept[step + 1][name]) for name, tensor in kept[step].items()), step
    assert any(not torch.equal(tensor, kept[FAULT + 4][name]) for name, tensor in kept[FAULT + 3].items())


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_run_that_stays_broken_is_stopped_with_step_and_hint(scale):
    with pytest.raises(UserError, match="^Training diverged: the loss stayed far above the usual") as end:
        train(tiny_model(), garbage, num_steps=400, schedule=lambda step: scale if step >= FAULT else 1.0)
    # a rate that is too high shows one step later
    first = FAULT + MAX_SPIKES_IN_A_ROW
    assert end.value.problem.endswith((f"step {first}", f"step {first + 1}")), end.value.problem
    assert "--resume true" in end.value.hint


def test_a_rate_a_hundred_times_too_high_is_noticed():
    result = train(tiny_model(), schedule=lambda step: 100.0 if step == FAULT else 1.0, loss_sigmas=10)
    assert result["num_loss_spikes"] >= 1
    assert train(tiny_model(), schedule=lambda step: 100.0 if step == FAULT else 1.0, loss_sigmas=0,
                 norm_factor=0)["num_loss_spikes"] == 0


def test_long_gradients_are_cut_to_the_usual():
    guard = Guard(clip_norm=1.0, norm_factor=10.0)
    for step in range(LEAST):
        assert guard.judge(step, "", 2.0, 0.02 + 0.001 * (step % 3)).max_norm == 1.0
    verdict = guard.judge(LEAST, "", 2.0, 5.0)
    assert verdict.is_applied and verdict.max_norm == pytest.approx(0.21) and guard.counters.num_norm_spikes == 1
    for step in range(100):
        guard.judge(step, "", 2.0, 5.0)
    assert guard.counters.num_norm_spikes < 70, "gradients that stay long become usual"


def test_a_spike_is_skipped_first_then_trained_on_then_ends_the_run():
    guard = Guard()
    for step in range(LEAST):
        guard.judge(step, "", 2.0, 1.0)
    applied = [guard.judge(step, "", 9.0, 1.0).is_applied for step in range(MAX_SPIKES_IN_A_ROW - 1)]
    assert applied == [False] * SKIPPED_SPIKES + [True] * (MAX_SPIKES_IN_A_ROW - 1 - SKIPPED_SPIKES)
    assert not guard.is_calm
    with pytest.raises(UserError, match="9.000 at step 78"):
        guard.judge(77, "", 9.0, 1.0)


def test_kinds_are_compared_with_themselves_only():
    guard, rng = Guard(), random.Random(0)
    for step in range(400):
        kind, usual = ("copy", 0.1) if step % 10 == 0 else ("text", 3.0) if step < 300 else ("keys", 6.0)
        assert guard.judge(step, kind, usual + rng.gauss(0, 0.05), math.exp(rng.gauss(0, 0.3))).is_applied, step
    assert guard.counters.num_loss_spikes == guard.counters.num_norm_spikes == 0


def test_what_a_guard_remembers_survives_json():
    rng, guard = random.Random(1), Guard()
    steps = [(f"{n % 2}", 2 + rng.random() + (5 if rng.random() < 0.1 else 0), rng.random() * 3) for n in range(120)]
    for number, (kind, loss, norm) in enumerate(steps[:60]):
        guard.judge(number, kind, loss, norm)
    twin = Guard(record=json.loads(json.dumps(guard.record())))
    for number, (kind, loss, norm) in enumerate(steps[60:], 60):
        assert guard.judge(number, kind, loss, norm) == twin.judge(number, kind, loss, norm)
    assert guard.record() == twin.record() and guard.counters.num_loss_spikes > 0


def test_checkpoints_wait_for_a_calm_step():
    saved = []
    train(tiny_model(), lambda step, micro: garbage(step, micro) if step in (59, 60) else batches(step, micro),
          save=lambda step, progress: saved.append(step), save_every=20)
    assert saved == [20, 40, 62, 80]


def test_a_loss_that_is_no_number_is_skipped_and_does_not_blind_the_guard():
    for loss in (math.nan, math.inf, -math.inf):
        guard = Guard()
        for step in range(LEAST):
            guard.judge(step, "", 2.0, 1.0)
        assert not guard.judge(LEAST, "", loss, 1.0).is_applied and guard.counters.num_skipped == 1
        assert all(math.isfinite(value) for window in guard.record()["seen"].values() for value in window["losses"])
        assert not guard.judge(LEAST + 1, "", 9.0, 1.0).is_applied and guard.counters.num_loss_spikes == 1
    with pytest.raises(UserError, match="losses or gradients in a row were not finite, up to step 99"):
        for _ in range(20):
            guard.judge(98, "", math.nan, 1.0)


def test_a_record_with_a_loss_that_is_no_number_is_read_without_it():
    guard = Guard(record={"seen": {"": {"losses": [2.0, math.nan] * LEAST, "norms": [1.0, math.inf]}}})
    assert not guard.judge(0, "", 9.0, 1.0).is_applied and guard.counters.num_loss_spikes == 1
