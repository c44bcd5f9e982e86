"""Reading examples: what is shown, what is asked of it, and an abstention exactly when the evidence is not there."""

import random

import pytest

from nanochat.conversation import check_conversation
from nanochat.rag.pool import ExampleConfig, Pool
from nanochat.rag.practice import make_pool
from tasks.worlds import WorldConfig, make_world

WORLD = make_world(WorldConfig(seed=3, num_entities=40, questions_per_entity=3))
QUESTIONS = [question.to_dict() for question in WORLD.questions]
POOL = make_pool(WORLD.documents, QUESTIONS, "simple")
CONFIGS = [
    ExampleConfig(),
    ExampleConfig(max_documents=1, lookups=1),
    ExampleConfig(max_documents=3, lookups=12, unanswerable_share=0.0, random_share=1.0),
    ExampleConfig(max_documents=9, lookups=4, unanswerable_share=1.0, shuffle_share=0.0, random_share=0.0),
]


def numbered(count):
    return [{"id": f"d{i}", "title": f"Title {i}", "content": f"Content {i}."} for i in range(count)]


def question(name, *supporting, answers=("yes",)):
    return {"id": name, "question": f"Is {name} so?", "answers": list(answers), "supporting_ids": list(supporting)}


def fixed_search(*ranking):
    """A retriever that finds the same documents for every query."""
    return lambda queries, top_k: [list(ranking[:top_k]) for _ in queries]


def shown_in(conversation):
    return [document["id"] for document in conversation["messages"][0]["documents"]]


def turns_of(conversation):
    """(question record, assistant message) of every turn of a conversation over WORLD."""
    by_text = {record["question"]: record for record in QUESTIONS}
    messages = conversation["messages"][1:]
    return [(by_text[user["content"]], said) for user, said in zip(messages[::2], messages[1::2], strict=True)]


@pytest.mark.parametrize("config", CONFIGS)
def test_an_answer_cites_its_evidence_and_without_it_is_an_abstention(config):
    num_answers = num_abstentions = 0
    for conversation in POOL.conversations(200, random.Random(0), config):
        check_conversation(conversation)
        shown = shown_in(conversation)
        for record, said in turns_of(conversation):
            is_answered = bool(record["answers"]) and set(record["supporting_ids"]) <= set(shown)
            assert said.get("abstain", False) != is_answered, (record, shown)
            if is_answered:
                assert said["content"] == record["answers"][0]
                assert {shown[slot] for slot in said["citations"]} == set(record["supporting_ids"])
            num_answers += is_answered
            num_abstentions += not is_answered
    assert num_abstentions > 20
    assert num_answers > 20 or (config.lookups, config.max_documents) == (1, 1) and num_answers > 0


@pytest.mark.parametrize("config", CONFIGS)
def test_one_to_max_documents_are_shown_and_none_twice(config):
    counts = set()
    for conversation in POOL.conversations(300, random.Random(1), config):
        shown = shown_in(conversation)
        assert len(set(shown)) == len(shown)
        counts.add(len(shown))
        asked = [record["id"] for record, _ in turns_of(conversation)]
        assert len(set(asked)) == len(asked) <= config.lookups
    assert counts == set(range(1, config.max_documents + 1))


def test_first_questions_differ_as_long_as_there_are_enough():
    conversations = POOL.conversations(len(QUESTIONS) + 5, random.Random(2), ExampleConfig(lookups=1))
    first = [turns_of(conversation)[0][0]["id"] for conversation in conversations]
    assert set(first[: len(QUESTIONS)]) == {record["id"] for record in QUESTIONS}
    assert len(first) == len(QUESTIONS) + 5


@pytest.mark.parametrize("random_share", [0.0, 1.0])
def test_evidence_that_is_taken_away_is_not_shown_nor_is_a_copy_of_it(random_share):
    documents = [*numbered(8), {"id": "copy", "title": "Another", "content": "Content 0."}]
    pool = Pool(documents, [question("q", "d0")], fixed_search(8, 0, 3, 2, 1))
    gone = ExampleConfig(max_documents=4, lookups=1, unanswerable_share=1.0, random_share=random_share)
    for seed in range(30):
        (conversation,) = pool.conversations(1, random.Random(seed), gone)
        assert not {"d0", "copy"} & set(shown_in(conversation))
        assert conversation["messages"][-1] == {"role": "assistant", "content": "", "abstain": True}


