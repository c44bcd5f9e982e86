"""The policy's loss on made-up episodes: its gradient, its masks, its guard, and that packing changes nothing."""

import random
from dataclasses import replace

import pytest
import torch
from training_stubs import tiny_model

from nanochat.refrag.likelihood_guard import LikelihoodGuard
from nanochat.refrag.policy_batch import GOLD, GUARD, POLICY, Sequenced, first_fit, make_batches
from nanochat.refrag.policy_loss import LossSettings, chosen_logprobs, low_variance_kl, policy_loss

NUM_IDS = 64


def make_masks(ids, places, rng):
    """Random masks that allow what was chosen."""
    masks = {}
    for place in places:
        mask = torch.tensor([rng.random() < 0.3 for _ in range(NUM_IDS)])
        mask[ids[place]] = True
        masks[place] = mask
    return masks


def make_sequence(seed, *, length=20, advantage=1.0, **options):
    rng = random.Random(seed)
    ids = [rng.randrange(NUM_IDS) for _ in range(length)]
    places = sorted(rng.sample(range(1, length), 5))
    masks = make_masks(ids, places, rng)
    return Sequenced(ids=ids, masks=masks, advantages=dict.fromkeys(places, advantage), **options)


def batch_of(*sequences, normaliser=1.0):
    return make_batches(sequences, 1, num_ids=NUM_IDS, normaliser=normaliser)[0]


def loss_of(model, batch, **settings):
    return policy_loss(model, batch, 1.0, settings=LossSettings(**{"kl": 0.0, **settings}))


def plain_logprobs(model, item):
    """Log-probabilities of the chosen tokens, one sequence at a time, the slow way."""
    logits = model(torch.tensor([item.ids]))[0]
    found = []
    for place in sorted(item.masks):
        masked = logits[place - 1].masked_fill(~item.masks[place], float("-inf"))
        found.append(torch.log_softmax(masked, -1)[item.ids[place]])
    return torch.stack(found)


def gradient(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in model.parameters()])


def test_packed_episodes_have_the_log_probabilities_they_have_alone():
    model = tiny_model()
    items = [make_sequence(seed, length=length) for seed, length in enumerate((20, 9, 14, 20, 7))]
    batches = make_batches(items, 2, num_ids=NUM_IDS, normaliser=1.0)
    for batch in batches:
        found, entropies, where = chosen_logprobs(model, batch)
        for number in batch.numbers[where].unique().tolist():
            mine = found[batch.numbers[where] == number]
            assert torch.allclose(mine, plain_logprobs(model, items[number]), atol=1e-5)
    assert sum(len(batch.ids) for batch in batches) == len(first_fit([19, 8, 13, 19, 6], 19))


def test_the_first_update_is_the_policy_gradient():
    model = tiny_model()
    items = [make_sequence(1, advantage=0.7), make_sequence(2, advantage=-0.4)]
    found = gradient(model, loss_of(model, batch_of(*items)).loss)
    sums = [plain_logprobs(model, item).sum() for item in items]
    wanted = gradient(model, -(0.7 * sums[0] - 0.4 * sums[1]))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_tokens_that_the_grammar_forbids_are_not_moved():
    model = tiny_model()
    item = make_sequence(3)
    place = min(item.masks)
    item = replace(item, masks={place: item.masks[place]}, advantages={place: 1.0})
    logits = model(torch.tensor([item.ids[:-1]])).detach()[0, place - 1].requires_grad_()

    class Fixed(torch.nn.Module):
        def features(self, ids, seq_idx=None):
            return logits.expand(*ids.shape, -1)

        def head(self, x):
            return x

    loss_of(Fixed(), batch_of(item)).loss.backward()
    assert (logits.grad[~item.masks[place]] == 0).all() and (logits.grad[item.masks[place]] != 0).all()


def test_temperature_is_that_of_sampling():
    model, item = tiny_model(), make_sequence(4)
    warm, _, _ = chosen_logprobs(model, batch_of(item), temperature=2.0)
    cold, _, _ = chosen_logprobs(model, batch_of(item), temperature=1.0)
    assert not torch.allclose(warm, cold) and loss_of(model, batch_of(item), temperature=2.0).loss.isfinite()


def test_a_second_update_is_clipped():
    model, item = tiny_model(), make_sequence(5)
    batch = batch_of(item)
    logprobs, _, where = chosen_logprobs(model, batch)
    # twice as likely as when they were sampled: nothing more is to be gained
    batch.old[where] = logprobs.detach() - 0.7
    assert gradient(model, loss_of(model, batch).loss).abs().max() == 0
    batch.old[where] = logprobs.detach() + 0.7
    assert gradient(model, loss_of(model, batch).loss).abs().max() > 0
    part = loss_of(model, batch).parts["drift"]
    assert float(part[0] / part[1]) == pytest.approx(0.7, abs=1e-5)


def test_supervised_algorithms_know_no_ratio():
    model, item = tiny_model(), make_sequence(5)
    batch = batch_of(item)
    logprobs, _, where = chosen_logprobs(model, batch)
    batch.old[where] = logprobs.detach() - 0.7
    found = gradient(model, loss_of(model, batch, is_supervised=True).loss)
    assert torch.allclose(found, gradient(model, -plain_logprobs(model, item).sum()), atol=1e-5)


def test_the_divergence_estimate_is_unbiased_and_never_negative():
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    p, q = torch.log_softmax(logits, -1), torch.log_softmax(other, -1)
    each = low_variance_kl(p, q)
    assert (each >= 0).all() and float((p.exp() * each).sum()) == pytest.approx(float((p.exp() * (p - q)).sum()))


