"""Rewards: what each of 100 hand-labelled episodes is worth, and laws that hold for every combination."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.errors import ConfigError, UserError
from nanochat.refrag.rewards import REWARDS, RewardSettings, is_right, score
from nanochat.refrag.trace import Hop, Reference, Trace

EPISODES = [json.loads(line) for line in
            (Path(__file__).parent / "data" / "refrag_episodes.jsonl").read_text(encoding="utf-8").splitlines()]
GATED = RewardSettings()


def make_trace(shown, said, cited=(), *, valid=True, repeated=0, content=None, token_ids=()):
    """shown: ids of documents per search. said None: it abstains."""
    documents = [{"id": id, "title": id, "content": (content or {}).get(id, f"about {id}")}
                 for id in dict.fromkeys(itertools.chain(*shown))]
    by_id = {document["id"]: document for document in documents}
    slots = {document["id"]: slot for slot, document in enumerate(documents)}
    hops = [Hop(hop=n, query=f"query {n}", documents=[by_id[id] for id in ids]) for n, ids in enumerate(shown, 1)]
    return Trace(question="?", hops=hops, answer=said or "", citations=[slots[id] for id in cited],
                 documents=documents, abstained=said is None, is_valid=valid, num_repeated=repeated,
                 token_ids=token_ids)


@pytest.mark.parametrize("number", range(len(EPISODES)))
def test_the_reward_of_an_episode_that_a_person_judged(number):
    episode = EPISODES[number]
    reference = Reference.of(episode)
    trace = make_trace(episode["shown"], episode["said"], episode["cited"], valid=episode["valid"],
                       repeated=episode["repeated"])
    given = score(trace, reference, GATED)
    assert given.total == pytest.approx(episode["reward"], abs=1e-5), f"{episode} earned {given}"
    assert is_right(trace, reference) == (episode["outcome"] == "right")


def test_there_are_a_hundred_judged_episodes_of_each_kind():
    assert len(EPISODES) == 100
    assert min(sum(one["outcome"] == name for one in EPISODES) for name in ("right", "wrong")) >= 40
    assert {one["hops"] for one in EPISODES} == {1, 2, 3, 4}


def every_trace(said, *, valid=True):
    """Everything that may be searched and cited on the way."""
    searches = ([["a"]], [["b"]], [[]], [["a", "b"]], [["a"], ["b"]], [["c"]] * 6, [["a"], ["b"]] + [[]] * 30)
    for shown, repeated in itertools.product(searches, (0, 1, 30)):
        ids = list(dict.fromkeys(itertools.chain(*shown)))
        for cited in ((), ids[:1], ids):
            yield make_trace(shown, said, cited, valid=valid, repeated=repeated)


@pytest.mark.parametrize("threshold", [0.01, 0.1, 1 / 3, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_right_is_worth_more_than_abstaining_and_that_more_than_wrong(threshold, scale):
    settings = replace(GATED, answer_threshold=threshold, evidence_scale=scale)
    for abstain_reward in (0.05, 0.5):
        settings = replace(settings, abstain_reward=abstain_reward)
        for support, hops in ((("a",), 1), (("a", "b"), 2), ((), 1)):
            known, unknown = (Reference(answers=answers, supporting_ids=support, num_hops=hops)
                              for answers in (("yes",), ()))
            earned = {name: [score(trace, reference, settings).total for trace in every_trace(said, valid=valid)]
                      for name, reference, said, valid in (
                          ("right", known, "yes", True), ("abstained", known, None, True),
                          ("wrong", known, "no", True), ("honest", unknown, None, True),
                          ("made up", unknown, "no", True), ("broken", known, "yes", False))}
            assert min(earned["right"]) > max(earned["abstained"]) and min(earned["abstained"]) > max(earned["wrong"])
            assert min(earned["honest"]) > max(earned["made up"])
            assert max(earned["broken"]) <= min(earned["wrong"] + earned["made up"]) + 1e-12
            flat = [value for values in earned.values() for value in values]
            assert -1.0 <= min(flat) and max(flat) <= 1.0 + 1e-12


@pytest.mark.parametrize("said", ["yes", "no", None])
@pytest.mark.parametrize("answers", [("yes",), ()])
def test_a_search_that_finds_no_new_evidence_never_raises_the_reward(said, answers):
    reference = Reference(answers=answers, supporting_ids=("a", "b"), num_hops=2)
    for shown in ([["a"]], [["a"], ["b"]], [["c"]]):
        before = score(make_trace(shown, said), reference, GATED).total
        for more, repeated in (([["d"]], 0), ([[]], 1), ([["d"], ["e"]], 0)):
            assert score(make_trace(shown + more, said, repeated=repeated), reference, GATED).total <= before


@pytest.mark.parametrize("padding", [" indeed", " or no", " yes", " in 1931", ", of course", " ..."])
def test_more_words_never_raise_the_reward(padding):
    for answers in (("yes",), ("no",), ()):
        reference = Reference(answers=answers, supporting_ids=("a",))
        plain, padded = (score(make_trace([["a"]], said, ["a"]), reference, GATED).total
                         for said in ("yes", "yes" + padding))
        assert padded <= plain


def test_answering_pays_from_the_threshold_on():
    for threshold in (0.2, 1 / 3, 0.5, 0.8):
        settings = replace(GATED, answer_threshold=threshold, evidence_scale=0.0)
        reference = Reference(answers=("yes",), supporting_ids=("a",))
        right, wrong, silent = (score(make_trace([["a"]], said, cited), reference, settings).total
                                for said, cited in (("yes", ["a"]), ("no", ["a"]), (None, [])))
        at = (silent - wrong) / (right - wrong)
        assert at == pytest.approx(threshold)


def test_the_parts_add_up_and_tell_what_was_lost():
    reference = Reference(answers=("yes",), supporting_ids=("a",))
    given = score(make_trace([["a"], ["b"]], "yes", ["b"]), reference, GATED)
    assert given.parts == {"answer": 1.0, "citations": -0.2, "searches": -0.02} and given.total == pytest.approx(0.78)


# what the weighted sum gave to episodes of a single search
GOLD = "returns are accepted within thirty days of purchase"
LEGACY = [
    ("something else", ["good"], 0.39), ("something else", [], 0.10), ("something else", ["bad"] * 5, 0.05),
    (GOLD, [], 0.70), (GOLD, ["good"] * 5, 0.95), (" ".join(sorted(GOLD.split())), ["good"], 0.99),
]


@pytest.mark.parametrize(("said", "kinds", "reward"), LEGACY)
def test_the_weighted_sum_pays_for_wrong_answers(said, kinds, reward):
    ids = [f"{kind}{number}" for number, kind in enumerate(kinds)]
    content = {id: f"we say {GOLD} and more" if id.startswith("good") else "weather" for id in ids}
    trace = make_trace([ids], said, content=content)
    given = score(trace, Reference(answers=(GOLD,)), RewardSettings(mode="legacy"))
    assert given.total == pytest.approx(reward)


def test_the_weighted_sum_hardly_minds_a_negation_and_minds_politeness():
    settings, reference = RewardSettings(mode="legacy"), Reference(answers=("returns are accepted for thirty days",))
    trace = make_trace([["good"]], "returns are not accepted for thirty days",
                       content={"good": "returns are accepted for thirty days"})
    assert score(trace, reference, settings).total > 0.9
    polite = make_trace([[]], "Of course, I am happy to tell you: returns are accepted for thirty days")
    assert score(polite, reference, settings).total < 0.39, "less than a wrong answer with a good document"
    gated = replace(settings, mode="gated")
    assert score(trace, reference, gated).total < 0 and score(polite, reference, gated).total < 0


def test_weights_change_the_weighted_sum():
    trace, reference = make_trace([["good"]], GOLD, content={"good": GOLD}), Reference(answers=(GOLD,))
    assert score(trace, reference, RewardSettings(mode="legacy", weights=(1.0, 0.0, 0.0))).total == 1.0


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_is_a_number_and_the_same_each_time(name):
    settings = RewardSettings(mode=name)
    for said, shown, answers in itertools.product(("yes", None, ""), ([], [[]], [["a"]]), (("yes",), ())):
        trace, reference = make_trace(shown, said, token_ids=(1, 2, 3)), Reference(answers=answers)
        first = score(trace, reference, settings)
        assert math.isfinite(first.total) and first == score(trace, reference, settings)
        assert first.total == pytest.approx(sum(first.parts.values())) and -1 <= first.total <= 1


def test_controls_know_nothing_of_the_answer():
    reference = Reference(answers=("yes",))
    one, other = (make_trace([["a"]], said, token_ids=(1, 2)) for said in ("yes", "no"))
    for mode in ("random", "constant"):
        settings = RewardSettings(mode=mode)
        assert score(one, reference, settings) == score(other, reference, settings)
    tokens = [make_trace([["a"]], "yes", token_ids=(n,)) for n in range(200)]
    drawn = [score(trace, reference, RewardSettings(mode="random")).total for trace in tokens]
    assert len(set(drawn)) == 200 and abs(sum(drawn) / 200) < 0.15


@pytest.mark.parametrize(("settings", "message"), [
    ({"mode": "gatde"}, "Reward mode 'gatde' is not known"),
    ({"answer_threshold": 0.0}, "--answer_threshold is 0.0"), ({"answer_threshold": 1.0}, "--answer_threshold is 1.0"),
    ({"weights": (0.6, float("nan"), 0.1)}, "--reward_weights are 0.6, nan, 0.1"),
    ({"weights": (0.6, 0.4)}, "must be three numbers"), ({"abstain_reward": 0.0}, "abstain_reward is 0.0"),
    ({"abstain_reward": 0.9}, "abstain_reward is 0.9"),
])
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RewardSettings(**settings)


def test_a_reward_that_is_no_number_stops_with_a_sentence(monkeypatch):
    monkeypatch.setitem(REWARDS, "gated", lambda trace, reference, settings: {"answer": math.nan})
    with pytest.raises(UserError, match="The reward gated gave nan as answer for the question"):
        score(make_trace([["a"]], "yes"), Reference(answers=("yes",)), GATED)


def test_a_trace_survives_the_log():
    trace = make_trace([["a"], ["b"]], "yes", ["b"], token_ids=(1, 2, 3))
    line = json.dumps(trace.to_dict())
    assert json.dumps(Trace.from_dict(json.loads(line)).to_dict()) == line