@pytest.mark.parametrize("random_share", [0.0, 1.0])
@pytest.mark.parametrize("ranking", [(0, 3, 2), (3, 2, 0), (3, 2, 1), ()])
def test_evidence_that_stays_is_shown_wherever_the_retriever_ranks_it(random_share, ranking):
    pool = Pool(numbered(8), [question("q", "d0")], fixed_search(*ranking))
    for seed in range(30):
        config = ExampleConfig(max_documents=3, lookups=1, unanswerable_share=0.0, random_share=random_share)
        (conversation,) = pool.conversations(1, random.Random(seed), config)
        assert shown_in(conversation).count("d0") == 1 and len(shown_in(conversation)) <= 3
        assert conversation["messages"][-1]["citations"] == [shown_in(conversation).index("d0")]


def test_without_shuffling_documents_keep_the_retrievers_order_and_missing_evidence_comes_last():
    config = ExampleConfig(max_documents=3, lookups=1, unanswerable_share=0.0, shuffle_share=0.0, random_share=0.0)
    shown = {}
    for name, ranking in {"found": (5, 0, 4, 3, 2), "low": (5, 4, 3, 0, 2), "missed": (5, 4, 3, 2, 1)}.items():
        pool = Pool(numbered(8), [question("q", "d0")], fixed_search(*ranking))
        conversations = [pool.conversations(1, random.Random(seed), config)[0] for seed in range(40)]
        shown[name] = {tuple(shown_in(conversation)) for conversation in conversations}
    assert shown["found"] == {("d0",), ("d5", "d0"), ("d5", "d0", "d4")}
    assert shown["low"] == shown["missed"] == {("d0",), ("d5", "d0"), ("d5", "d4", "d0")}


def test_an_answer_that_needs_several_documents_gets_all_of_them_or_is_an_abstention():
    pool = Pool(numbered(8), [question("q", "d0", "d1", "d1", "d2")], fixed_search(4, 1, 5, 6, 7))
    for max_documents in (2, 3, 5):
        config = ExampleConfig(max_documents=max_documents, lookups=1, unanswerable_share=0.0)
        for seed in range(30):
            (conversation,) = pool.conversations(1, random.Random(seed), config)
            shown, said = shown_in(conversation), conversation["messages"][-1]
            assert len(set(shown)) == len(shown) <= max_documents
            if max_documents < 3:
                assert said["abstain"] and not {"d0", "d1", "d2"} & set(shown)
            else:
                assert [shown[slot] for slot in sorted(said["citations"])] == [d for d in shown if d < "d3"]
                assert len(said["citations"]) == 3


def test_a_question_that_nothing_answers_is_an_abstention():
    pool = Pool(numbered(3), [question("q", answers=())], fixed_search(0, 1, 2))
    (conversation,) = pool.conversations(1, random.Random(0), ExampleConfig(unanswerable_share=0.0))
    assert conversation["messages"][-1]["abstain"] and shown_in(conversation)


def test_random_distractors_are_not_those_of_the_retriever():
    pool = Pool(numbered(30), [question("q", "d0")], fixed_search(1, 2, 3, 4, 5))
    for share, expected in ((0.0, 6), (1.0, 30)):
        config = ExampleConfig(max_documents=3, lookups=1, random_share=share)
        conversations = [pool.conversations(1, random.Random(seed), config)[0] for seed in range(200)]
        assert len({name for conversation in conversations for name in shown_in(conversation)}) == expected


def test_later_questions_are_about_the_shown_documents_and_some_about_others():
    config = ExampleConfig(max_documents=4, lookups=6, unanswerable_share=0.25)
    here = elsewhere = 0
    for conversation in POOL.conversations(200, random.Random(4), config):
        for record, _ in turns_of(conversation)[1:]:
            is_here = set(record["supporting_ids"]) <= set(shown_in(conversation)) and record["supporting_ids"]
            here, elsewhere = here + bool(is_here), elsewhere + (not is_here)
    assert 0.1 < elsewhere / (here + elsewhere) < 0.5, (here, elsewhere)


def test_the_random_numbers_decide_and_retrieval_runs_once():
    calls = []

    def search(queries, top_k):
        calls.append(len(queries))
        return POOL.search(queries, top_k)

    pool = Pool(WORLD.documents, QUESTIONS, search)
    first = pool.conversations(10, random.Random(5), ExampleConfig())
    assert first == POOL.conversations(10, random.Random(5), ExampleConfig())
    assert first != POOL.conversations(10, random.Random(6), ExampleConfig())
    assert calls == [10]


def test_nothing_wanted_gives_nothing():
    assert POOL.conversations(0, random.Random(0), ExampleConfig()) == []