def test_divergence_pulls_back_and_has_its_weight():
    model, item = tiny_model(), make_sequence(6, advantage=0.0)
    batch = batch_of(item)
    logprobs, _, where = chosen_logprobs(model, batch)
    batch.reference[where] = logprobs.detach()
    assert gradient(model, loss_of(model, batch, kl=1.0).loss).abs().max() == 0
    batch.reference[where] = logprobs.detach() + 0.5
    one, two = (gradient(model, loss_of(model, batch, kl=kl).loss) for kl in (1.0, 2.0))
    assert one.abs().max() > 0 and torch.allclose(two, 2 * one, atol=1e-6)
    with torch.no_grad():
        stepped = tiny_model()
        parameters = list(stepped.parameters())
        for parameter, grad in zip(parameters, one.split([p.numel() for p in parameters]), strict=True):
            parameter -= 1e-3 * grad.view_as(parameter)
    assert chosen_logprobs(stepped, batch)[0].sum() > logprobs.sum()


def test_gold_episodes_are_supervised_with_their_weight_and_are_no_part_of_the_normaliser():
    model = tiny_model()
    gold = make_sequence(7, kind=GOLD, weight=0.2)
    batch = batch_of(gold)
    assert torch.allclose(gradient(model, loss_of(model, batch).loss),
                          gradient(model, -0.2 * plain_logprobs(model, gold).sum()), atol=1e-5)
    assert batch_of(make_sequence(8), gold, normaliser=5.0).weight() == 5.0


def test_the_guard_acts_only_below_the_floor():
    model, item = tiny_model(), make_sequence(9, kind=GUARD)
    mean = plain_logprobs(model, item).mean().item()
    below, above = (batch_of(replace(item, floor=mean + gap)) for gap in (-0.1, 0.1))
    assert gradient(model, loss_of(model, below).loss).abs().max() == 0
    output = loss_of(model, above, guard=2.0)
    assert output.loss.item() == pytest.approx(2.0 * 0.1 * 5, abs=1e-4)
    assert torch.allclose(gradient(model, output.loss), gradient(model, -2.0 * plain_logprobs(model, item).sum()),
                          atol=1e-5)
    assert loss_of(model, above, guard=0.0).loss.item() == 0.0


def test_the_loss_of_micro_batches_adds_up():
    model = tiny_model()
    items = [make_sequence(seed, length=12 + seed, advantage=seed - 2.0) for seed in range(5)]
    items += [make_sequence(8, kind=GOLD, weight=0.3), make_sequence(9, kind=GUARD, floor=0.0)]
    for count in (1, 2, 3, 9):
        batches = make_batches(items, count, num_ids=NUM_IDS, normaliser=25.0)
        assert len(batches) == count and sum(batch.weight() for batch in batches) == pytest.approx(25.0)
        losses = [policy_loss(model, batch, 25.0, settings=LossSettings()).loss for batch in batches]
        whole = policy_loss(model, batch_of(*items), 25.0, settings=LossSettings()).loss
        assert sum(losses).item() == pytest.approx(whole.item(), abs=1e-6)


def test_weights_of_sequences_and_constants_are_those_of_their_tokens():
    model = tiny_model()
    short, long = make_sequence(1, length=8), make_sequence(2, length=20)
    by_sequence = loss_of(model, batch_of(replace(short, weight=1 / 5), replace(long, weight=1 / 5))).loss
    by_token = loss_of(model, batch_of(short, long)).loss
    assert by_token.item() == pytest.approx(5 * by_sequence.item(), rel=1e-5)


def test_a_forbidden_token_gives_no_infinite_loss():
    model, item = tiny_model(), make_sequence(1)
    place = min(item.masks)
    forbidden = item.masks[place].clone()
    forbidden[item.ids[place]] = False
    output = loss_of(model, batch_of(replace(item, masks={**item.masks, place: forbidden})))
    assert output.loss.isfinite() and output.parts["policy"][0].isfinite()


def test_a_batch_without_episodes_has_a_loss_of_zero():
    batch = make_batches([], 2, num_ids=NUM_IDS, normaliser=0.0)[1]
    output = loss_of(tiny_model(), batch)
    assert float(output.loss) == 0.0 and batch.weight() == 0 and output.parts == {}


def test_a_batch_moves_whole():
    batch = batch_of(make_sequence(1), normaliser=3.0)
    moved = batch.to(torch.device("cpu"))
    policy_loss(tiny_model(), moved, 1.0, settings=LossSettings())
    assert moved.weight() == 3.0 and len(batch.found["logprobs"]) == 5, "what the loss found is seen from the batch"
    assert moved.kinds[moved.targets >= 0].unique().tolist() == [POLICY]


def test_the_guard_keeps_the_last_right_episodes():
    guard, other = LikelihoodGuard(size=3), LikelihoodGuard(size=3)
    for number in range(5):
        guard.add([number, 1, 2], [0, 1, 1], [-0.5, -1.5])
    other.restore(guard.record())
    assert [one.ids[0] for one in other.kept] == [2, 3, 4] and other.kept[0].likelihood == -1.0
    masks = {1: torch.ones(NUM_IDS, dtype=torch.bool)}
    drawn = other.draw(9, random.Random(0), lambda ids, mask: masks, weight=lambda count: 1.0)
    assert len(drawn) == 3 and drawn[0].kind == GUARD and drawn[0].floor == -1.0
    assert len(other.draw(2, random.Random(0), lambda ids, mask: masks, weight=lambda count: 1.0)) == 2
