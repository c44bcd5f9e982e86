"""Practice: what is asked for stands in the context, only what must be written is supervised, and seeds decide."""

import random

import pytest

from nanochat.rag.packing import render_all
from nanochat.rag.pool import ExampleConfig
from nanochat.rag.practice import EXAMPLES, STAGES, PracticeWorld, copy_example, recall_example
from nanochat.tokenizer import Tokenizer

WORLD = PracticeWorld(7, {"num_entities": 60}, "simple")
TOKENIZER = Tokenizer.train(
    [f" {document['title']} {document['content']}" for document in WORLD.world.documents], 800
)
POOLED = {"keys": "key_pool", "read": "pool"}


def pieces(rendered):
    """Runs of given (0) and supervised (1) tokens as text, bos left out."""
    runs = []
    for token, mask in zip(rendered.ids, rendered.mask, strict=True):
        if not runs or runs[-1][1] != mask:
            runs.append(([], mask))
        runs[-1][0].append(token)
    return [(TOKENIZER.decode(ids), mask) for ids, mask in runs]


def test_copying_repeats_sentences_of_the_documents():
    for seed in range(20):
        given, repeated = pieces(copy_example(WORLD, TOKENIZER, random.Random(seed), 10_000))
        assert (given[1], repeated[1]) == (0, 1)
        assert 1 <= given[0].count("\n") / 2 <= 3
        contents = [line.strip() for line in given[0].split("\n")[1::2]]
        assert sorted(repeated[0]) == sorted("".join(f" {content}" for content in contents))
        assert all(f"{sentence.strip()}." in given[0] for sentence in repeated[0].split(". ")[:-1])


def test_every_recalled_value_follows_from_its_key_in_the_given_list():
    num_shared = 0
    for seed in range(40):
        runs = pieces(recall_example(WORLD, TOKENIZER, random.Random(seed), 10_000))
        # given list and first key, value, key, value ...
        *given, first_key = runs[0][0].split("\n")
        table = dict(line.strip().split(": ", 1) for line in given)
        assert len(table) == len(given), "a key stands twice, so its value is not determined"
        keys = [first_key, *(text for text, mask in runs[1:] if mask == 0)]
        values = [text for text, mask in runs if mask == 1]
        asked = [key.strip().removesuffix(":") for key in keys]
        assert [table[key] for key in asked] == [value.strip() for value in values]
        assert sorted(asked) == sorted(table), "every fact is asked once"
        assert all(value.endswith("\n") for value in values)
        num_shared += any(sum(other.startswith(key.rsplit(" ", 1)[0]) for other in table) > 1 for key in table)
    assert num_shared > 10, "a subject alone must not tell which value is meant"


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_keep_to_their_length_and_their_random_numbers(kind):
    example = EXAMPLES[kind]
    whole = example(WORLD, TOKENIZER, random.Random(1), 10_000)
    cut = example(WORLD, TOKENIZER, random.Random(1), 50)
    assert whole == example(WORLD, TOKENIZER, random.Random(1), 10_000)
    assert whole != example(WORLD, TOKENIZER, random.Random(2), 10_000)
    assert (cut.ids, cut.mask) == (whole.ids[:50], whole.mask[:50]) and len(whole.ids) > 50
    assert whole.ids[0] == TOKENIZER.special("bos") and not any(map(TOKENIZER.is_reserved, whole.ids[1:]))


def test_lists_of_facts_state_what_is_asked_and_nothing_else():
    pool = WORLD.key_pool
    facts = {(fact.subject, fact.value) for fact in WORLD.world.facts}
    by_id = {document["id"]: document for document in pool.documents}
    title_of = {document["id"]: document["title"] for document in WORLD.world.documents}
    subject_of = {title_of[fact.document_id]: fact.subject for fact in WORLD.world.facts}
    answerable = [question for question in pool.questions if question["answers"]]
    for question in answerable:
        (document_id,) = question["supporting_ids"]
        subject = subject_of[by_id[document_id]["title"]]
        relation = question["question"].removeprefix(f"{subject} ")
        assert f"{relation}: {question['answers'][0]}" in by_id[document_id]["content"].split("\n")
        assert (subject, question["answers"][0]) in facts
    assert len({document["title"] for document in pool.documents}) == len(pool.documents)
    assert any(title != subject for title, subject in subject_of.items())
    assert len({question["question"] for question in pool.questions}) == len(pool.questions)
    assert sum(document["content"].count("\n") + 1 for document in pool.documents) == len(answerable)
    for question in pool.unanswerable:
        (document_id,) = question["about_ids"]
        relation = question["question"].removeprefix(f"{subject_of[by_id[document_id]['title']]} ")
        assert question["question"] != relation and f"{relation}:" not in by_id[document_id]["content"]
    assert len(pool.unanswerable) > len(answerable) / 2


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_gives_examples_with_something_to_write(name):
    stage = STAGES[name]
    world = PracticeWorld(9, {**stage.world, "num_entities": 40}, "simple")
    if stage.kind in POOLED:
        conversations = getattr(world, POOLED[stage.kind]).conversations(8, random.Random(0), stage.examples)
        rendered = render_all(conversations, TOKENIZER, row_len=2000)
    else:
        rendered = [EXAMPLES[stage.kind](world, TOKENIZER, random.Random(seed), 2000) for seed in range(8)]
    assert all(sum(item.mask) > 0 for item in rendered)
    assert 0 < stage.gate < 1 and isinstance(stage.examples, ExampleConfig)


@pytest.mark.parametrize("name", STAGES)
def test_worlds_of_a_stage_repeat_by_seed_and_differ_by_seed(name):
    settings = {**STAGES[name].world, "num_entities": 20}
    first, again, other = (PracticeWorld(seed, settings, "simple") for seed in (4, 4, 5))
    assert first.world.documents == again.world.documents
    assert first.key_pool.documents == again.key_pool.documents
    assert not {d["title"] for d in first.key_pool.documents} & {d["title"] for d in other.key_pool.documents}
