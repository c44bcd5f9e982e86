"""Fictional worlds: every answer is in one document, nothing carries over, the same seed gives the same bytes."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.retrieval.base import make_retriever
from nanochat.retrieval.document import Document
from tasks.world_names import CLOSED_VALUES, ENDINGS, NUMBER_VALUES, num_words
from tasks.world_open import OPEN_VALUES, open_relations
from tasks.world_templates import HELD_OUT
from tasks.worlds import RELATIONS, TYPE_WEIGHTS, World, WorldConfig, make_world

ROOT = Path(__file__).parent.parent
EASIEST = {"min_facts": 1, "max_facts": 1, "pronoun_share": 0.0, "filler_share": 0.0, "min_words": 0}


def digest(world: World) -> str:
    records = [world.documents, [asdict(item) for item in world.questions + world.facts], sorted(world.names)]
    return hashlib.sha256(json.dumps(records).encode()).hexdigest()


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_has_four_wordings_and_two_held_out(relation):
    kind, statements, questions = RELATIONS[relation]
    assert relation.partition(".")[0] in TYPE_WEIGHTS
    assert kind in {**CLOSED_VALUES, **NUMBER_VALUES, **TYPE_WEIGHTS, "river": 0}
    for templates in (statements, questions):
        assert len(set(templates)) == len(templates) >= 4 + HELD_OUT
    for statement in statements:
        slots = re.findall(r"{(.*?)}", statement)
        assert slots.count("V") == 1 and len(slots) == 2 and set(slots) <= set("VSsPpo"), statement
        assert ("S" in slots or "P" in slots) == statement.startswith(("{S}", "{P}")), statement
        assert kind not in CLOSED_VALUES or not statement.startswith("{V}"), statement
    assert all(question.count("{N}") == 1 and question.count("{") == 1 for question in questions)


def test_held_out_questions_of_a_type_are_never_training_questions():
    for type_ in TYPE_WEIGHTS:
        wordings = [value for key, value in RELATIONS.items() if key.startswith(f"{type_}.")]
        trained = [question for wording in wordings for question in wording[2][:-HELD_OUT]]
        held_out = [question for wording in wordings for question in wording[2][-HELD_OUT:]]
        assert len(set(trained + held_out)) == len(trained + held_out), f"two {type_} relations share a question"


def test_names_are_plenty():
    # a training run of 10,000 worlds names some hundred rivers and towns in each; short names keep contexts short
    assert min(num_words(role) for role in ENDINGS) > 100_000


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40), num_entities=st.integers(1, 60), min_facts=st.integers(1, 3), extra=st.integers(0, 3),
    pronoun_share=st.sampled_from((0.0, 0.3, 1.0)), wordings=st.sampled_from(("train", "held_out", "all")),
)
def test_every_fact_and_answer_stands_in_its_document(seed, num_entities, min_facts, extra, pronoun_share, wordings):
    world = make_world(WorldConfig(
        seed=seed, num_entities=num_entities, min_facts=min_facts, max_facts=min_facts + extra, questions_per_entity=3,
        pronoun_share=pronoun_share, statement_wordings=wordings, question_wordings=wordings,
    ))
    documents = {document["id"]: document for document in world.documents}
    stated = {(fact.subject, fact.relation): fact for fact in world.facts}
    assert len(documents) == num_entities and len(stated) == len(world.facts), "an id or a fact appears twice"
    for fact in world.facts:
        document = documents[fact.document_id]
        assert document["content"][fact.start :].startswith(fact.value), fact
        assert fact.subject in document["title"] and fact.subject in document["content"], fact
        assert document["metadata"] == {"type": fact.relation.partition(".")[0]}
    assert all(text.isascii() for document in world.documents for text in (document["title"], document["content"]))
    assert len({question.question for question in world.questions}) == len(world.questions), "a question is asked twice"
    subjects = {fact.subject for fact in world.facts}
    for question in world.questions:
        fact = stated.get((question.subject, question.relation))
        assert question.subject in question.question and question.question.isascii()
        if question.kind == "answerable":
            assert question.answers[0] == fact.value and question.supporting_ids == (fact.document_id,)
        else:
            assert fact is None and question.answers == () == question.supporting_ids
            assert (question.subject in subjects) == (question.kind == "absent_relation"), question


def test_names_of_entities_are_unique_and_some_share_a_word():
    world = make_world(WorldConfig(seed=5))
    subjects = {fact.document_id: fact.subject for fact in world.facts}
    assert len(set(subjects.values())) == len(world.documents) == 200
    words = Counter(word for subject in subjects.values() for word in subject.split())
    shared = sum(any(words[word] > 1 for word in subject.split()) for subject in subjects.values())
    assert shared > 60, f"only {shared} of 200 entities have a near namesake"


def test_same_config_gives_the_same_bytes_under_every_hash_seed():
    code = (
        "from tests.test_tasks_worlds import digest, make_world, WorldConfig;"
        "print(digest(make_world(WorldConfig(seed=3, num_entities=80))))"
    )
    expected = digest(make_world(WorldConfig(seed=3, num_entities=80)))
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == expected


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_excluded_names_never_come_back(seed, other):
    known = make_world(WorldConfig(seed=seed, num_entities=60))
    world = make_world(WorldConfig(seed=other, num_entities=60), exclude_names=known.names)
    assert not known.names & world.names
    assert not {fact.value for fact in world.facts} & known.names


def test_worlds_of_different_seeds_share_hardly_any_names():
    first, second = (make_world(WorldConfig(seed=seed)).names for seed in (1, 2))
    assert len(first & second) <= 0.03 * len(first), f"{len(first & second)} of {len(first)} names in common"


def test_no_constant_guess_per_relation_is_right_more_than_once_in_twenty():
    answers = defaultdict(Counter)
    for seed in range(20):
        for question in make_world(WorldConfig(seed=seed)).questions:
            if question.kind == "answerable":
                answers[question.relation][question.answers[0]] += 1
    total = sum(sum(counter.values()) for counter in answers.values())
    best = sum(counter.most_common(1)[0][1] for counter in answers.values())
    closed = sum(sum(answers[key].values()) for key in RELATIONS if RELATIONS[key][0] in CLOSED_VALUES)
    assert len(answers) == len(RELATIONS)
    assert best / total <= 0.05, f"best constant guess is right in {best} of {total}"
    assert closed / total <= 0.30, f"{closed} of {total} answers come from closed lists"


def test_questions_name_their_entity_clearly_enough_to_be_found():
    world, retriever = make_world(WorldConfig(seed=6)), make_retriever("simple")
    retriever.index([Document.from_dict(document) for document in world.documents])
    questions = [question for question in world.questions if question.kind == "answerable"]
    results = retriever.search([question.question for question in questions], top_k=3)
    found = sum(
        question.supporting_ids[0] in [world.documents[position]["id"] for position, _ in hits]
        for question, hits in zip(questions, results, strict=True)
    )
    assert found / len(questions) >= 0.97, f"{found} of {len(questions)} among the first three"


def test_unanswerable_share_and_kinds_are_as_asked():
    questions = [question for seed in range(5) for question in make_world(WorldConfig(seed=seed)).questions]
    kinds = Counter(question.kind for question in questions)
    share = 1 - kinds["answerable"] / len(questions)
    assert 0.17 <= share <= 0.23, kinds
    assert 0.4 <= kinds["absent_relation"] / (kinds["absent_relation"] + kinds["absent_entity"]) <= 0.6, kinds


def test_documents_stay_short_and_refer_back():
    contents = [document["content"] for document in make_world(WorldConfig(seed=8)).documents]
    lengths = sorted(len(content.split()) for content in contents)
    assert lengths[0] >= 20 and 30 <= sum(lengths) / len(lengths) <= 50 and lengths[-1] <= 80, lengths
    back = re.compile(r"\b(he|she|his|her|him|it|its|the (town|book|novel|play|policy))\b", re.IGNORECASE)
    assert 0.3 <= sum(bool(back.search(content)) for content in contents) / len(contents)


def test_easiest_stage_is_one_fact_in_one_sentence_with_the_full_name():
    relations = ("person.birthplace", "place.river")
    world = make_world(WorldConfig(seed=1, num_entities=50, relations=relations, unanswerable_share=0.0, **EASIEST))
    assert len(world.facts) == len(world.questions) == 50 and {fact.relation for fact in world.facts} == set(relations)
    for document, fact in zip(world.documents, world.facts, strict=True):
        assert document["content"].count(".") == 1 and fact.subject in document["content"]


def test_held_out_wordings_differ_from_training_wordings():
    train = make_world(WorldConfig(seed=2))
    held_out = make_world(WorldConfig(seed=2, statement_wordings="held_out", question_wordings="held_out"))

    def frames(world: World) -> set[str]:
        return {question.question.replace(question.subject, "N") for question in world.questions}

    assert len(frames(train)) > 90 and len(frames(held_out)) > 45 and not frames(train) & frames(held_out)


def test_question_record_has_the_fields_of_a_question_file():
    record = make_world(WorldConfig(seed=0, num_entities=5)).questions[0].to_dict()
    assert list(record) == ["id", "question", "answers", "supporting_ids", "hops", "kind"]
    assert json.loads(json.dumps(record)) == record


def test_open_relations_are_new_in_every_world_and_their_words_stand_in_question_and_document():
    worlds = [make_world(WorldConfig(seed=seed, open_relations=6)) for seed in (1, 2)]
    own = [set(world.relations) - set(RELATIONS) for world in worlds]
    assert all(len(names) == 6 * len(TYPE_WEIGHTS) for names in own)
    assert len(own[0] & own[1]) < 0.1 * len(own[0])
    world, seen = worlds[0], 0
    content = {document["id"]: document["content"] for document in world.documents}
    for question in world.questions:
        if question.relation in own[0]:
            words = question.relation.partition(".")[2].replace("_", " ")
            assert words in question.question
            if question.answers:
                seen += 1
                assert words in content[question.supporting_ids[0]] and question.answers[0] in content[
                    question.supporting_ids[0]]
    assert seen > 50
    assert sum(fact.relation in own[0] for fact in world.facts) == pytest.approx(len(world.facts) / 2, rel=0.15)


def test_open_relations_have_values_that_no_list_has():
    world = make_world(WorldConfig(seed=1, open_relations=6))
    values = [fact.value for fact in world.facts if world.relations[fact.relation][0] in OPEN_VALUES]
    assert len(values) > 50 and len(set(values)) > 0.95 * len(values)
    assert sum(value[0].isdigit() for value in values) == pytest.approx(len(values) / 2, rel=0.5)


def test_words_of_open_relations_kept_for_evaluation_are_in_no_training_world():
    def words(kept: str) -> set[str]:
        tables = [open_relations(seed, list(TYPE_WEIGHTS), 20, kept) for seed in range(40)]
        return {word for table in tables for name in table for word in name.partition(".")[2].split("_")}

    train, held_out = words("train"), words("held_out")
    assert len(train) > 150 and len(held_out) > 45 and not train & held_out
    assert words("all") <= train | held_out


def test_titles_that_do_not_name_the_subject_leave_it_to_the_text():
    world = make_world(WorldConfig(seed=3, untold_title_share=0.5))
    names = {fact.document_id: fact.subject for fact in world.facts}
    untold = [document for document in world.documents if names[document["id"]] not in document["title"]]
    assert len(untold) == pytest.approx(len(world.documents) / 2, rel=0.2)
    assert all(names[document["id"]] in document["content"] for document in untold)


def test_casual_questions_are_the_same_questions_typed_in_passing():
    made = make_world(WorldConfig(seed=4, casual_share=0.5, unanswerable_share=0.0, open_relations=3))
    formal = {re.escape(wording).replace(re.escape("{N}"), ".+") for _, _, asked in made.relations.values()
              for wording in asked}
    is_formal = re.compile("|".join(formal))
    casual = [question.question for question in made.questions if not is_formal.fullmatch(question.question)]
    assert len(casual) == pytest.approx(len(made.questions) / 2, rel=0.2)
    assert any(text[0].islower() for text in casual) and any(": " in text or ". " in text for text in casual)
    assert all(question.subject in question.question for question in made.questions)


@pytest.mark.parametrize("setting", [
    {"min_facts": 0}, {"min_facts": 4, "max_facts": 3}, {"pronoun_share": 1.5}, {"relations": ("person.shoe",)},
    {"statement_wordings": "test"}, {"num_entities": 0}, {"open_relations": -1}, {"open_words": "test"},
    {"untold_title_share": 2.0},
])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ValueError, match="|".join(setting)[:8]):
        WorldConfig(**setting)
