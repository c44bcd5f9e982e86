"""The loss: gathered = plain, pieces add up to the whole, nothing supervised is not a NaN."""

from dataclasses import replace

import pytest
import torch
from training_stubs import tiny_model

from nanochat.training import losses
from nanochat.training.losses import Batch, language_model_loss


def random_batch(rows: int = 4, length: int = 17, seed: int = 0, weighted: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(64, (rows, length + 1), generator=generator)
    hidden = torch.rand(rows, length, generator=generator) < 0.5
    weights = torch.rand(rows, length, generator=generator).round(decimals=1) * 2 if weighted else None
    answers = torch.rand(rows, length, generator=generator) < 0.5 if weighted else None
    return Batch(ids=ids[:, :-1], targets=ids[:, 1:].masked_fill(hidden, -1), weights=weights, is_answer=answers)


@pytest.mark.parametrize("positions", [1, 7, 1024])
def test_loss_equals_plain_cross_entropy(monkeypatch, positions):
    monkeypatch.setattr(losses, "HEAD_POSITIONS", positions)
    model, batch = tiny_model(), random_batch()
    plain = torch.nn.functional.cross_entropy(model(batch.ids).flatten(0, 1), batch.targets.flatten(), ignore_index=-1)
    assert language_model_loss(model, batch).loss.item() == pytest.approx(plain.item(), abs=1e-6)


def test_weights_scale_each_token():
    model, batch = tiny_model(), random_batch(weighted=True)
    rows = torch.nn.functional.cross_entropy(
        model(batch.ids).flatten(0, 1), batch.targets.flatten(), ignore_index=-1, reduction="none"
    )
    weights = (batch.weights * (batch.targets >= 0)).flatten()
    expected = (rows * weights).sum() / weights.sum()
    output = language_model_loss(model, batch)
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-6)
    # what is an answer is said by the batch, whatever it weighs
    answers = batch.is_answer.flatten() & (weights > 0)
    assert (weights[answers] < 1).any() and (weights[~batch.is_answer.flatten()] >= 1).any()
    for name, chosen in (("answer", answers), ("context", ~answers & (weights > 0))):
        total, count = output.parts[name]
        assert count.item() == chosen.sum().item() > 0
        assert total.item() == pytest.approx(rows[chosen].sum().item(), rel=1e-5)


def test_without_a_mask_every_target_is_an_answer():
    for weighted in (False, True):
        batch = replace(random_batch(weighted=weighted), is_answer=None)
        ((name, (_, count)),) = language_model_loss(tiny_model(), batch).parts.items()
        assert name == "answer" and count.item() == batch.supervised().sum().item()


@pytest.mark.parametrize("weighted", [False, True])
def test_pieces_with_a_common_normaliser_add_up(weighted):
    model, whole = tiny_model(), random_batch(rows=5, weighted=weighted)
    language_model_loss(model, whole).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for rows in (slice(0, 1), slice(1, 5)):
        weights = whole.weights[rows] if weighted else None
        piece = Batch(ids=whole.ids[rows], targets=whole.targets[rows], weights=weights)
        language_model_loss(model, piece, whole.weight()).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-5)


def test_nothing_supervised_gives_zero_without_gradient():
    batch = random_batch()
    empty = Batch(ids=batch.ids, targets=torch.full_like(batch.targets, -1))
    output = language_model_loss(tiny_model(), empty)
    assert output.loss.item() == 0.0 and not output.loss.requires_grad and empty.weight() == 0.0


def test_packed_rows_cost_the_same_as_rows_alone():
    model, batch = tiny_model(), random_batch(rows=2)
    packed = Batch(
        ids=batch.ids.reshape(1, -1),
        targets=batch.targets.reshape(1, -1),
        seq_idx=torch.arange(2).repeat_interleave(batch.ids.shape[1])[None],
    )
    alone, together = language_model_loss(model, batch).loss, language_model_loss(model, packed).loss
    assert together.item() == pytest.approx(alone.item(), abs=1e-5)
