"""Measuring a policy: what is counted, the gate before rewards, and where its questions come from."""

import math
import random

import pytest
from refrag_stubs import DRAWS, HOPS, make_model, make_source, make_tokenizer, make_world
from test_refrag_rewards import make_trace

from nanochat.engine import Engine
from nanochat.refrag import measuring
from nanochat.refrag.audit import OUTCOMES, Tally, tally_groups
from nanochat.refrag.measuring import GATE, QuestionSet, gate, measure
from nanochat.refrag.rewards import RewardSettings, score
from nanochat.refrag.rollout import Group
from nanochat.refrag.sources import MixedSource, PoolSource
from nanochat.refrag.trace import Reference

REWARDS = RewardSettings()
KNOWN = {"question": "?", "answers": ["yes"], "supporting_ids": ["a", "b"], "hops": 2, "kind": "answerable"}
UNKNOWN = {"question": "?", "answers": [], "supporting_ids": [], "hops": 2, "searches": 1, "kind": "absent_entity"}
FOUND = [["a"], ["b"]]


def make_group(question, *traces):
    reference = Reference.of(question)
    return Group(question=question, reference=reference, traces=traces,
                 scores=[score(trace, reference, REWARDS) for trace in traces])


def measured(monkeypatch, groups):
    """`measure`, with these groups instead of rollouts."""
    monkeypatch.setattr(measuring, "roll_out", lambda *args, **options: groups)
    engine = Engine(make_model(), make_tokenizer())
    return measure(engine, [QuestionSet(questions=[], search=None)], HOPS, rewards=REWARDS, max_tokens=8)


def test_the_searches_that_a_question_takes_are_not_its_length():
    assert Reference.of(UNKNOWN).num_hops == 1 and Reference.of(KNOWN).num_hops == 2


def test_what_is_counted(monkeypatch):
    found = measured(monkeypatch, [
        make_group(KNOWN, make_trace(FOUND, "yes", ["a", "b"])), make_group(KNOWN, make_trace(FOUND, "no")),
        make_group(KNOWN, make_trace([["a"]], "no")), make_group(KNOWN, make_trace([["a"]], None)),
        make_group(UNKNOWN, make_trace([["c"]], None)), make_group(UNKNOWN, make_trace([["c"]], "no")),
        make_group(KNOWN, make_trace(FOUND, "yes", ["a", "b"], repeated=1)),
    ])
    wanted = {"accuracy": 3 / 7, "em": 2 / 5, "em_2": 2 / 5, "em_with_evidence": 2 / 3, "precision": 2 / 5,
              "evidence": 4 / 5, "all_evidence": 3 / 5, "abstain_precision": 1 / 2, "abstain_recall": 1 / 2,
              "abstain_f1": 1 / 2, "complete": 1.0, "valid": 6 / 7, "searches": 10 / 7, "searches_over": -2 / 7}
    assert {name: found[f"dev_{name}"] for name in wanted} == pytest.approx(wanted)
    assert math.isnan(found["dev_em_1"]), "no question of one hop"


def test_who_never_abstains_where_it_is_due_has_an_f1_of_zero(monkeypatch):
    found = measured(monkeypatch, [make_group(UNKNOWN, make_trace([["c"]], "no"))])
    assert found["dev_abstain_f1"] == 0.0
    assert math.isnan(measured(monkeypatch, [make_group(KNOWN, make_trace(FOUND, "yes"))])["dev_abstain_f1"])


def test_the_numbers_that_monitors_watch():
    tally = Tally()
    tally_groups([make_group(KNOWN, make_trace(FOUND, "yes", ["a", "b"]), make_trace([["a"]], "no"),
                             make_trace([["a"]], None)),
                  make_group(UNKNOWN, make_trace([["c"]], None), make_trace([["c"]], None))], tally)
    found = tally.means(OUTCOMES)
    wanted = {"even_share": 1 / 2, "right_share": 3 / 5, "abstains_answerable": 1 / 3, "answers_unanswerable": 0.0,
              "right_over_wrong": 1.0 + 0.4, "right_over_abstained": 1.0, "searches": 6 / 5, "valid_share": 1.0,
              "evidence_recall": 2 / 3, "cut_share": 0.0, "distinct_queries": 1.0}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert math.isnan(Tally().means(["reward_mean"])["reward_mean"])


def rolled(monkeypatch, share, even):
    """`gate` with this share of right episodes per question of ten, eight each; `even`: all of a question alike."""
    def roll_out(engine, questions, search, hops, *, group_size, **options):
        right, wrong = make_trace(FOUND, "yes", ["a", "b"]), make_trace(FOUND, "no")
        if group_size == 1:
            return [make_group(KNOWN, right) for _ in range(10)]
        if even:
            return [make_group(KNOWN, *[right if n < 10 * share else wrong] * 8) for n in range(10)]
        return [make_group(KNOWN, *[right if n < 8 * share else wrong for n in range(8)]) for _ in range(10)]

    monkeypatch.setattr(measuring, "roll_out", roll_out)
    engine = Engine(make_model(), make_tokenizer())
    return gate(engine, [QuestionSet(questions=[], search=None)], HOPS, rewards=REWARDS, max_tokens=8)


def test_the_gate_opens_where_episodes_differ_and_is_shut_where_they_do_not(monkeypatch):
    numbers, missed = rolled(monkeypatch, 0.5, even=False)
    assert missed == [] and numbers["gain"] == pytest.approx(0.5) and numbers["even_share"] == 0.0
    numbers, missed = rolled(monkeypatch, 0.5, even=True)
    assert numbers["even_share"] == 1.0 and len(missed) == 2
    assert "questions whose episodes all earn the same: 1.00, at most 0.70 is needed" in missed
    assert {name for name, *_ in GATE} <= numbers.keys()


def test_a_model_is_measured_as_it_is_and_left_as_it_was():
    engine = Engine(make_model().train(), make_tokenizer())
    drawn = PoolSource(make_world(50).traces, DRAWS).draw("x", 6)
    parts = [QuestionSet(questions=drawn.questions, search=drawn.search)]
    one, other = (measure(engine, parts, HOPS, rewards=REWARDS, max_tokens=8) for _ in range(2))
    assert engine.model.training and one.keys() == other.keys()
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one.values(), other.values(), strict=True))


def test_questions_are_of_all_lengths_and_some_have_no_answer():
    drawn = make_source().draw("x", 12)
    assert {question["hops"] for question in drawn.questions} == {1, 2}
    assert 0 < sum(not question["answers"] for question in drawn.questions) < 8
    assert len({question["id"] for question in drawn.questions}) == len(drawn.questions)
    hits = drawn.search([drawn.questions[0]["question"]], 2)
    assert len(hits[0]) == 2 and {"id", "title", "content"} <= hits[0][0].keys()


def test_a_mixture_draws_from_each_by_weight():
    one, other = (PoolSource(make_world(seed).traces, DRAWS) for seed in (50, 51))
    keys = [f"k{n}" for n in range(60)]
    ids = [MixedSource([one, other], [0.75, 0.25]).draw(key, 1).questions[0]["id"] for key in keys]
    share = sum(id.startswith("w50-") for id in ids) / len(ids)
    assert 0.6 < share < 0.9


def test_questions_that_nobody_has_solved_have_no_gold_episode():
    source = PoolSource(make_world(50).traces, DRAWS)
    drawn = source.draw("x", 4)
    assert drawn.gold(drawn.questions[0], random.Random(0))["messages"]
    assert drawn.gold({**KNOWN, "hops": 2}, random.Random(0)) is None
