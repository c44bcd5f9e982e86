"""Reading examples: what is shown, what is asked of it, and an abstention exactly when the evidence is not there."""

import random
from collections import Counter

import pytest

from nanochat.conversation import check_conversation
from nanochat.errors import ConfigError
from nanochat.rag.pool import ExampleConfig, Pool
from nanochat.rag.practice import make_pool
from tasks.worlds import WorldConfig, make_world

WORLD = make_world(WorldConfig(seed=3, num_entities=40, questions_per_entity=3))
QUESTIONS = [question.to_dict() for question in WORLD.questions]
POOL = make_pool(WORLD.documents, QUESTIONS, "simple")
CONFIGS = [
    ExampleConfig(),
    ExampleConfig(max_documents=1, lookups=1),
    ExampleConfig(max_documents=3, lookups=12, unanswerable_share=0.0, taken_away_share=0.0, random_share=1.0),
    ExampleConfig(max_documents=9, lookups=4, unanswerable_share=1.0, taken_away_share=0.9, shuffle_share=0.0,
                  random_share=0.0),
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
    assert num_abstentions > 20 and (num_answers > 20 or config.unanswerable_share == 1.0)


@pytest.mark.parametrize("config", CONFIGS)
def test_no_document_and_no_question_comes_twice(config):
    for conversation in POOL.conversations(200, random.Random(1), config):
        shown = shown_in(conversation)
        assert len(set(shown)) == len(shown) <= config.max_documents
        asked = [record["id"] for record, _ in turns_of(conversation)]
        assert len(set(asked)) == len(asked) <= config.lookups


@pytest.mark.parametrize("config", CONFIGS)
def test_the_number_of_documents_is_drawn_evenly_where_the_retriever_finds_enough(config):
    ranking = range(20)
    pool = Pool(numbered(20), [question("q", "d3"), question("r", answers=())], fixed_search(*ranking))
    counts = Counter()
    for seed in range(600):
        counts[len(shown_in(pool.conversations(1, random.Random(seed), config)[0]))] += 1
    assert set(counts) == set(range(1, config.max_documents + 1))
    assert min(counts.values()) > 0.6 * 600 / config.max_documents, counts


def test_a_retriever_that_finds_little_shows_little_but_never_nothing():
    config = ExampleConfig(taken_away_share=1.0, random_share=0.0)
    pool = Pool(numbered(9), [question("q", "d0")], fixed_search(0))
    shown = set()
    for seed in range(60):
        (conversation,) = pool.conversations(1, random.Random(seed), config)
        assert len(shown_in(conversation)) == 1 and conversation["messages"][2]["abstain"]
        shown |= set(shown_in(conversation))
    assert shown == {f"d{i}" for i in range(1, 9)}, "the place of the evidence is taken by any other document"


def test_first_questions_differ_as_long_as_there_are_enough():
    conversations = POOL.conversations(len(QUESTIONS) + 5, random.Random(2), ExampleConfig(lookups=1))
    first = [turns_of(conversation)[0][0]["id"] for conversation in conversations]
    assert set(first[: len(QUESTIONS)]) == {record["id"] for record in QUESTIONS}
    assert len(first) == len(QUESTIONS) + 5


@pytest.mark.parametrize("random_share", [0.0, 1.0])
def test_evidence_that_is_taken_away_is_not_shown_nor_is_a_copy_of_it(random_share):
    documents = [*numbered(8), {"id": "copy", "title": "Another", "content": "Content 0."}]
    pool = Pool(documents, [question("q", "d0")], fixed_search(8, 0, 3, 2, 1))
    gone = ExampleConfig(max_documents=4, lookups=1, taken_away_share=1.0, random_share=random_share)
    for seed in range(30):
        (conversation,) = pool.conversations(1, random.Random(seed), gone)
        assert not {"d0", "copy"} & set(shown_in(conversation))
        assert conversation["messages"][-1] == {"role": "assistant", "content": "", "abstain": True}


@pytest.mark.parametrize("random_share", [0.0, 1.0])
@pytest.mark.parametrize("ranking", [(0, 3, 2), (3, 2, 0), (3, 2, 1), ()])
def test_evidence_that_stays_is_shown_wherever_the_retriever_ranks_it(random_share, ranking):
    pool = Pool(numbered(8), [question("q", "d0")], fixed_search(*ranking))
    for seed in range(30):
        config = ExampleConfig(max_documents=3, lookups=1, taken_away_share=0.0, random_share=random_share)
        (conversation,) = pool.conversations(1, random.Random(seed), config)
        assert shown_in(conversation).count("d0") == 1 and len(shown_in(conversation)) <= 3
        assert conversation["messages"][-1]["citations"] == [shown_in(conversation).index("d0")]


def test_without_shuffling_documents_keep_the_retrievers_order_and_missing_evidence_comes_last():
    config = ExampleConfig(max_documents=3, lookups=1, taken_away_share=0.0, shuffle_share=0.0, random_share=0.0)
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
        config = ExampleConfig(max_documents=max_documents, lookups=1, taken_away_share=0.0)
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
    (conversation,) = pool.conversations(1, random.Random(0), ExampleConfig(taken_away_share=0.0))
    assert conversation["messages"][-1]["abstain"] and shown_in(conversation)


def test_random_distractors_are_not_those_of_the_retriever():
    pool = Pool(numbered(30), [question("q", "d0")], fixed_search(1, 2, 3, 4, 5))
    for share, expected in ((0.0, 4), (1.0, 30)):
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


def test_most_later_questions_without_answer_are_close_to_what_is_shown():
    """About documents that were found and not shown, or about the subject of a shown one that does not answer."""
    questions = [question(f"q{i}", f"d{i}") for i in range(40)]
    questions += [question(f"n{i}", answers=()) | {"about_ids": [f"d{i}"]} for i in range(40)]
    pool = Pool(numbered(40), questions, fixed_search(*range(8)))
    config = ExampleConfig(max_documents=4, lookups=6, unanswerable_share=0.5, random_share=0.0)
    near = far = about = 0
    for conversation in pool.conversations(80, random.Random(0), config):
        shown = {int(name[1:]) for name in shown_in(conversation)}
        for asked in conversation["messages"][3::2]:
            kind, number = asked["content"].split()[1][0], int(asked["content"].split()[1][1:])
            is_about = kind == "n" and number in shown
            is_near = kind == "q" and number in set(range(6)) - shown
            is_answered = kind == "q" and number in shown
            about, near, far = about + is_about, near + is_near, far + (not (is_about or is_near or is_answered))
    assert near > 10 and about > 10 and far > 5 and near + about > far, (near, about, far)


def lengths(conversation):
    return len(shown_in(conversation)), len(conversation["messages"]) // 2


@pytest.mark.parametrize("limit", [4, 1])
def test_a_conversation_that_does_not_fit_loses_questions_and_distractors_but_not_its_evidence(limit):
    config = ExampleConfig(max_documents=5, lookups=6, taken_away_share=0.3)
    free = POOL.conversations(80, random.Random(7), config)
    tight = POOL.conversations(80, random.Random(7), config, lambda talk: sum(lengths(talk)) <= limit)
    for conversation, whole in zip(tight, free, strict=True):
        if sum(lengths(whole)) <= limit:
            assert conversation == whole
            continue
        (record, said), (_, before) = turns_of(conversation)[0], turns_of(whole)[0]
        assert said.get("abstain") == before.get("abstain")
        assert set(shown_in(conversation)) <= set(shown_in(whole))
        # one document that does not answer stays
        num_needed = 1 if said.get("abstain") else len(record["supporting_ids"])
        assert lengths(conversation) == (num_needed, 1) or sum(lengths(conversation)) <= limit
        for record, said in turns_of(conversation):
            is_answered = bool(record["answers"]) and set(record["supporting_ids"]) <= set(shown_in(conversation))
            assert said.get("abstain", False) != is_answered


def test_the_random_numbers_decide_and_retrieval_runs_once():
    calls = []

    def search(queries, top_k):
        calls.append(len(queries))
        return POOL.search(queries, top_k)

    pool = Pool(WORLD.documents, QUESTIONS, search, is_exact=True)
    first = pool.conversations(10, random.Random(5), ExampleConfig())
    assert first == POOL.conversations(10, random.Random(5), ExampleConfig())
    assert first != POOL.conversations(10, random.Random(6), ExampleConfig())
    assert calls == [10]


def test_nothing_wanted_gives_nothing():
    assert POOL.conversations(0, random.Random(0), ExampleConfig()) == []


@pytest.mark.parametrize("name, value", [
    ("max_documents", 0), ("max_documents", 33), ("lookups", 0), ("unanswerable_share", -0.1), ("random_share", 1.01),
    ("first_absent_share", 2), ("injected_share", float("nan")),
])
def test_settings_that_cannot_be_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value}, must"):
        ExampleConfig(**{name: value})
    assert ExampleConfig(max_documents=32, first_absent_share=1, edited_share=0).max_documents == 32
