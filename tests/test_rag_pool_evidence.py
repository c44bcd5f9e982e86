"""Documents that answer although they are not the evidence, contexts without any, and contradictions without room."""

import random

import pytest

from nanochat.rag.pool import ExampleConfig, Pool

GONE = ExampleConfig(max_documents=4, lookups=1, taken_away_share=1.0, random_share=0.0)
KEPT = ExampleConfig(max_documents=4, lookups=1, taken_away_share=0.0, random_share=0.0)
ABSTAINS = {"role": "assistant", "content": "", "abstain": True}


def numbered(count):
    return [{"id": f"d{i}", "title": f"Title {i}", "content": f"Content {i}."} for i in range(count)]


def asked(name, *supporting, answers=("red kite",), **more):
    record = {"id": name, "question": f"Is {name} so?", "answers": list(answers), "supporting_ids": list(supporting)}
    return record | more


def pool_of(documents, questions, ranking=range(6), **more):
    return Pool(documents, questions, lambda queries, top_k: [list(ranking)[:top_k] for _ in queries], **more)


def drawn(pool, config, count=40):
    """(ids of the documents shown, questions and the messages that answer them) of `count` conversations."""
    for seed in range(count):
        (conversation,) = pool.conversations(1, random.Random(seed), config)
        shown, *turns = conversation["messages"]
        yield ([one["id"] for one in shown["documents"]],
               {user["content"]: said for user, said in zip(turns[::2], turns[1::2], strict=True)})


@pytest.mark.parametrize("is_exact", [True, False])
@pytest.mark.parametrize("random_share", [0.0, 1.0])
@pytest.mark.parametrize("taken_away_share", [0.0, 1.0])
def test_a_document_that_answers_as_well_is_never_a_distractor(taken_away_share, random_share, is_exact):
    config = ExampleConfig(max_documents=4, lookups=1, taken_away_share=taken_away_share, random_share=random_share)
    pool = pool_of(numbered(7), [asked("q", "d1", also_ids=["d0", "d3"])], is_exact=is_exact)
    lengths = set()
    for shown, turns in drawn(pool, config):
        assert shown and not {"d0", "d3"} & set(shown) and ("d1" in shown) == (taken_away_share == 0)
        assert (turns["Is q so?"] == ABSTAINS) == (taken_away_share == 1)
        lengths.add(len(shown))
    assert lengths == {1, 2, 3, 4}, "others take the places of those that answer"


def test_no_later_question_is_an_abstention_while_a_document_that_answers_it_is_shown():
    questions = [asked("q", "d0", answers=["wood"]), asked("r", "d5", answers=["5 crowns"], also_ids=["d0"])]
    config = ExampleConfig(max_documents=6, lookups=4, unanswerable_share=0.9, taken_away_share=0.0)
    num_answered = 0
    for shown, turns in drawn(pool_of(numbered(7), questions, is_exact=True), config, 100):
        if "d0" in shown and "Is r so?" in turns:
            assert "d5" in shown and turns["Is r so?"]["content"] == "5 crowns"
            num_answered += 1
    assert num_answered > 5


@pytest.mark.parametrize("config", [GONE, KEPT])
@pytest.mark.parametrize("is_exact", [True, False])
def test_documents_that_hold_the_answer_are_no_distractors_unless_questions_name_all_that_answer(is_exact, config):
    documents = numbered(8)
    documents[2]["content"] = "Of birds, the RED-KITE is the rarest."
    documents[4]["title"] = "The milan"
    documents[3]["content"] = "The hundred kites are red, kited and milanese."
    question = asked("q", "d0", answers=["red kite", "Milan"])
    seen = {name for shown, _ in drawn(pool_of(documents, [question], is_exact=is_exact), config) for name in shown}
    assert ({"d2", "d4"} & seen == set()) == (not is_exact) and {"d1", "d3"} <= seen


