"""Plans of traces: what is searched again, what has no room, bounds that cannot be; and worlds that find less."""

import random

import pytest

from nanochat.errors import ConfigError
from nanochat.refrag.planning import plan_of, queries_of, shortened, steps_of, with_detour
from nanochat.refrag.practice import ChainWorld
from nanochat.refrag.trace_config import TraceConfig

WORLD = ChainWorld(5)
CONFIG = TraceConfig()


@pytest.mark.parametrize(("query", "words"), [
    ("Who is the mayor of Torvik?", "mayor of Torvik"), ("Where was Velda Marsik born?", "Velda Marsik born"),
    ("What is Torvik's main export?", "Torvik's main export"), ("mayor of Torvik", ""), ("Who is it?", ""),
    ("Fill in the blank (Torvik): It was sold for 3.50 EUR in ____.", "Torvik): It was sold for 3.50 EUR in ____"),
    ("Name the designer of the Torvex Lamp.", "designer of the Torvex Lamp"),
    ("How many people live in Torvik?", "people live in Torvik"),
])
def test_a_search_in_vain_is_repeated_without_the_words_that_ask(query, words):
    assert shortened(query) == words


def test_a_plan_without_room_makes_no_detour_and_is_forced_to_end():
    question = next(q for q in WORLD.questions if q["hops"] == 3 and q["answers"])
    plan = plan_of(question, random.Random(0), CONFIG, is_removed=False)
    assert with_detour(plan, random.Random(0), CONFIG, ["Torvik"]) == plan and not plan.is_forced
    for seed in range(20):
        broken = plan_of(question, random.Random(seed), CONFIG, is_removed=True)
        assert not broken.is_answered and broken.hidden == steps_of(question)[broken.hops[-1].step]["document_id"]
        assert broken.is_forced == (broken.hops[-1].step == 2)


@pytest.mark.parametrize(("settings", "message"), [
    ({"max_hops": 0}, "max_hops is 0"), ({"top_k": 0}, "top_k 0"), ({"max_hops": 4, "top_k": 9}, "36 documents"),
    ({"absent_share": 1.2}, "absent_share is 1.2"), ({"lengths": ()}, "lengths are"),
    ({"min_followups": 3, "max_followups": 2}, "later questions 3 to 2"),
])
def test_bounds_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TraceConfig(**settings)


def test_a_noisy_world_finds_less_and_always_the_same():
    noisy = ChainWorld(5, noise=0.5)
    queries = [question["question"] for question in WORLD.questions if question["answers"]]
    clean, blurred = WORLD.positions(queries, 3), noisy.positions(queries, 3)
    same = sum(len(set(a) & set(b)) for a, b in zip(clean, blurred, strict=True)) / sum(map(len, clean))
    assert 0.4 < same < 0.6 and all(len(set(row)) == len(row) for row in blurred)
    assert noisy.positions(queries, 3) == blurred == ChainWorld(5, noise=0.5).positions(queries, 3)
    assert [[d["id"] for d in row] for row in noisy.search(queries[:3], 3)] == [
        [noisy.documents[position]["id"] for position in row] for row in blurred[:3]]


def test_a_question_of_one_hop_is_its_own_step_and_unknown_steps_are_none():
    plain = {"question": "Who?", "answers": ["Iva"], "supporting_ids": ["a"], "subject": "x"}
    assert steps_of(plain) == [{"query": "Who?", "subject": "x", "answer": "Iva", "document_id": "a"}]
    unanswerable = {"question": "Who?", "answers": [], "supporting_ids": []}
    assert steps_of(unanswerable) == [{"query": "Who?", "subject": "", "answer": "", "document_id": ""}]
    assert steps_of(plain | {"supporting_ids": ["a", "b"]}) == () == steps_of(plain | {"hops": 2})
    assert steps_of(plain | {"supporting_ids": []}) == ()


def test_a_later_query_begins_with_the_name_that_the_step_before_found():
    seen = 0
    for question in WORLD.questions:
        first, *later = queries_of(question)
        assert first == question["question"]
        for query, before, step in zip(later, question.get("steps", ()), question.get("steps", ())[1:], strict=False):
            assert query == f"{before['answer']}: {step['query']}" and before["answer"] in step["query"]
            seen += 1
    assert seen > 20
    # where nobody says which name it is, the query is as it was written
    steps = [{"query": "Who?", "subject": "", "answer": "Iva", "document_id": "a"},
             {"query": "And then?", "subject": "", "answer": "Rud", "document_id": "b"}]
    assert queries_of({"question": "Who?", "steps": steps}) == ["Who?", "And then?"]


def test_every_detour_has_another_query_and_one_search_more():
    kinds = set()
    for question in WORLD.questions:
        if question["hops"] < 3 and question["answers"]:
            rng = random.Random(question["id"])
            plan = plan_of(question, rng, CONFIG, is_removed=False)
            longer = with_detour(plan, rng, CONFIG, ["Torvik"])
            queries = [hop.query for hop in longer.hops]
            assert len(set(queries)) == len(queries) and queries[0] == question["question"]
            assert len(queries) == len(plan.hops) + (longer != plan)
            kinds.update(hop.is_supervised for hop in longer.hops if not hop.is_found)
    assert kinds == {True, False}
