"""The loop: accumulation = big batch, same seed same curve, skipped steps, order of save and evaluate, schedules."""

import copy
import math

import pytest
import torch
from training_stubs import tiny_model

from nanochat.errors import UserError
from nanochat.training import Batch, LossOutput, build_optimizer, fit, language_model_loss, warmup_stable_decay


def rows_of(step: int, first: int, count: int) -> Batch:
    """Rows `first` ... of a step: counting sequences, unequal numbers of targets."""
    ids = (torch.arange(13) * (1 + step % 3) + torch.arange(first, first + count)[:, None] * 5) % 64
    targets = ids[:, 1:].clone()
    for row in range(count):
        targets[row, : first + row] = -1
    return Batch(ids=ids[:, :-1], targets=targets)


def train(model, *, rows_per_batch: int = 4, **settings) -> dict:
    optimizer = build_optimizer(model, matrix_lr=0.01, embedding_lr=0.01, scalar_lr=0.01)
    batches = lambda step, micro: rows_of(step, micro * rows_per_batch, rows_per_batch)  # noqa: E731
    return fit(
        model, batches, language_model_loss, optimizer, **{"num_steps": 6, "log": lambda record: None, **settings}
    )


def test_loss_falls_and_same_start_gives_same_curve():
    first, second = tiny_model(), tiny_model()
    result, again = train(first, num_steps=30), train(second, num_steps=30)
    assert result["losses"] == again["losses"]
    assert result["losses"][-1] < 0.7 * result["losses"][0], result["losses"]
    assert result["step"] == 30 and result["tokens"] == 30 * 4 * 12 and result["num_skipped"] == 0
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_accumulation_equals_one_big_batch():
    big, pieces = tiny_model(), tiny_model()
    whole = train(big, rows_per_batch=4)
    parts = train(pieces, rows_per_batch=1, grad_accum_steps=4)
    assert whole["losses"] == pytest.approx(parts["losses"], abs=1e-6)
    for (name, a), b in zip(big.named_parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_non_finite_gradients_are_skipped_and_counted():
    model = tiny_model()
    optimizer = build_optimizer(model)
    before = copy.deepcopy(model.state_dict())

    def broken(model, batch, normaliser):
        output = language_model_loss(model, batch, normaliser)
        return LossOutput(loss=output.loss * math.inf, parts={})

    result = fit(
        model, lambda step, micro: rows_of(step, 0, 2), broken, optimizer, num_steps=3, log=lambda record: None
    )
    assert result["num_skipped"] == 3
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(UserError, match="Training diverged"):
        fit(model, lambda step, micro: rows_of(step, 0, 2), broken, optimizer, num_steps=40, log=lambda record: None)


def test_steps_without_supervised_tokens_are_counted_and_change_nothing():
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    batch = rows_of(0, 0, 2)
    empty = Batch(ids=batch.ids, targets=torch.full_like(batch.targets, -1))
    records = []
    result = fit(
        model, lambda step, micro: empty, language_model_loss, build_optimizer(model), num_steps=2, log=records.append
    )
    assert result["num_empty"] == 2 and result["num_skipped"] == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    half = train(tiny_model(), grad_accum_steps=1)  # a step with one empty micro-batch of two is not empty
    mixed = fit(
        tiny_model(),
        lambda step, micro: rows_of(step, 0, 4) if micro else empty,
        language_model_loss,
        build_optimizer(tiny_model()),
        num_steps=1,
        grad_accum_steps=2,
        log=records.append,
    )
    assert mixed["num_empty"] == 0 and mixed["losses"][0] == pytest.approx(half["losses"][0], abs=1e-6)


def test_save_comes_before_evaluate_and_the_end_has_both():
    events = []
    train(
        tiny_model(),
        num_steps=5,
        save=lambda step, progress: events.append(("save", step, progress["step"])),
        save_every=2,
        evaluate=lambda step: events.append(("evaluate", step)) or {"em": 0.5},
        eval_every=4,
    )
    assert events == [("save", 2, 2), ("save", 4, 4), ("evaluate", 4), ("save", 5, 5), ("evaluate", 5)]


def test_stop_ends_training_with_a_checkpoint():
    saved, records = [], []
    result = train(
        tiny_model(),
        num_steps=50,
        save=lambda step, progress: saved.append(step),
        save_every=20,
        evaluate=lambda step: {"em": step / 10},
        eval_every=3,
        stop=lambda step, metrics: metrics["em"] > 0.5,
        log=records.append,
    )
    assert result["stopped"] and result["step"] == 6 and saved == [6] and result["metrics"] == {"em": 0.6}
    assert [record["em"] for record in records if "em" in record] == [0.3, 0.6]


def test_records_tell_progress(capsys):
    records = []
    train(tiny_model(), num_steps=5, log_every=2, log=records.append, schedule=warmup_stable_decay(5, 2, 0.4))
    assert [record["step"] for record in records] == [2, 4, 5]
    wanted = {"num_steps", "loss", "loss_answer", "lr_scale", "grad_norm", "tokens_per_s", "elapsed_s", "remaining_s"}
    assert wanted <= records[0].keys()
    train(tiny_model(), num_steps=2, log_every=2, log=None)
    line = capsys.readouterr().out
    assert line.startswith("step 2/2 | loss ") and " tok/s | " in line and line.count("\n") == 1


def test_warmup_stable_decay():
    scale = warmup_stable_decay(10, 4, 0.3)
    assert [scale(step) for step in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert [warmup_stable_decay(4, 0, 0.0)(step) for step in range(4)] == [1.0] * 4
    assert warmup_stable_decay(10, 0, 1.0, final=0.5)(9) == pytest.approx(0.5 + 0.5 / 11)


def test_a_run_returns_what_it_freed_now_and_then(monkeypatch):
    calls = []
    monkeypatch.setattr("nanochat.training.loop.return_memory", lambda: calls.append(1))
    train(tiny_model(), num_steps=45)
    assert len(calls) == 2
