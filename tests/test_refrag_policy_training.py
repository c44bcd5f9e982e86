"""Learning from rewards in the training loop: what is sampled is trained, runs repeat and go on, faults are heard."""

import copy
import hashlib
import json
import random
from dataclasses import replace

import pytest
import torch
from refrag_stubs import HOPS, make_model, make_source, make_tokenizer, make_world

from nanochat.engine import Engine
from nanochat.errors import UserError
from nanochat.refrag import policy_training, rollout
from nanochat.refrag.advantages import RL_ALGORITHMS
from nanochat.refrag.audit import leaked_places
from nanochat.refrag.control import Control
from nanochat.refrag.episode_log import EpisodeLog, read_episodes
from nanochat.refrag.policy_batch import GOLD, GUARD, POLICY
from nanochat.refrag.policy_loss import LossSettings
from nanochat.refrag.policy_settings import PolicySettings
from nanochat.refrag.policy_training import PolicyTraining
from nanochat.refrag.replay import lines
from nanochat.refrag.rewards import REWARDS, RewardSettings, Score
from nanochat.refrag.sources import Drawn
from nanochat.training import build_optimizer, fit

SETTINGS = PolicySettings(questions_per_step=4, group_size=4, num_batches=2, num_steps=4, hops=HOPS, gold_steps=1,
                          max_answer_tokens=10, log_episodes=3)


def make_training(model=None, *, settings=SETTINGS, source=None, log=None, mode="say", kl=0.02, guard=1.0, said=None):
    model = model or make_model()
    loss = LossSettings(kl=kl, guard=guard, temperature=settings.temperature,
                        is_supervised=settings.how.is_supervised)
    control = Control(loss, mode=mode, say=(said if said is not None else []).append)
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    return PolicyTraining(Engine(model, make_tokenizer()), source or make_source(), settings, control, frozen=frozen,
                          log=log)


def learn(training, num_steps=3, *, first=0, progress=None, rate=1e-2, records=None, optimizer=None, save=None):
    """Some steps; the numbers after each of them."""
    model, found = training.model, []
    optimizer = optimizer or build_optimizer(model, matrix_lr=rate, embedding_lr=rate, scalar_lr=rate)

    def look(record):
        if "loss" in record:
            found.append({**record, **training.after_update(record["step"], record), "weights": weights(model)})

    fit(model, training.batches, training.loss, optimizer, num_steps=num_steps, start_step=first, log=look, log_every=1,
        grad_accum_steps=training.settings.num_batches, loss_sigmas=0.0, progress=progress, save=save, save_every=1)
    return found


def weights(model):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


@pytest.fixture(scope="module")
def plain():
    training = make_training()
    start = weights(training.model)
    numbers = learn(training)
    assert weights(training.model) != start
    return training, numbers


def test_sampling_and_training_agree_about_every_token(plain):
    _, numbers = plain
    assert max(record["logprob_gap"] for record in numbers) < 1e-4
    assert all(record["leaked_tokens"] == 0 for record in numbers)
    assert all(record["policy_tokens"] > 1 for record in numbers)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(plain):
    training, numbers = plain
    again, other = make_training(), make_training(settings=replace(SETTINGS, seed=1))
    assert [record["loss"] for record in learn(again)] == [record["loss"] for record in numbers]
    learn(other)
    assert weights(again.model) == weights(training.model) != weights(other.model)


def test_a_run_that_goes_on_gives_the_weights_of_one_that_never_stopped(plain):
    first = make_training()
    kept = {}
    optimizer = build_optimizer(first.model, matrix_lr=1e-2, embedding_lr=1e-2, scalar_lr=1e-2)

    def save(step, progress):
        kept[step] = (copy.deepcopy(first.model.state_dict()), json.loads(json.dumps(first.record())),
                      json.loads(json.dumps(progress)),
                      {name: value.clone() for name, value in optimizer.state_tensors().items()})

    learn(first, 3, optimizer=optimizer, save=save)
    state, record, progress, moments = kept[2]
    second = make_training()
    second.model.load_state_dict(state)
    second.restore(record)
    other = build_optimizer(second.model, matrix_lr=1e-2, embedding_lr=1e-2, scalar_lr=1e-2)
    other.load_state(moments, optimizer.state_record(), where="memory")
    learn(second, 3, first=2, progress=progress, optimizer=other)
    assert weights(second.model) == weights(first.model) == weights(plain[0].model)