def test_short_answers_stand_anywhere_by_chance_and_exclude_nothing():
    documents = [{**one, "content": f"No {one['content']}"} for one in numbered(8)]
    pool = pool_of(documents, [asked("q", "d0", answers=["no", "5"])])
    assert {name for shown, _ in drawn(pool, GONE) for name in shown} == {"d1", "d2", "d3", "d4"}


def test_a_later_question_is_left_out_where_a_document_holds_its_answer_and_is_not_its_evidence():
    documents = numbered(7)
    documents[1]["content"] = "A red kite."
    questions = [asked("q", "d0", answers=["wood"]), asked("r", "d5"), asked("s", "d1", "d6")]
    config = ExampleConfig(max_documents=5, lookups=4, unanswerable_share=0.9, taken_away_share=0.0)
    num_broken = 0
    for shown, turns in drawn(pool_of(documents, questions), config, 100):
        assert not ("d1" in shown and "d5" not in shown and "Is r so?" in turns and "Is q so?" == next(iter(turns)))
        # the half of its evidence that has the answer does not answer alone
        num_broken += turns.get("Is s so?") == ABSTAINS and "d1" in shown
    assert num_broken > 5


def test_where_a_conversation_shrinks_no_question_loses_its_evidence_to_a_document_that_answers_as_well():
    questions = [asked("q", "d0", answers=["wood"]), asked("r", "d5", answers=["5 crowns"], also_ids=["d1"])]
    pool = pool_of(numbered(6), questions, (0, 1, 5), is_exact=True)
    config = ExampleConfig(max_documents=3, lookups=2, unanswerable_share=0.0, taken_away_share=0.0)
    num_shrunk = 0

    def ids(conversation):
        return {one["id"] for one in conversation["messages"][0]["documents"]}

    for seed in range(200):
        (conversation,) = pool.conversations(1, random.Random(seed), config, lambda one: len(ids(one)) < 3)
        if conversation["messages"][1]["content"] == "Is q so?" and ids(conversation) == {"d0", "d1"}:
            assert len(conversation["messages"]) == 3
            num_shrunk += 1
    assert num_shrunk > 5


@pytest.mark.parametrize("questions, num_documents", [
    ([asked("q", "d0")], 1), ([asked("q", "d0")], 2), ([asked("q", answers=())], 3),
    ([asked("q", "d0", "d1", "d2")], 3), ([asked("q", "d0", also_ids=["d1"])], 2),
])
@pytest.mark.parametrize("ranking", [(), (0,)])
@pytest.mark.parametrize("random_share", [0.0, 1.0])
def test_no_context_is_empty_while_there_is_a_document(questions, num_documents, ranking, random_share):
    config = ExampleConfig(max_documents=2, lookups=2, taken_away_share=1.0, random_share=random_share)
    for shown, turns in drawn(pool_of(numbered(num_documents), questions, ranking), config):
        is_answered = set(questions[0]["supporting_ids"]) <= set(shown) and questions[0]["answers"]
        assert 1 <= len(shown) <= 2 and (turns["Is q so?"] != ABSTAINS) == bool(is_answered)


def with_values():
    documents = [{"id": f"d{i}", "title": f"Mill {i}", "content": f"It was built in {1700 + i}."} for i in range(6)]
    return documents, [asked(f"q{i}", f"d{i}", answers=[f"{1700 + i}"]) for i in range(6)]


@pytest.mark.parametrize("fits", [True, False])
def test_without_room_for_a_contradiction_the_answer_is_plain(fits):
    """Either one document may be shown, or the rival makes the conversation too long."""
    config = ExampleConfig(max_documents=1 if fits else 4, lookups=3, rival_share=1.0, taken_away_share=0.0)
    documents, questions = with_values()
    pool = pool_of(documents, questions)
    for seed in range(40):
        (conversation,) = pool.conversations(
            1, random.Random(seed), config, lambda talk: fits or len(talk["messages"][0]["documents"]) == 1)
        shown, user, said, *_ = conversation["messages"]
        assert len(shown["documents"]) == 1 and said["citations"] == [0]
        assert [said["content"]] == next(one["answers"] for one in questions if one["question"] == user["content"])
        assert shown["documents"][0] in documents
