"""What a step with rewards weighs and counts, and which episodes it uses."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_refrag_policy_training import SETTINGS, learn, make_training, weights

from nanochat.refrag import policy_training, rollout
from nanochat.refrag.audit import Tally, tally_groups
from nanochat.refrag.control import Control
from nanochat.refrag.policy_batch import GOLD, GUARD, POLICY
from nanochat.refrag.policy_loss import LossSettings
from nanochat.refrag.rewards import Score
from nanochat.refrag.rollout import Group
from nanochat.refrag.trace import Reference, Trace


@pytest.mark.parametrize("name", ["rloo", "grpo", "dr_grpo"])
def test_gold_and_guarded_tokens_weigh_what_they_should_beside_those_of_an_episode(name):
    settings = replace(SETTINGS, algorithm=name, gold_weight=0.2)
    training = make_training(settings=settings)
    training.batches(0, 0)
    first = next(item for item in training._now.sequences if item.kind == POLICY)
    training.guard.add(first.ids, [int(place in first.masks) for place in range(len(first.ids))], [0.0])
    training._now.uses_left = 0
    training.batches(0, 0)
    items = training._now.sequences
    # what the algorithm gives each token of a sequence of so many
    expected = {"rloo": lambda count: 1.0, "grpo": lambda count: 1 / count,
                "dr_grpo": lambda count: 1 / settings.most_tokens}[name]
    assert {item.kind for item in items} == {POLICY, GOLD, GUARD}
    for item in items:
        share = {POLICY: 1.0, GOLD: 0.2, GUARD: 1.0}[item.kind]
        assert item.weight == pytest.approx(share * expected(len(item.masks)))


def rollouts(monkeypatch, training, act):
    """How many rollouts two steps take, with something in between."""
    calls, real = [], rollout.run_episodes
    monkeypatch.setattr(rollout, "run_episodes", lambda *args, **options: calls.append(1) or real(*args, **options))
    training.batches(0, 0)
    begun = len(calls)
    act(training)
    training.batches(1, 0)
    return len(calls) - begun


def test_episodes_are_not_used_again_behind_a_checkpoint_or_when_the_weights_are_others(monkeypatch):
    settings = replace(SETTINGS, updates=2, gold_steps=0)
    # a resumed run has no episodes to use again, so the one that never stopped must not either
    for act, expected in ((lambda training: None, False), (lambda training: training.record(), True),
                          (lambda training: training.forget_episodes(), True)):
        with monkeypatch.context() as patch:
            assert bool(rollouts(patch, make_training(settings=settings), act)) == expected


def make_group(rewards, cut=()):
    traces = [Trace(question="q", hops=(), answer="a", token_ids=(1,), mask=(1,), logprobs=(0.0,),
                    stop="length" if place in cut else "end", is_valid=place not in cut)
              for place in range(len(rewards))]
    return Group(question={"id": "q"}, reference=Reference(answers=("a",)), traces=traces,
                 scores=[Score(reward, {}) for reward in rewards])


def even_share(*groups):
    tally = Tally()
    tally_groups(groups, tally)
    return tally.means(("even_share",))["even_share"]


def test_even_questions_are_those_that_teach_nothing():
    assert even_share(make_group([1.0, 1.0]), make_group([1.0, 0.0])) == 0.5
    # a cut episode is not compared
    assert even_share(make_group([1.0, 1.0, -1.0], cut={2})) == 1.0
    assert even_share(make_group([1.0, -1.0], cut={1})) == 1.0
    # of one episode nobody can tell
    assert even_share(make_group([1.0])) != even_share(make_group([1.0]))


def test_cut_episodes_do_not_keep_a_step_from_asking_more(monkeypatch):
    calls = []

    def cut(*args, **options):
        calls.append(1)
        return [make_group([1.0, 1.0, -1.0], cut={2})] * 4

    monkeypatch.setattr(policy_training, "roll_out", cut)
    training = make_training(settings=replace(SETTINGS, gold_steps=0))
    training.batches(0, 0)
    assert len(calls) == policy_training.MOST_ROUNDS


def test_without_monitors_evaluations_are_still_known():
    control = Control(LossSettings(), mode="off", say=pytest.fail)
    assert control.evaluated(0, {"dev_accuracy": 0.5}) == control.evaluated(1, {"dev_accuracy": 0.1}) == []
    assert control.monitors.history.dev("dev_accuracy") == [0.5, 0.1] and not control.monitors.sounded


def test_the_development_set_is_one_number_of_all_its_questions(monkeypatch):
    from scripts import refrag_rewards

    accuracies = {"dev_": 0.5, "kb_": 1.0}
    monkeypatch.setattr(refrag_rewards, "measure", lambda *args, prefix, **options: {
        f"{prefix}accuracy": accuracies[prefix]})
    sets = {"dev_": [SimpleNamespace(questions=[1] * 45)] * 2, "kb_": [SimpleNamespace(questions=[1] * 10)]}
    evaluate = refrag_rewards._evaluation(None, sets, copy.copy(SETTINGS))
    # 45 of 90 and 10 of 10: ten questions of a small knowledge base weigh ten questions
    assert evaluate(0)["dev_error"] == pytest.approx(0.45)


def make_even(monkeypatch):
    real = policy_training.roll_out

    def even(*args, **options):
        return [replace(group, scores=[Score(0.0, {})] * len(group.scores)) for group in real(*args, **options)]

    monkeypatch.setattr(policy_training, "roll_out", even)


def test_where_no_question_tells_anything_gold_episodes_and_the_guard_still_do(monkeypatch):
    make_even(monkeypatch)
    training = make_training(settings=replace(SETTINGS, gold_steps=1))
    before = weights(training.model)
    training.batches(0, 0)
    gold = next(item for item in training._now.sequences if item.kind == GOLD)
    # a likelihood that it never had: the guard has something to hold on to
    training.guard.add(gold.ids, [int(place in gold.masks) for place in range(len(gold.ids))], [0.0])
    training._now.uses_left = 0
    batch = training.batches(0, 0)
    assert {item.kind for item in training._now.sequences} == {GOLD, GUARD} and batch.share > 0
    training._now = None
    learn(training, 1)
    assert weights(training.model) != before


def test_what_a_rollout_led_to_is_told_once():
    records = learn(make_training(settings=replace(SETTINGS, updates=2, gold_steps=0)), 4, rate=1e-5)
    assert [math.isfinite(record["reward_mean"]) for record in records] == [True, False, True, False]
    assert all(math.isfinite(record["grad_norm"]) for record in records)


def test_episodes_that_repeat_a_search_or_are_cut_are_not_valid():
    group = make_group([1.0, 1.0, 1.0, 0.0], cut=(3,))
    group = replace(group, traces=[replace(group.traces[0], num_repeated=1), *group.traces[1:]])
    tally = Tally()
    tally_groups([group], tally)
    assert tally.means(("valid_share", "cut_share")) == {"valid_share": 0.5, "cut_share": 0.25}