def test_how_episodes_are_dealt_to_micro_batches_changes_nothing_but_rounding(plain):
    other = make_training(settings=replace(SETTINGS, num_batches=3))
    numbers = learn(other, 1)
    assert numbers[0]["loss"] == pytest.approx(plain[1][0]["loss"], abs=1e-5)
    assert numbers[0]["grad_norm"] == pytest.approx(plain[1][0]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("name", RL_ALGORITHMS)
def test_every_algorithm_learns_something_of_its_own(name, plain):
    numbers = learn(make_training(settings=replace(SETTINGS, algorithm=name)), 2)
    assert all(record["loss"] == record["loss"] for record in numbers), "some step was empty"
    assert (numbers[1]["weights"] == plain[1][1]["weights"]) == (name == "rloo")


CHANGES = {
    "group_size": {"group_size": 3}, "questions": {"questions_per_step": 3}, "temperature": {"temperature": 0.7},
    "gold_steps": {"gold_steps": 0}, "gold_weight": {"gold_weight": 0.9}, "updates": {"updates": 2},
    "max_answer_tokens": {"max_answer_tokens": 3},
    "hops": {"hops": replace(HOPS, max_hops=1)}, "max_query_tokens": {"hops": replace(HOPS, max_query_tokens=2)},
    "top_k": {"hops": replace(HOPS, top_k=1)}, "rewards": {"rewards": RewardSettings(mode="legacy")},
    "threshold": {"rewards": RewardSettings(answer_threshold=0.6)}, "num_steps": {"num_steps": 1},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_setting_changes_what_is_learned(name, plain):
    numbers = learn(make_training(settings=replace(SETTINGS, **CHANGES[name])), 2)
    assert numbers[1]["weights"] != plain[1][1]["weights"]


def test_the_weight_of_the_divergence_changes_what_is_learned(plain):
    # at the first step the policy is the supervised model itself
    assert learn(make_training(kl=5.0), 2)[1]["weights"] != plain[1][1]["weights"]


@pytest.mark.parametrize(("guard", "guarded"), [(50.0, 16), (1.0, 0)])
def test_the_guard_changes_what_is_learned(guard, guarded):
    seen = []
    for weight, count in ((1.0, 16), (guard, guarded)):
        training = make_training(guard=weight, settings=replace(SETTINGS, guarded=count))
        training.batches(0, 0)
        sequence = next(item for item in training._now.sequences if item.kind == POLICY)
        # as if it had been certain once
        training.guard.add(sequence.ids, [int(place in sequence.masks) for place in range(len(sequence.ids))], [0.0])
        seen += learn(training, 1)
    assert seen[0]["weights"] != seen[1]["weights"] and seen[0]["likelihood_fall"] > 0


def test_a_constant_reward_changes_no_weight():
    settings = replace(SETTINGS, rewards=RewardSettings(mode="constant"), gold_steps=0)
    training = make_training(settings=settings)
    start = weights(training.model)
    numbers = learn(training, 2)
    assert weights(training.model) == start and all(record["even_share"] == 1.0 for record in numbers)


def test_rewards_make_likelier_what_earns_them(monkeypatch):
    # abstaining is all that pays
    monkeypatch.setitem(REWARDS, "gated", lambda trace, reference, settings: {"abstained": float(trace.abstained)})
    training = make_training(settings=replace(SETTINGS, gold_steps=0, group_size=6, num_steps=12), kl=0.0)
    numbers = learn(training, 12, rate=3e-2)
    first, last = (sum(record["reward_mean"] for record in part) / 3 for part in (numbers[:3], numbers[-3:]))
    assert last > first + 0.2, f"{first:.2f} -> {last:.2f}"


def test_sequences_of_a_step_have_their_kinds(plain):
    training = make_training()
    learn(training, 1)
    kinds = {item.kind for item in training._now.sequences}
    assert kinds == {GOLD, POLICY}, "gold episodes in the first step, nothing to guard yet"
    training.guard.add(*[(one.ids, [int(place in one.masks) for place in range(len(one.ids))], [-0.1])
                         for one in training._now.sequences if one.kind == POLICY][0])
    training.batches(1, 0)
    assert {item.kind for item in training._now.sequences} == {GUARD, POLICY}


def test_gold_episodes_are_what_the_grammar_allows(plain):
    drawn = make_source().draw("x", 6)
    training = make_training()
    gold = [training._gold(drawn.gold(question, random.Random(0))) for question in drawn.questions]
    assert sum(one is not None for one in gold) >= 4
    assert all(bool(mask[one.ids[place]]) for one in gold if one for place, mask in one.masks.items())


def test_episodes_that_were_cut_teach_nothing_and_are_counted(monkeypatch):
    training = make_training(settings=replace(SETTINGS, max_answer_tokens=2, gold_steps=0))
    numbers = learn(training, 1)
    assert numbers[0]["cut_share"] > 0
    cut = {id(trace) for group in training._now.groups for trace in group.traces if trace.is_truncated}
    assert not any(id(trace) in cut for trace in training._now.traces if trace is not None)


def test_more_questions_are_asked_where_most_teach_nothing(monkeypatch):
    calls = []
    real = policy_training.roll_out

    def even(*args, **options):
        groups = real(*args, **options)
        calls.append(len(groups))
        return [replace(group, scores=[Score(0.0, {})] * len(group.scores)) for group in groups]

    monkeypatch.setattr(policy_training, "roll_out", even)
    learn(make_training(settings=replace(SETTINGS, gold_steps=0)), 1)
    assert calls == [4, 4, 4]


def test_a_leak_is_seen_in_the_ids_themselves(plain):
    training = plain[0]
    tokenizer, item = training.tokenizer, next(item for item in training._now.sequences if item.kind == POLICY)
    assert leaked_places(item.ids, item.masks, tokenizer) == []
    inside = item.ids.index(tokenizer.special("results_start")) + 2
    assert leaked_places(item.ids, [*item.masks, inside], tokenizer) == [inside]
    assert leaked_places(item.ids, [0], tokenizer) == [0]


def test_a_leak_pauses_the_training(monkeypatch):
    real = policy_training.walk_masks

    def leaking(engine, ids, mask, *args):
        wrong = list(mask)
        place = list(ids).index(make_tokenizer().special("results_start")) + 2
        wrong[place] = 1
        return real(engine, ids, wrong, *args)

    monkeypatch.setattr(policy_training, "walk_masks", leaking)
    said = []
    training = make_training(mode="act", said=said)
    learn(training, 1)
    assert training.control.paused.startswith("tokens_leak") and "tokens_leak" in said[0]


def test_a_reward_that_is_no_number_ends_the_run(monkeypatch):
    monkeypatch.setitem(REWARDS, "gated", lambda trace, reference, settings: {"answer": float("nan")})
    with pytest.raises(UserError, match="The reward gated gave nan"):
        learn(make_training(), 1)


class FailingSource:
    """Its search fails at the second step."""

    def __init__(self):
        self.source, self.num_drawn = make_source(), 0

    def draw(self, key, count):
        self.num_drawn += 1
        drawn = self.source.draw(key, count)
        if self.num_drawn == 1:
            return drawn

        def search(queries, top_k):
            raise UserError("The index is gone", hint="build it again")

        return Drawn(questions=drawn.questions, search=search, gold=drawn.gold)


def test_a_search_that_fails_in_the_middle_ends_the_run_cleanly():
    training, saved = make_training(source=FailingSource()), []
    with pytest.raises(UserError) as raised:
        learn(training, 3, save=lambda step, progress: saved.append(step))
    assert "The index is gone" in str(raised.value.__cause__ or raised.value)
    assert saved == [1] and training.model.training, "the first step is saved, and the model is as it was"


def test_logged_episodes_can_be_replayed(tmp_path):
    log = EpisodeLog(tmp_path / "log.jsonl", make_tokenizer())
    learn(make_training(log=log), 2)
    records = read_episodes(log.path)
    assert [(record["step"], record["number"]) for record in records] == [(s, n) for s in (1, 2) for n in (0, 1, 2)]
    for record in records:
        assert record["reward"] == pytest.approx(sum(record["parts"].values()))
        assert {one["place"] for one in record["chosen"]} == {at for at, m in enumerate(record["trace"]["mask"]) if m}
        assert any("decides to" in line or "must answer" in line for line in lines(record))
    # a run that goes on after step 1 drops what came later
    assert len(list(open(EpisodeLog(log.path, make_tokenizer(), start_step=1).path))) == 3


def test_several_updates_use_the_same_episodes_and_leave_them_when_the_policy_has_drifted(monkeypatch):
    calls = []
    real = rollout.run_episodes
    monkeypatch.setattr(rollout, "run_episodes", lambda *a, **k: calls.append(1) or real(*a, **k))
    settings = replace(SETTINGS, updates=2, gold_steps=0)
    learn(make_training(settings=settings), 4, rate=1e-5)
    assert len(calls) == 2
    calls.clear()
    monkeypatch.setattr(policy_training, "MAX_UPDATES_KL", -1.0)
    learn(make_training(settings=settings), 4, rate=1e-5)
    assert len(calls) == 4


def test_worlds_are_as_fresh_as_their_keys():
    source = make_source()
    one, same, other = (source.draw(key, 5) for key in ("a", "a", "b"))
    assert [q["id"] for q in one.questions] == [q["id"] for q in same.questions] != [q["id"] for q in other.questions]
    assert make_world(50).traces.by_hops.keys() == {1, 2} and torch.is_tensor(make_model().embed.weight)
