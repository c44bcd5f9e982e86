"""Advantages: each algorithm against values worked out by hand, and what all of them have in common."""

import pytest

from nanochat.refrag.advantages import RL_ALGORITHMS, Critic, is_even, piece_advantages


def advantages(name, groups, *, pieces=1, critic=None):
    counts = [[pieces] * len(group) for group in groups]
    found = piece_advantages(RL_ALGORITHMS[name], groups, counts, critic or Critic())
    return [[episode[0] for episode in group] for group in found]


def test_leave_one_out_compares_with_the_others_and_divides_by_nothing():
    assert advantages("rloo", [[1.0, 0.0, 0.0]]) == [[pytest.approx(1.0), pytest.approx(-0.5), pytest.approx(-0.5)]]
    wide, narrow = advantages("rloo", [[1.0, 0.0], [0.1, 0.0]])
    assert wide[0] == pytest.approx(10 * narrow[0]), "a small difference stays small"


def test_grpo_divides_by_the_spread_of_the_group_and_dr_grpo_does_not():
    wide, narrow = advantages("grpo", [[1.0, 0.0], [0.1, 0.0]])
    assert wide[0] == pytest.approx(1.0, abs=0.01) and narrow[0] == pytest.approx(1.0, abs=0.01)
    wide, narrow = advantages("dr_grpo", [[1.0, 0.0], [0.1, 0.0]])
    assert wide == [pytest.approx(0.5), pytest.approx(-0.5)] and narrow[0] == pytest.approx(0.05)
    assert {RL_ALGORITHMS[name].weighting for name in ("rloo", "grpo", "dr_grpo")} == {"token", "sequence", "constant"}


def test_reinforce_compares_with_the_running_mean_and_needs_no_group():
    critic = Critic(keep=0.5)
    assert advantages("reinforce", [[1.0], [0.0]], critic=critic) == [[0.5], [-0.5]]
    assert advantages("reinforce", [[1.0], [1.0]], critic=critic) == [[0.5], [0.5]], "the mean before this batch"
    assert critic.value() == 0.75


def test_ppo_asks_a_critic_that_knows_the_search_and_scales():
    critic = Critic()
    # one episode answers at once and is right, one searches twice more and is wrong
    found = piece_advantages(RL_ALGORITHMS["ppo"], [[1.0, 0.0]], [[1, 3]], critic)
    assert critic.value(0) == 0.5 and critic.value(2) == 0.0
    assert [len(episode) for episode in found[0]] == [1, 3]
    assert found[0][0][0] > 0 > found[0][1][0] and found[0][1][2] == 0.0, "there, nobody earned more"
    assert RL_ALGORITHMS["ppo"].updates == 2


def test_raft_keeps_what_is_above_the_mean():
    assert advantages("raft", [[1.0, 0.4, 0.0, 0.9], [0.3, 0.3]]) == [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0]]
    assert RL_ALGORITHMS["raft"].is_supervised


@pytest.mark.parametrize("name", RL_ALGORITHMS)
def test_even_groups_teach_nothing_where_groups_are_compared(name):
    found = advantages(name, [[0.4, 0.4, 0.4], [1.0, 0.0, 0.0]])
    assert (found[0] == [0.0, 0.0, 0.0]) == RL_ALGORITHMS[name].compares
    assert is_even([0.1 + 0.2, 0.3]) and not is_even([0.0, 0.02])


@pytest.mark.parametrize("name", RL_ALGORITHMS)
def test_better_episodes_never_get_less(name):
    for rewards in ([1.0, -0.5, 0.0, 0.93], [-1.0, -0.3, -0.5]):
        found = advantages(name, [rewards])[0]
        ranked = [value for _, value in sorted(zip(rewards, found, strict=True))]
        assert ranked == sorted(ranked) and ranked[0] < ranked[-1]


def test_an_outlier_is_cut_at_three_deviations_of_the_batch():
    groups = [[1.0, 0.0]] * 40 + [[-60.0, 0.0]]
    found = [value for group in advantages("rloo", groups) for value in group]
    uncut = [2 * (reward - sum(group) / 2) for group in groups for reward in group]
    sigma = (sum(value * value for value in uncut) / len(uncut)) ** 0.5
    assert min(found) == pytest.approx(-3 * sigma) and min(uncut) == -60 and found[0] == 1.0


def test_a_critic_goes_on_where_it_was_recorded():
    critic, other = Critic(), Critic()
    advantages("ppo", [[1.0, 0.0]], pieces=2, critic=critic)
    other.restore(critic.record())
    assert other.means == critic.means
