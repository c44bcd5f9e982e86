"""Monitors: every signal sounds on what it is for and stays silent on a healthy run; and what alarms do."""

import math

import pytest

from nanochat.refrag.control import WORDS, Control
from nanochat.refrag.monitors import RECENT, SIGNALS, WAIT, History, Monitors
from nanochat.refrag.policy_loss import LossSettings

HEALTHY = {
    "reward_mean": 0.5, "reward_std": 0.3, "even_share": 0.4, "right_share": 0.6, "valid_share": 1.0, "cut_share": 0.0,
    "abstains_answerable": 0.1, "answers_unanswerable": 0.1, "searches_over": 0.1, "logprob_gap": 1e-5,
    "logprob_limit": 0.01, "entropy_decision": 0.3, "likelihood_fall": 0.0, "leaked_tokens": 0.0, "kl": 0.1,
    "grad_norm": 1.0, "right_over_wrong": 1.2, "right_over_abstained": 0.9,
}
DEV = {"dev_accuracy": 0.8}

# signal -> numbers of the updates after ten healthy ones, and evaluations
FAULTS = {
    "tokens_leak": ([{"leaked_tokens": 3.0}], []),
    "probabilities_differ": ([{"logprob_gap": 0.05}], []),
    "reward_is_upside_down": ([{"right_over_wrong": -0.2}] * 3, []),
    "abstaining_pays": ([{"right_over_abstained": 0.0}] * 3, []),
    "rewards_collapse": ([{"reward_std": 0.05, "abstains_answerable": 0.21}] * 10, []),
    "format_breaks": ([{"valid_share": 0.9}] * 5, []),
    "dev_falls": ([{}], [0.8, 0.74, 0.75]),
    "abstaining_spreads": ([{"abstains_answerable": 0.3}] * 10, []),
    "guessing_spreads": ([{"answers_unanswerable": 0.3}] * 10, []),
    "policy_drifts": ([{"kl": 2.5}] * 5, []),
    "likelihood_falls": ([{"likelihood_fall": 0.2}] * 10, []),
    "gradients_spike": ([{"grad_norm": 9.0}, {}, {"grad_norm": 9.0}, {}, {"grad_norm": 9.0}], []),
    "decisions_freeze": ([{"entropy_decision": 0.01}] * 10, [0.8, 0.8]),
    "rewards_are_even": ([{"even_share": 0.95}] * 10, []),
    "episodes_are_cut": ([{"cut_share": 0.2}] * 5, []),
    "searches_grow": ([{"searches_over": 0.9}] * 10, []),
}


def feed(monitors, updates, devs=()):
    """Ten healthy updates, then these; the names of the alarms, in order of time."""
    names, step = [], 0
    for value in devs or [0.8]:
        names += monitors.evaluated(step, {"dev_accuracy": value})
    for numbers in [{}] * RECENT + list(updates):
        step += 1
        names += monitors.update(step, HEALTHY | numbers)
    return [alarm.signal for alarm in names]


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal_sounds_on_what_it_is_for(name):
    updates, devs = FAULTS[name]
    sounded = feed(Monitors(), updates, devs)
    assert name in sounded, f"{name} is silent; heard {sounded}"
    # what was not provoked is silent; abstaining spreads together with a collapse
    assert set(sounded) - {name} <= ({"abstaining_spreads"} if name == "rewards_collapse" else set())


def test_a_healthy_run_is_silent():
    updates = [{"reward_std": 0.3 - 0.001 * n, "kl": 0.1 + 0.005 * n, "grad_norm": 1 + 0.3 * math.sin(n),
                "abstains_answerable": 0.1 + 0.02 * math.cos(n)} for n in range(100)]
    assert feed(Monitors(), updates) == []


def test_a_smaller_spread_alone_is_no_alarm():
    # a policy that gets better has fewer different rewards, too
    assert feed(Monitors(), [{"reward_std": 0.05}] * 20, [0.8, 0.85]) == []


def test_what_chance_explains_is_no_alarm():
    # few questions of an update have no answer, so that their share jumps about
    noisy = [0.0, 0.75, 0.25, 1.0, 0.5, 0.0, 0.25, 0.75, 0.5, 0.25]
    monitors, step = Monitors(), 0
    for share in [*noisy, *(min(1.0, value + 0.2) for value in noisy)]:
        step += 1
        assert monitors.update(step, HEALTHY | {"answers_unanswerable": share}) == []
    for _ in range(10):
        step += 1
        found = monitors.update(step, HEALTHY | {"answers_unanswerable": 1.0})
    assert found or monitors.sounded["guessing_spreads"]


@pytest.mark.parametrize(("name", "signal"), [("dev_abstains", "abstaining_spreads"),
                                              ("dev_guesses", "guessing_spreads")])
def test_the_development_set_tells_it_at_once(name, signal):
    monitors = Monitors()
    assert monitors.evaluated(0, DEV | {name: 0.1}) == [] == monitors.evaluated(5, DEV | {name: 0.2})
    assert [alarm.signal for alarm in monitors.evaluated(10, DEV | {name: 0.3})] == [signal]


def test_numbers_that_are_missing_are_no_alarm():
    missing = dict.fromkeys(HEALTHY, math.nan)
    monitors = Monitors()
    assert [alarm for step in range(30) for alarm in monitors.update(step, missing)] == []
    assert feed(monitors, [{}] * 3) == []


def test_an_alarm_waits_and_then_asks_for_more():
    monitors = Monitors()
    alarms = [alarm for step in range(60) for alarm in
              monitors.update(step, HEALTHY | ({"kl": 3.0} if step >= RECENT else {}))]
    steps = [alarm.step for alarm in alarms]
    assert [alarm.action for alarm in alarms][:3] == ["raise_kl", "roll_back", "pause"]
    assert all(later - earlier >= WAIT for earlier, later in zip(steps, steps[1:], strict=False))


def make_control(mode="act"):
    said, rolled = [], []
    control = Control(LossSettings(kl=0.02, guard=1.0), mode=mode, say=said.append,
                      roll_back=lambda: rolled.append("back"))
    return control, said, rolled


def sound(control, name):
    updates, devs = FAULTS[name]
    step = 0
    for value in devs or [0.8]:
        control.evaluated(step, {"dev_accuracy": value})
    for numbers in [{}] * RECENT + list(updates):
        step += 1
        control.update(step, HEALTHY | numbers)


@pytest.mark.parametrize(("name", "changed"), [
    ("policy_drifts", {"kl": 0.04}), ("likelihood_falls", {"guard": 2.0}), ("gradients_spike", {"rate": 0.5}),
    ("format_breaks", {"rate": 0.5, "rolled": 1}), ("tokens_leak", {"paused": True}), ("rewards_are_even", {}),
])
def test_alarms_act_and_say_so_in_one_line(name, changed):
    control, said, rolled = make_control()
    sound(control, name)
    now = {"kl": control.loss.kl, "guard": control.loss.guard, "rate": control.rate, "rolled": len(rolled),
           "paused": bool(control.paused)}
    assert now == {"kl": 0.02, "guard": 1.0, "rate": 1.0, "rolled": 0, "paused": False} | changed
    assert len(said) == 1 and said[0].startswith("Alarm at step ") and f", {name}: " in said[0] and "\n" not in said[0]


def test_say_only_says_and_off_does_not_look():
    control, said, rolled = make_control("say")
    sound(control, "format_breaks")
    assert said and "with --monitors act" in said[0] and not rolled and control.rate == 1.0
    control, said, _ = make_control("off")
    sound(control, "tokens_leak")
    assert not said and not control.paused and not control.monitors.history.updates


def test_after_a_roll_back_the_past_is_not_held_against_the_weights():
    control, said, rolled = make_control()
    sound(control, "dev_falls")
    assert len(rolled) == 1 and control.monitors.history.dev("dev_accuracy") == [0.8]
    for step in range(20, 40):
        control.update(step, HEALTHY)
    assert len(rolled) == 1 and len(said) == 1


def test_what_monitors_know_goes_through_checkpoints():
    control, _, _ = make_control()
    sound(control, "policy_drifts")
    other, said, _ = make_control()
    other.restore(control.record())
    assert other.record() == control.record() and other.loss.kl == 0.04 and other.num_alarms == 1 and not said


def test_a_weight_that_is_lowered_when_a_run_goes_on_is_lower_as_often_as_alarms_doubled_it():
    control, _, _ = make_control()
    sound(control, "likelihood_falls")
    assert control.loss.guard == 2.0
    for given, now in ((0.25, 0.5), (0.0, 1.0)):
        other = Control(LossSettings(kl=0.02, guard=given), say=print)
        other.restore(control.record())
        assert other.loss.guard == now and other.loss.kl == 0.02


def test_outcomes_that_only_some_updates_tell_are_looked_at_all_the_same():
    told = ("valid_share", "abstains_answerable")
    monitors, step, names = Monitors(), 0, []
    for number in range(4 * 2 * RECENT):
        numbers = HEALTHY | ({"valid_share": 0.8} if number >= 4 * RECENT else {})
        step += 1
        # three updates of four use the episodes of the one before
        names += monitors.update(step, numbers if number % 4 == 0 else numbers | dict.fromkeys(told, math.nan))
    assert [alarm.signal for alarm in names][:1] == ["format_breaks"]


def test_every_action_has_words():
    assert {action for signal in SIGNALS.values() for action in signal.actions} <= set(WORDS)
    assert History().mean("kl") != History().mean("kl"), "nan where nothing is known"
